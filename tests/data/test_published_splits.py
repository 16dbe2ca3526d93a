"""Splits that are files: noted once and verified, or of CoOp."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests import miniatures
from tests.miniatures import read_mark
from torch.utils.data import random_split

from everclip.data import ImageSource
from everclip.data.published import PUBLISHED, open_published
from everclip.data.published.splits import SPLIT_FILE, read_split, write_split
from everclip.errors import InputError


def names(images: ImageSource) -> list[str]:
    return [images.name(index) for index in range(len(images))]


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return miniatures.write("sun397", tmp_path)


def refused(root: Path, splits: str = "torchvision", name: str = "sun397") -> str:
    with pytest.raises(InputError) as error:
        open_published(PUBLISHED[name], root, splits)
    return str(error.value)


# -- drawn once --------------------------------------------------------------------------------------------------------


def test_the_split_is_the_published_one(scenes: Path) -> None:
    """`random_split` of the listed files with a generator of seed 42, int(0.8 N) of them for training."""
    whole = PUBLISHED["sun397"].parts(scenes).train
    train, test = random_split(sorted(names(whole)), [7, 2], generator=torch.Generator().manual_seed(42))
    data = open_published(PUBLISHED["sun397"], scenes.parent)
    assert set(names(data.train)) == set(train)
    assert set(names(data.test)) == set(test)


def test_what_was_drawn_holds_and_is_not_drawn_again(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(open_published(PUBLISHED["sun397"], scenes.parent).train)
    monkeypatch.setattr("everclip.data.published.splits.random_split", None)
    assert names(open_published(PUBLISHED["sun397"], scenes.parent).train) == before


def test_the_split_survives_a_move(scenes: Path, tmp_path: Path) -> None:
    before = [Path(name).name for name in names(open_published(PUBLISHED["sun397"], tmp_path).train)]
    (tmp_path / "moved").mkdir()
    scenes.rename(tmp_path / "moved" / "sun397")
    after = [Path(name).name for name in names(open_published(PUBLISHED["sun397"], tmp_path / "moved").train)]
    assert after == before


def test_a_set_without_its_split_is_not_read(scenes: Path) -> None:
    (scenes / SPLIT_FILE).unlink()
    message = refused(scenes.parent)
    assert all(words in message for words in (SPLIT_FILE, f"everclip data prepare sun397 --root {scenes.parent}"))
    assert not (scenes / SPLIT_FILE).exists()


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"seed": 42}', '{"seed": 42, "files": "", "train": ["1"], "train_sha256": ""}']
)
def test_a_split_that_is_no_split(scenes: Path, content: str) -> None:
    (scenes / SPLIT_FILE).write_text(content)
    message = refused(scenes.parent)
    assert f"{scenes / SPLIT_FILE} can't be read; remove it and run" in message


@pytest.mark.parametrize(
    "change", [lambda train: train[:-1], lambda train: [*train[:-1], 99], lambda train: [8, *train]]
)
def test_a_split_with_other_indices_is_damaged(scenes: Path, change) -> None:
    path = scenes / SPLIT_FILE
    split = json.loads(path.read_text())
    path.write_text(json.dumps({**split, "train": change(split["train"])}))
    assert "damaged" in refused(scenes.parent)


def test_other_files_than_those_it_was_drawn_for(scenes: Path) -> None:
    path = scenes / "SUN397" / "a" / "abbey" / "sun_b.jpg"
    path.rename(path.with_name("sun_d.jpg"))
    assert f"not those that {SPLIT_FILE} was drawn for" in refused(scenes.parent)
    path.with_name("sun_d.jpg").rename(path)
    miniatures.write_image(path.with_name("sun_e.jpg"), 0)
    assert f"not those that {SPLIT_FILE} was drawn for" in refused(scenes.parent)


def test_the_note_says_what_it_is(scenes: Path) -> None:
    whole = PUBLISHED["sun397"].parts(scenes).train
    before = (scenes / SPLIT_FILE).read_bytes()
    write_split(scenes, whole)
    assert (scenes / SPLIT_FILE).read_bytes() == before
    split = json.loads(before)
    assert (split["seed"], len(split["train"]), set(split)) == (42, 7, {"seed", "files", "train", "train_sha256"})
    train, test = read_split(scenes, whole)
    assert sorted(names(train) + names(test)) == sorted(names(whole))


# -- CoOp's ------------------------------------------------------------------------------------------------------------

SPLIT = {
    "train": [["a/airplane_cabin/sun_a.jpg", 0, "airplane_cabin"], ["a/abbey/sun_a.jpg", 1, "abbey"]],
    "val": [["a/abbey/sun_b.jpg", 1, "abbey"]],
    "test": [["a/abbey/sun_c.jpg", 1, "abbey"]],
}


def coop(folder: Path, **changed: object) -> Path:
    (folder / "split_zhou_SUN397.json").write_text(json.dumps({**SPLIT, **changed}))
    return folder.parent


def test_a_split_of_coop_brings_its_own_labels_and_names(scenes: Path) -> None:
    data = open_published(PUBLISHED["sun397"], coop(scenes), "coop")
    assert data.class_names == ("airplane cabin", "abbey")
    assert data.templates == PUBLISHED["sun397"].templates
    assert data.train.labels.tolist() == [0, 1]
    assert names(data.test) == [str(scenes / "SUN397/a/abbey/sun_c.jpg")], "its validation part is left out"
    assert [read_mark(data.train.decode(index))[0] for index in (0, 1)] == [1, 0], "its labels are not torchvision's"
    assert len(open_published(PUBLISHED["sun397"], scenes.parent).class_names) == 3


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("caltech101", "caltech101/101_ObjectCategories/Faces/image_0001.jpg"),
        ("dtd", "dtd/dtd/images/banded/banded_train_1.jpg"),
        ("eurosat", "eurosat/2750/Forest/Forest_1.jpg"),
        ("flowers102", "flowers-102/jpg/image_00001.jpg"),
        ("food101", "food-101/images/apple_pie/1.jpg"),
        ("oxford_pets", "oxford-iiit-pet/images/shiba_inu_1.jpg"),
        ("stanford_cars", "stanford_cars/cars_train/00001.jpg"),
        ("sun397", "SUN397/a/abbey/sun_a.jpg"),
    ],
)
def test_its_paths_start_where_the_images_of_torchvision_lie(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    miniatures.without_md5(monkeypatch)
    folder = miniatures.write(name, tmp_path)
    split, images = PUBLISHED[name].coop
    entry = [str(Path(file).relative_to(images)), 0, "it"]
    (folder / split).write_text(json.dumps({"train": [entry], "val": [], "test": [entry]}))
    open_published(PUBLISHED[name], tmp_path, "coop").train.decode(0)


def test_sets_that_coop_does_not_have_stay_as_they_are(tmp_path: Path) -> None:
    for name in ("aircraft", "mnist"):
        miniatures.write(name, tmp_path)
        plain, chosen = (open_published(PUBLISHED[name], tmp_path, splits) for splits in ("torchvision", "coop"))
        assert chosen.class_names == plain.class_names
        assert names(chosen.train) == names(plain.train)


def test_a_missing_split_of_coop(scenes: Path) -> None:
    message = refused(scenes.parent, "coop")
    assert all(words in message for words in ("splits=coop", str(scenes / "split_zhou_SUN397.json"), "is not there"))
    assert "everclip data prepare food101" in refused(scenes.parent, "coop", "food101")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"train": [["../../secret.jpg", 0, "abbey"]]}, "outside"),
        ({"test": [["/etc/secret.jpg", 1, "abbey"]]}, "outside"),
        ({"train": [["a/x.jpg", 5, "x"]]}, "labels that are not 0 to 1"),
        ({"test": [["a/x.jpg", 0, "abbey"]]}, "calls class 0 both"),
        ({"train": None}, "is not a split of CoOp"),
        ({"train": [["a/x.jpg"]]}, "is not a split of CoOp"),
    ],
)
def test_a_damaged_split_of_coop(scenes: Path, changed: dict, words: str) -> None:
    message = refused(coop(scenes, **changed), "coop")
    assert words in message
    assert str(scenes / "split_zhou_SUN397.json") in message
