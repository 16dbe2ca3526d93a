from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset

from everclip.data import BadImage, DatasetImages, GivenImages, read, views
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
    source = read(Pairs([(Image.fromarray(PIXELS), 1), (PIXELS, np.int64(0))])).images
    assert source.labels.tolist() == [1, 0]
    assert np.array_equal(np.asarray(source.decode(0)), PIXELS)
    assert source.digest(0) == source.digest(1)
    gone = read(WithTargets([(), ()])).images
    assert gone.labels.tolist() == [1, 0]
    with pytest.raises(BadImage, match="item 1: the data set can't read it"):
        gone.decode(1)
    with pytest.raises(BadImage, match="float is neither"):
        DatasetImages(Pairs([(0.5, 0)])).decode(0)
    with pytest.raises(InputError, match=r"item 1 .* label 2"):
        read(Pairs([(PIXELS, 0), (PIXELS, 2)]))


def test_names_are_classes_up_to_case_and_spaces() -> None:
    given = read([(PIXELS, "Big cat"), (PIXELS, "dog"), (PIXELS, " big  CAT ")])
    assert given.class_names == ("Big cat", "dog")
    assert given.images.labels.tolist() == [0, 1, 0]
    assert given.templates is None


def test_a_folder_is_all_there_is_or_the_part_that_is_meant(tmp_path: Path) -> None:
    divided = tmp_path / "divided"
    for part, count in (("train", 4), ("test", 2)):
        for name in ("red", "green"):
            (divided / part / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(PIXELS).save(divided / part / name / f"{number}.png")
    assert len(read(divided).to_learn().source) == 8
    assert len(read(divided).to_judge().source) == 4
    whole = read(divided / "train")
    assert len(whole.to_learn().source) == len(whole.to_judge().source) == 8
    (divided / "train/green").rename(tmp_path / "green")
    assert read(divided / "train").class_names == ("red",)


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
        found = read(given, class_names=names)
        assert (found.class_names, found.images.labels.tolist()) == (("dog", "cat"), [1, 0])
    with pytest.raises(InputError, match="numbers for labels; give class names instead"):
        read([(PIXELS, 1)])
    with pytest.raises(InputError, match="the class 'cat', which is not listed among dog"):
        read([(PIXELS, "cat")], class_names=["dog"])


def test_a_subset_tells_its_labels_without_being_read() -> None:
    found = read(Subset(WithTargets([(), ()]), [1]))
    assert (found.class_names, found.images.labels.tolist()) == (("cat", "dog"), [0])


# -- what data sets say ------------------------------------------------------------------------------------------------


class Told(Pairs):
    """One whose items have these targets."""

    def __init__(self, *targets: object, classes: tuple = ("cat", "dog")) -> None:
        super().__init__([(PIXELS, target) for target in targets])
        self.classes = classes


@pytest.mark.parametrize(
    "targets",
    [
        [(1, "mask"), (0, "mask")],
        [("mask", 1), ("mask", 0)],
        [np.array([1]), np.array(0)],
        [torch.tensor(1), torch.tensor([0])],
        [np.array([0, 1]), np.array([1.0, 0.0])],
        ["Dog", "cat"],
        [np.str_("dog"), np.str_("CAT")],
        [1.0, np.int8(0)],
    ],
    ids=str,
)
def test_a_target_is_a_number_a_name_or_an_array_of_one(targets: list) -> None:
    found = read(Told(*targets))
    assert [entry.class_name.casefold() for entry in found.entries] == ["dog", "cat"]
    assert not found.broken


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ((0, 1), "in which 2 things can be labels"),
        (("mask", None), "in which no things can be labels"),
        (np.array([1, 1]), "not 1 for one class"),
        (np.zeros(3), r"shape \(3,\)"),
        (0.5, "the label 0.5"),
        (True, "the label True"),
        (None, "the label None"),
    ],
    ids=str,
)
def test_an_item_without_a_label_is_skipped_and_named(target: object, reason: str) -> None:
    found = read(Told(1, target, 0))
    assert [entry.origin for entry in found.entries] == ["item 0", "item 2"]
    ((name, why),) = found.broken
    assert name == "item 1"
    assert re.search(reason, why)
    assert re.fullmatch(f"1 skipped, the first is item 1: .*{reason}.*", found.said_in_full)
    with pytest.raises(InputError, match=f"none of the 2 items .*item 0: .*{reason}"):
        read(Told(target, target))


def test_an_item_that_raises_is_skipped_whatever_it_raises() -> None:
    class Torn(Told):
        def __getitem__(self, index: int) -> tuple:
            if index == 1:
                raise RuntimeError("the file is torn")
            return super().__getitem__(index)

    found = read(Torn(0, 0, 1))
    assert found.broken == (("item 1", "the data set can't read it (the file is torn)"),)
    assert [found.images.name(row) for row in range(2)] == ["item 0", "item 2"]
    with pytest.raises(BadImage, match=r"item 1: .* \(the file is torn\)"):
        DatasetImages(Torn(0, 0, 1)).decode(1)
    with pytest.raises(InputError, match="item 2 of the data set has the label 7"):
        read(Torn(0, 0, 7))


def test_targets_count_as_the_items_have_them() -> None:
    class Listed(Told):
        """One that also lists its targets, before whatever transform it applies."""

        def __init__(self, *targets: int) -> None:
            super().__init__(*targets)
            self.targets = list(targets)
            self.reads = 0

        def __getitem__(self, index: int) -> tuple:
            self.reads += 1
            return self.items[index][0], self.changed(self.items[index][1])

        def changed(self, target: int) -> int:
            return target

    class Transformed(Listed):
        target_transform = staticmethod(lambda target: 1 - target)
        changed = target_transform

    class Hidden(Listed):
        """Nobody outside can see its transform."""

        def changed(self, target: int) -> int:
            return 1 - target

    targets = [0, 1] * 20
    turned = [1, 0] * 20
    for kind, expected in ((Listed, targets), (Transformed, turned), (Hidden, turned)):
        dataset = kind(*targets)
        assert read(dataset).images.labels.tolist() == expected
        assert (dataset.reads < 10) == (kind is not Hidden)
        assert read(Subset(kind(*targets), [0, 3])).images.labels.tolist() == [expected[0], expected[3]]


def test_of_synonyms_the_first_is_the_name() -> None:
    found = read(Told(0, 1, 2, classes=(("tench", "Tinca tinca"), ["maillot", "tank suit"], ("Maillot",))))
    assert found.class_names == ("tench", "maillot")
    assert found.images.labels.tolist() == [0, 1, 1]
    assert found.spellings == {"maillot": ("maillot", "Maillot")}
    for listed in ({1: "dog", 0: ("cat", "Felis")}, {"dog": 1, "cat": 0}, np.array(["cat", "dog"])):
        assert read(Told(1, 0, classes=listed)).class_names == ("cat", "dog")
    assert read(ConcatDataset([Told(1), Told(0)])).images.labels.tolist() == [1, 0]
    for listed in (2, "cat"):
        with pytest.raises(InputError, match="numbers for labels; give class names"):
            read(Told(1, 0, classes=listed))
    with pytest.raises(InputError, match="lists the class None"):
        read(Told(0, classes=(None,)))
