from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from everclip.data import FolderImages, read_folder, read_images
from everclip.data.source import BadImage
from everclip.errors import InputError


def card(folder: Path, **fields) -> None:
    (folder / "dataset.json").write_text(json.dumps(fields), encoding="utf-8")


def names(source) -> list[str]:
    return [Path(source.name(i)).name for i in range(len(source))]


def refused(folder: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        read_folder(folder)
    assert str(folder) in str(caught.value)


def test_one_folder_per_class_is_split(write_images):
    root = write_images(*(f"pets/{name}/{i}.png" for name in ("gray_cat", "dog") for i in range(10)))
    data = read_folder(root, seed=3, test_fraction=0.3)
    assert data.name == "pets"
    assert data.class_names == ("dog", "gray cat")
    assert data.templates == ("a photo of a {}.",)
    assert data.train.labels.tolist() == [0] * 7 + [1] * 7
    assert data.test.labels.tolist() == [0] * 3 + [1] * 3
    train = {data.train.name(i) for i in range(14)}
    test = {data.test.name(i) for i in range(6)}
    assert len(train | test) == 20
    assert names(data.test) == names(read_folder(root, seed=3, test_fraction=0.3).test)
    assert names(data.test) != names(read_folder(root, seed=4, test_fraction=0.3).test)
    assert data.train.decode(0).size == (20, 12)


@pytest.mark.parametrize("test_name", ["test", "val", "validation"])
def test_train_and_test_folders(write_images, test_name):
    root = write_images("d/train/a/1.png", "d/train/b/1.png", "d/train/b/2.png", f"d/{test_name}/b/3.png")
    data = read_folder(root)
    assert names(data.train) == ["1.png", "1.png", "2.png"]
    assert names(data.test) == ["3.png"]
    assert data.test.labels.tolist() == [1]


def test_test_is_preferred_to_val(write_images):
    root = write_images("d/train/a/1.png", "d/train/b/1.png", "d/val/a/v.png", "d/test/a/t.png")
    assert names(read_folder(root).test) == ["t.png"]


def test_train_alone_is_split_but_a_class_may_be_called_train(write_images):
    root = write_images(*(f"alone/train/{name}/{i}.png" for name in "ab" for i in range(2)))
    assert read_folder(root).class_names == ("a", "b")
    assert len(read_folder(root).test) == 2
    root = write_images("vehicles/train/1.png", "vehicles/car/1.png")
    assert read_folder(root).class_names == ("car", "train")


def test_any_depth_sorted_without_hidden_and_other_files(write_images):
    root = write_images("d/a/z.png", "d/a/deep/er/b.PNG", "d/a/.hidden.png", "d/a/.git/c.png", "d/b/1.png")
    (root / "a" / "notes.txt").write_text("no image")
    (root / ".cache").mkdir()
    assert names(read_folder(root, test_fraction=0).train) == ["b.PNG", "z.png", "1.png"]


def test_links_are_followed_without_loops(write_images, tmp_path: Path):
    root = write_images("d/a/1.png", "d/b/1.png")
    write_images("elsewhere/2.png")
    (root / "a" / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "up").symlink_to(root / "a")
    (tmp_path / "elsewhere" / "back").symlink_to(root / "a")
    assert names(read_folder(root, test_fraction=0).train) == ["1.png", "2.png", "1.png"]


def test_dataset_json(write_images):
    root = write_images("d/train/n02/1.png", "d/train/n01/1.png", "d/test/n02/1.png")
    card(
        root,
        name="fish",
        classes=["n02", "n01"],
        class_names={"n01": "tench", "n09": "not here"},
        templates=["a {}.", "the {}."],
        source="ignored",
    )
    data = read_folder(root)
    assert data.name == "fish"
    assert data.class_names == ("n02", "tench")
    assert data.templates == ("a {}.", "the {}.")
    assert Path(data.train.name(0)).parent.name == "n02"
    assert data.test.labels.tolist() == [0]


def test_a_missing_file_has_a_digest_and_is_a_bad_image(write_images):
    root = write_images("d/a/1.png")
    path = root / "a" / "1.png"
    content = path.read_bytes()
    source = FolderImages([str(path)], [0])
    there = source.digest(0)
    path.unlink()
    assert source.digest(0) != there
    with pytest.raises(BadImage, match=r"1\.png: the file is not there"):
        source.decode(0)
    path.write_bytes(content)
    assert source.digest(0) == there


def test_refused_folders(write_images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    refused(tmp_path / "nowhere", "No such file")
    file = tmp_path / "file"
    file.write_text("x")
    refused(file, "Not a directory")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no class folder")
    refused(write_images("flat/1.png", "flat/2.png"), "no class folder")
    refused(write_images("single/a/1.png"), "at least two")
    root = write_images("hole/a/1.png", "hole/b/1.png")
    (root / "b" / "1.png").rename(root / "b" / "1.txt")
    refused(root, r"1 file left out: 1 \.txt; no image of b\) has 1 class")
    refused(write_images("same/Cat/1.png", "same/cat/1.png"), "'Cat' and 'cat' are one class")
    refused(write_images("spaces/red fox/1.png", "spaces/red_fox/1.png"), "'red fox' and 'red_fox' are one class")
    refused(write_images("new/train/a/1.png", "new/train/b/1.png", "new/test/c/1.png"), "test images of 'c', a class")
    root = write_images("loop/a/1.png", "loop/b/1.png")
    (root / "a" / "self").symlink_to(root / "a" / "self")
    refused(root, "cannot list the folder")

    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    refused(root, "Permission denied")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "the file: is not JSON"),
        ("[]", "the file: "),
        ('{"name": 3}', "name: "),
        ('{"name": ""}', "name: "),
        ('{"classes": "a"}', "classes: "),
        ('{"classes": ["a", 2]}', r"classes\.1: "),
        ('{"classes": ["a", "b", "c"]}', "lists the class 'c'"),
        ('{"classes": ["a"]}', "b is not among the classes"),
        ('{"classes": ["a", "b", "a"]}', "'a' twice"),
        ('{"class_names": {"a": "dog", "b": "Dog "}}', "'a' and 'b' are one class"),
        ('{"class_names": {"a": " "}}', "empty name"),
        ('{"class_names": ["a"]}', "class_names: "),
        ('{"templates": []}', "empty list of templates"),
        ('{"templates": ["a photo"]}', "exactly one {}"),
        ('{"templates": ["{} and {}"]}', "exactly one {}"),
    ],
)
def test_refused_dataset_json(write_images, text, match):
    root = write_images("d/a/1.png", "d/b/1.png")
    (root / "dataset.json").write_text(text)
    refused(root, match)


def test_a_dataset_json_that_is_no_file(write_images):
    root = write_images("d/a/1.png", "d/b/1.png")
    (root / "dataset.json").mkdir()
    refused(root, "cannot read")


# -- without labels ----------------------------------------------------------------------------------------------------


def test_unlabeled_images_lie_at_any_depth(write_images):
    root = write_images("all/b.png", "all/a/deep/2.png", "all/a/1.JPEG", "all/.hidden/3.png")
    (root / "words.txt").write_text("words")
    images = read_images(str(root)).images
    assert [Path(images.name(i)).relative_to(root).as_posix() for i in range(3)] == [
        "a/1.JPEG",
        "a/deep/2.png",
        "b.png",
    ]
    assert images.labels.tolist() == [0, 0, 0]


def test_an_unlabeled_folder_needs_an_image(tmp_path):
    for folder, words in ((tmp_path / "nowhere", "cannot list"), (tmp_path, "no image")):
        with pytest.raises(InputError, match=words) as caught:
            read_images(folder)
        assert str(folder) in str(caught.value)
