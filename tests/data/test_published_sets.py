"""Every published data set in its official layout, read as a benchmark reads it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests import miniatures
from tests.miniatures import SIZES, TEST, TRAIN, UNDIVIDED, read_mark
from torchvision.datasets import Flowers102

from everclip.data.arrays import ArrayImages
from everclip.data.names import check_templates
from everclip.data.published import PUBLISHED, data_root, open_published
from everclip.data.published.splits import SPLIT_FILE
from everclip.errors import InputError

NAMES = {
    "aircraft": {1: "F-16A/B"},
    "caltech101": {0: "off-center face", 1: "centered face", 100: "yin and yang symbol"},
    "cifar100": {7: "thing 07"},
    "dtd": {1: "zigzagged"},
    "eurosat": {0: "annual crop land", 9: "lake or sea"},
    "flowers102": {76: "passion flower", 101: "blackberry lily"},
    "food101": {0: "apple pie", 1: "pad thai"},
    "mnist": {0: "0 - zero", 9: "9 - nine"},
    "oxford_pets": {1: "American Bulldog"},
    "stanford_cars": {1: "smart fortwo Convertible 2012"},
    "sun397": {2: "apartment building/outdoor"},
    "tinyimagenet": {1: "thing 1"},
    "imagenet": {0: "tench", 2: "tabby cat"},
    "imagenet-r": {0: "goldfish", 1: "tabby cat"},
    "cub200": {0: "Black footed Bird1"},
}


@pytest.fixture(autouse=True)
def _no_md5(monkeypatch: pytest.MonkeyPatch) -> None:
    miniatures.without_md5(monkeypatch)


def test_there_are_fifteen() -> None:
    assert list(PUBLISHED) == list(miniatures.WRITERS)
    assert sum(PUBLISHED[name].classes for name in list(PUBLISHED)[:11]) == 1201, "MTIL"
    for published in PUBLISHED.values():
        check_templates(published.templates, published.name)
        assert (published.fetch is None) == bool(published.by_hand)
        assert len(published.class_names) in (0, published.classes)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_image_is_in_its_class_and_part(name: str, tmp_path: Path) -> None:
    folder = miniatures.write(name, tmp_path)
    data = open_published(PUBLISHED[name], tmp_path)
    assert (data.name, data.templates) == (name, PUBLISHED[name].templates)
    assert {label: data.class_names[label] for label in NAMES[name]} == NAMES[name]
    assert (len(data.train), len(data.test)) == SIZES[name]
    digests = set()
    for part, images in ((TRAIN, data.train), (TEST, data.test)):
        for index, label in enumerate(images.labels):
            image = images.decode(index)
            marked = divmod(image.getpixel((0, 0))[0], 100)[::-1] if name == "mnist" else read_mark(image)
            assert marked == (label, TRAIN if name in UNDIVIDED else part)
            digests.add(images.digest(index))
            assert images.name(index).startswith((str(folder), f"{name}/{'test' if part else 'train'}/"))
    assert len(digests) == sum(SIZES[name]), "no image is in both parts"


@pytest.mark.parametrize("name", UNDIVIDED)
def test_the_listing_does_not_follow_the_file_system(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    miniatures.write(name, tmp_path)
    before = open_published(PUBLISHED[name], tmp_path).train
    original = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: reversed(list(original(self, pattern))))
    after = open_published(PUBLISHED[name], tmp_path).train
    assert [before.name(i) for i in range(len(before))] == [after.name(i) for i in range(len(after))]


def test_the_key_of_an_image_follows_its_content(tmp_path: Path) -> None:
    miniatures.write("dtd", tmp_path)
    images = open_published(PUBLISHED["dtd"], tmp_path).train
    before = [images.digest(index) for index in range(len(images))]
    miniatures.write_image(Path(images.name(1)), 0)
    after = [images.digest(index) for index in range(len(images))]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True, True]


def test_an_array_of_images() -> None:
    gray = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    images = ArrayImages("digits/train", gray, [2, 0, 1])
    assert (len(images), images.name(2), images.decode(1).size) == (3, "digits/train/2", (5, 4))
    assert (np.asarray(images.decode(2)) == gray[2][..., None]).all()
    again = ArrayImages("elsewhere", gray[::-1], [0, 0, 0])
    assert [images.digest(i) for i in range(3)] == [again.digest(2 - i) for i in range(3)], "of the content alone"
    assert (
        len({ArrayImages("x", gray.reshape(3, *shape), [0] * 3).digest(0) for shape in ((4, 5), (5, 4), (2, 10))}) == 3
    )
    assert images.select([1, 2]).labels.tolist() == [0, 1]


# -- what is missing or broken -----------------------------------------------------------------------------------------


def refused(name: str, root: Path) -> str:
    with pytest.raises(InputError) as error:
        open_published(PUBLISHED[name], root)
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_absent_set_says_how_to_get_it(name: str, tmp_path: Path) -> None:
    message = refused(name, tmp_path)
    command = f"everclip data prepare {name} --root {tmp_path}"
    assert all(words in message for words in (f"'{name}'", str(tmp_path / name), command))
    assert list(tmp_path.iterdir()) == []


BROKEN: dict[str, tuple[str, Callable[[Path], object]]] = {
    "aircraft": ("fgvc-aircraft-2013b/data/variants.txt", lambda path: path.write_text("707-320\n")),
    "caltech101": ("caltech101/101_ObjectCategories/thing13", shutil.rmtree),
    "cifar100": ("cifar-100-python/test", Path.unlink),
    "dtd": ("dtd/dtd/labels/test1.txt", Path.unlink),
    "eurosat": ("eurosat/2750/River", shutil.rmtree),
    "flowers102": ("flowers-102/setid.mat", Path.unlink),
    "food101": ("food-101/meta/train.json", lambda path: path.write_text('{"apple')),
    "mnist": ("MNIST/raw/train-images-idx3-ubyte", lambda path: path.write_bytes(path.read_bytes()[:99])),
    "oxford_pets": ("oxford-iiit-pet/annotations/test.txt", lambda path: path.write_text("Abyssinian_3\n")),
    "stanford_cars": ("stanford_cars/devkit/cars_train_annos.mat", lambda path: path.write_bytes(b"")),
    "sun397": ("SUN397/ClassName.txt", lambda path: path.write_text("/a/abbey\n")),
    "tinyimagenet": ("tiny-imagenet-200/words.txt", lambda path: path.write_text("n1\n")),
    "imagenet": ("val/n01443537", shutil.rmtree),
    "imagenet-r": ("imagenet-r/n01443537", lambda path: path.rename(path.with_name("goldfish"))),
    "cub200": ("CUB_200_2011/image_class_labels.txt", lambda path: path.write_text("1 1\n")),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_broken_set_is_one_sentence(name: str, tmp_path: Path) -> None:
    folder = miniatures.write(name, tmp_path)
    path, broken = BROKEN[name]
    broken(folder / path)
    message = refused(name, tmp_path)
    assert f"'{name}'" in message
    assert str(folder) in message
    assert (
        PUBLISHED[name].by_hand.format(folder=folder) or "remove the folder and run `everclip data prepare"
    ) in message


def test_the_official_sums_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles are read only where they are the published ones."""
    miniatures.write("cifar100", tmp_path)
    monkeypatch.undo()
    assert "not found or corrupted" in refused("cifar100", tmp_path)


def test_torchvision_of_no_names_reads_the_flowers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    miniatures.write("flowers102", tmp_path)
    monkeypatch.delattr(Flowers102, "classes", raising=False)
    assert len(open_published(PUBLISHED["flowers102"], tmp_path).class_names) == 102


# -- the root ----------------------------------------------------------------------------------------------------------


def test_the_root_is_given_or_the_environment_s_or_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERCLIP_DATA", raising=False)
    assert data_root() == Path("data")
    monkeypatch.setenv("EVERCLIP_DATA", "~/sets")
    assert data_root() == Path.home() / "sets"
    assert data_root("elsewhere") == Path("elsewhere")


def test_reading_writes_nothing(tmp_path: Path) -> None:
    for name in PUBLISHED:
        miniatures.write(name, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for published in PUBLISHED.values():
        open_published(published, tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    assert sorted(path.parent.name for path in before if path.name == SPLIT_FILE) == sorted(UNDIVIDED)


def test_the_real_tinyimagenet(tmp_path: Path) -> None:
    """Reduced, in its official layout: from `$EVERCLIP_DEV_DATA/tiny-imagenet-200`."""
    real = Path(os.environ.get("EVERCLIP_DEV_DATA", "")) / "tiny-imagenet-200"
    if "EVERCLIP_DEV_DATA" not in os.environ or not real.is_dir():
        pytest.skip("EVERCLIP_DEV_DATA names no folder with tiny-imagenet-200")
    (tmp_path / "tinyimagenet").symlink_to(real.resolve())
    data = open_published(PUBLISHED["tinyimagenet"], tmp_path)
    assert len(set(data.class_names)) == 200
    for images in (data.train, data.test):
        counts = np.bincount(images.labels, minlength=200)
        assert counts.min() == counts.max() > 0
        assert images.decode(0).size == (64, 64)
    wnids = (real / "tiny-imagenet-200" / "wnids.txt").read_text().split()
    assert [Path(data.train.name(index)).parents[1].name for index in range(0, len(data.train), 97)] == [
        wnids[label] for label in data.train.labels[::97]
    ]
