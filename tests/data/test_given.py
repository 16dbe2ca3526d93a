from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import Subset

from everclip.data import BadImage, DatasetImages, GivenImages, labeled_images, views
from everclip.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


class Pairs:
    """A data set in the manner of torchvision."""

    classes = ("cat", "dog")

    def __init__(self, items: list[tuple]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple:
        return self.items[index]


class WithTargets(Pairs):
    """One that tells its labels without being read."""

    targets = (1, 0)

    def __getitem__(self, index: int) -> tuple:
        raise OSError("gone")


def test_every_form_gives_the_same_pixels(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(PIXELS), PIXELS]
    source = GivenImages(forms)
    assert all(np.array_equal(np.asarray(source.decode(index)), PIXELS) for index in range(4))
    assert [source.name(index) for index in (0, 2)] == [str(tmp_path / "a.png"), "image 2"]
    assert source.digest(0) == source.digest(1) != source.digest(2) == source.digest(3)
    other = GivenImages([255 - PIXELS, PIXELS.reshape(9, 6, 3)])
    assert len({source.digest(2), other.digest(0), other.digest(1)}) == 3


def test_pictures_become_upright_rgb() -> None:
    turned = Image.fromarray(PIXELS)
    turned.getexif()[0x0112] = 6  # turned by 90°
    gray, clear = Image.fromarray(PIXELS[..., 0]), Image.new("RGBA", (4, 3), (0, 0, 0, 0))
    source = GivenImages([turned, gray, clear])
    assert [source.decode(index).size for index in range(3)] == [(6, 9), (9, 6), (4, 3)]
    assert {source.decode(index).mode for index in range(3)} == {"RGB"}
    assert np.asarray(source.decode(2)).min() == 255


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 4), (0, 9, 3), (2, 6, 9, 3)])
def test_arrays_of_another_shape_are_bad_images(shape: tuple[int, ...]) -> None:
    source = GivenImages([np.zeros(shape, np.uint8), PIXELS.astype(np.float32)])
    for index in range(2):
        with pytest.raises(BadImage, match=f"image {index}: an array must be"):
            source.decode(index)
        assert source.digest(index) != GivenImages([PIXELS]).digest(0)


def test_a_data_set_is_read_by_index() -> None:
    source = DatasetImages(Pairs([(Image.fromarray(PIXELS), 1), (PIXELS, np.int64(0))]))
    assert source.labels.tolist() == [1, 0]
    assert np.array_equal(np.asarray(source.decode(0)), PIXELS)
    assert source.digest(0) == source.digest(1)
    gone = DatasetImages(WithTargets([(), ()]))
    assert gone.labels.tolist() == [1, 0]
    with pytest.raises(BadImage, match="item 1: the data set can't read it"):
        gone.decode(1)
    with pytest.raises(BadImage, match="float is neither"):
        DatasetImages(Pairs([(0.5, 0)])).decode(0)
    with pytest.raises(InputError, match=r"item 1 .* label 2"):
        DatasetImages(Pairs([(PIXELS, 0), (PIXELS, 2)]))


def test_names_are_classes_up_to_case_and_spaces() -> None:
    given = labeled_images([(PIXELS, "Big cat"), (PIXELS, "dog"), (PIXELS, " big  CAT ")])
    assert given.class_names == ("Big cat", "dog")
    assert given.source.labels.tolist() == [0, 1, 0]
    assert given.templates is None


def test_a_folder_is_all_there_is_or_the_part_that_is_meant(tmp_path: Path) -> None:
    divided = tmp_path / "divided"
    for part, count in (("train", 4), ("test", 2)):
        for name in ("red", "green"):
            (divided / part / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(PIXELS).save(divided / part / name / f"{number}.png")
    assert len(labeled_images(divided).source) == 8
    assert len(labeled_images(divided, "test").source) == 4
    for part in ("train", "test"):
        assert len(labeled_images(divided / "train", part).source) == 8
    (divided / "train/green").rename(tmp_path / "green")
    assert labeled_images(divided / "train").class_names == ("red",)


def test_views_come_one_by_one_and_bad_ones_among_them() -> None:
    class View:
        key, size = "plain", 4

        def __call__(self, image: Image.Image) -> Image.Image:
            return image.resize((4, 4))

    source = GivenImages([PIXELS, PIXELS[..., 0], PIXELS])
    first, second, third = views(source, View(), workers=2)
    assert first.shape == (3, 4, 4)
    assert np.array_equal(first, third)
    assert isinstance(second, BadImage)


def test_a_number_is_a_place_in_the_names_and_a_name_is_looked_up() -> None:
    names = ["dog", "cat"]
    for given in (
        [(PIXELS, 1), (PIXELS, 0)],
        (np.stack([PIXELS, PIXELS]), [1, 0]),
        [(PIXELS, "Cat"), (PIXELS, "dog")],
        Pairs([(PIXELS, 0), (PIXELS, 1)]),  # it lists cat before dog
    ):
        read = labeled_images(given, class_names=names)
        assert (read.class_names, read.source.labels.tolist()) == (("dog", "cat"), [1, 0])
    with pytest.raises(InputError, match="numbers for labels; give class names instead"):
        labeled_images([(PIXELS, 1)])
    with pytest.raises(InputError, match="the class 'cat', which is not listed among dog"):
        labeled_images([(PIXELS, "cat")], class_names=["dog"])


def test_a_subset_tells_its_labels_without_being_read() -> None:
    read = labeled_images(Subset(WithTargets([(), ()]), [1]))
    assert (read.class_names, read.source.labels.tolist()) == (("cat", "dog"), [0])
