"""The rule on folders where the table of docs/data.md says nothing; tests/test_doors.py has the table."""

from __future__ import annotations

import pytest

from everclip.data.layout import arrange, left_out_of, part_named, refuse_tasks, steps_of
from everclip.errors import InputError


def classes(*paths: str, called: str = "photos") -> dict[str, str]:
    """Path → part/class."""
    steps = [steps_of(path) for path in paths]
    layout = arrange(steps, called, "here")
    refuse_tasks(layout, steps, "here")
    return {paths[place.row]: f"{place.part or ''}/{place.folder}" for place in layout.places}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train", "train"), ("TRAINING", "train"), ("train_set", "train"), ("Training-Set", "train"),
        ("val", "valid"), ("valid", "valid"), ("Validation", "valid"), ("validation set", "valid"),
        ("test", "test"), ("Testing", "test"), ("eval", "test"), ("testset", "test"),
        ("trains", None), ("set", None), ("", None), ("contest", None),
    ],
)  # fmt: skip
def test_parts_in_any_case_and_spelling(name: str, part: str | None) -> None:
    assert part_named(name) == part


def test_every_system_writes_paths_in_its_own_way() -> None:
    assert steps_of("a/b.png") == steps_of(r"a\b.png") == steps_of("/a/./b.png") == steps_of("../a//b.png")


def test_folders_that_sort_by_date_or_device_are_no_classes() -> None:
    for shared in ("2021", "2021-05", "may 2021", "IMAGES", "100CANON", "DCIM/100CANON", "summer_2020", "01/02"):
        found = classes(f"cat/{shared}/1.jpg", f"dog/{shared}/2.jpg")
        assert set(found.values()) == {"/cat", "/dog"}, shared
    assert set(classes("robin/robin/2021/1.jpg", called="robin").values()) == {"/robin"}


@pytest.mark.parametrize(
    "paths",
    [
        ("a/cat/1.jpg", "b/cat/1.jpg"),
        ("a/2021/cat/1.jpg", "b/images/Cat/1.jpg"),
        ("a/cat/1.jpg", "a/dog/1.jpg", "b/cat/1.jpg", "b/hen/1.jpg"),
        ("a/cat/1.jpg", "b/cat/1.jpg", "b/2.jpg"),
        ("birds/train/robin/1.jpg", "cars/train/bmw/1.jpg"),
        ("train/a/cat/1.jpg", "train/b/cat/1.jpg", "test/a/cat/2.jpg"),
        ("photos/a/cat/1.jpg", "photos/b/cat/1.jpg"),
    ],
)
def test_what_may_be_tasks_is_refused_with_both_readings(paths: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"^here can be read in two ways: .* may be classes, or tasks") as refusal:
        classes(*paths)
    assert "--tasks FOLDER" in str(refusal.value)


@pytest.mark.parametrize(
    "paths",
    [
        ("a/cat/1.jpg", "b/dog/1.jpg"),
        ("a/cat/1.jpg", "a/cat/2.jpg", "a/dog/1.jpg"),
        ("a/cat/1.jpg", "b/cat/1.jpg", "b/2.jpg", "b/3.jpg", "a/4.jpg"),
    ],
)
def test_what_shares_little_is_taken_as_classes(paths: tuple[str, ...]) -> None:
    assert set(classes(*paths).values()) <= {"/a", "/b"}


def test_what_is_left_out_is_counted_in_words() -> None:
    assert left_out_of({}) == ""
    assert left_out_of({".mov": 1}) == "1 file left out: 1 .mov"
    assert left_out_of({".xmp": 2, ".mov": 38}) == "40 files left out: 38 .mov, 2 .xmp"
    assert left_out_of({"image in no class folder": 2}) == "2 files left out: 2 images in no class folder"
    layout = arrange([("a", "1.jpg"), ("a", "README"), ("b", "x.MOV"), ("2.jpg",)], "here", "here")
    assert left_out_of(layout.left_out) == "3 files left out: 1 .mov, 1 image in no class folder, 1 without a suffix"
    assert layout.empty == ["b"]
