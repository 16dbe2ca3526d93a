"""Images that a caller hands over: paths, PIL images, arrays, or a data set in the manner of torch."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import numpy as np
from PIL import Image

from everclip.data.arrays import ArrayImages
from everclip.data.decode import as_rgb, load_rgb
from everclip.data.found import Listed
from everclip.data.labels import Labels, NoLabel, as_labels, first_name, label_of, read_labels
from everclip.data.regular import file_digest
from everclip.data.source import BadImage, ImageSource
from everclip.errors import InputError
from everclip.system.paths import expanded

GivenImage = str | Path | Image.Image | np.ndarray
"""A file, a PIL image of any mode, or an array (H, W, 3) uint8."""


class GivenImages(ImageSource):
    """Images in a list.

    Args:
        items: N images.
        labels: (N,) int64; all 0 by default.
        called: what the names of images that are no files begin with.

    Raises:
        InputError: an item is no image at all.
    """

    def __init__(self, items: Sequence[GivenImage], labels: np.ndarray | None = None, called: str = "") -> None:
        for index, item in enumerate(items):
            if not isinstance(item, str | Path | Image.Image | np.ndarray):
                raise InputError(
                    f"image {index} is of type {type(item).__name__}; give a path, a PIL image or an array (H, W, 3) "
                    "uint8."
                )
        self._names = [
            str(item) if isinstance(item, str | Path) else f"{called}image {n}" for n, item in enumerate(items)
        ]
        self._items = [expanded(item) if isinstance(item, str | Path) else item for item in items]
        self.labels = np.zeros(len(items), dtype=np.int64) if labels is None else labels

    def name(self, index: int) -> str:
        """Return the path, or `image INDEX`."""
        return self._names[index]

    def digest(self, index: int) -> str:
        """Return the hex BLAKE2b-128 of the file's bytes, of the pixels, or of what is wrong with either."""
        item = self._items[index]
        if isinstance(item, Path):
            return file_digest(item)
        try:
            content = _content(self.decode(index))
        except BadImage as error:
            content = error.reason.encode()
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def decode(self, index: int) -> Image.Image:
        """Return the image, mode RGB and upright.

        Raises:
            BadImage: a file that `load_rgb` refuses, or an array of another shape or type.
        """
        item, name = self._items[index], self.name(index)
        if isinstance(item, Path):
            return load_rgb(item, name, self.most_pixels)
        return _rgb(item, name, self.most_pixels)


class LabeledDataset(Protocol):
    """What data sets of torch that are read by index have in common: (image, label) pairs.

    Those of torchvision also list their `classes`, whose places the labels are, and all labels as `targets`.
    """

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, index: int, /) -> Any:
        """An image and its label."""


class DatasetImages(ImageSource):
    """The images of a data set in the manner of torch, without a transform that makes tensors or draws at random.

    Args:
        dataset: read from one thread at a time, for not all of them allow more.
        called: what the names of its images begin with.
        items: which of its items; all by default.
    """

    def __init__(self, dataset: LabeledDataset, called: str = "", items: Sequence[int] | None = None) -> None:
        self._dataset = dataset
        self._called = called
        self._items = range(len(dataset)) if items is None else items
        self._one_at_a_time = threading.Lock()
        self.labels = np.zeros(len(self._items), dtype=np.int64)

    def name(self, index: int) -> str:
        """Return `item INDEX`, as the data set counts."""
        return f"{self._called}item {self._items[index]}"

    def digest(self, index: int) -> str:
        """Return the hex BLAKE2b-128 of the pixels, or of what is wrong with them."""
        try:
            content = _content(self.decode(index))
        except BadImage as error:
            content = error.reason.encode()
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def decode(self, index: int) -> Image.Image:
        """Return the image, mode RGB and upright.

        Raises:
            BadImage: the data set can't read it, or gives something else than a PIL image or an array.
        """
        name = self.name(index)
        with self._one_at_a_time:
            image, _ = _item(self._dataset, self._items[index], name)
        return _rgb(image, name, self.most_pixels)


def listed_classes(given: object) -> tuple[str, ...] | None:
    """The class names that a data set lists, or those that a `Subset` or a `ConcatDataset` is of; None: it lists none.

    Of synonyms it is the first.
    """
    listed: Any = getattr(given, "classes", None)
    if listed is None and hasattr(given, "dataset") and hasattr(given, "indices"):
        return listed_classes(given.dataset)
    if listed is None and isinstance(parts := getattr(given, "datasets", None), list | tuple):
        each = {listed_classes(part) for part in parts}
        return each.pop() if len(each) == 1 else None
    if isinstance(listed, Mapping):  # number → name, or name → number
        numbers = listed if all(isinstance(key, int) for key in listed) else {at: name for name, at in listed.items()}
        listed = [numbers[at] for at in sorted(numbers)]
    if isinstance(listed, str) or not hasattr(listed, "__iter__"):  # nothing, or something else of that name
        return None
    return tuple(first_name(name) for name in listed)


def list_dataset(dataset: LabeledDataset, called: str = "") -> Listed:
    """List a data set in the manner of torch: what its items say, with its `target_transform`.

    Labels are taken from `targets` where it has them, else every item is read once for its label. An item that can't
    be read or has no label is left out.

    Args:
        dataset: see `DatasetImages`.
        called: what the names of its images begin with.

    Raises:
        InputError: no item has a label, or one is no place in its `classes`.
    """
    where = "the data set"
    names = listed_classes(dataset)
    said, items, broken = [], [], []
    for index, target in enumerate(_targets(dataset)):
        name = f"{called}item {index}"
        try:
            said.append(label_of(_item(dataset, index, name)[1] if target is _UNKNOWN else target, names))
            items.append(index)
        except NoLabel as error:
            broken.append((name, f"it has {error}"))
        except BadImage as error:
            broken.append((name, error.reason))
    if not said:
        first = f" (the first, {broken[0][0]}: {broken[0][1]})" if broken else ""
        raise InputError(f"none of the {len(broken)} items of {where} has a label that can be read{first}.")
    for index, label in zip(items, said, strict=True):
        if names is not None and not isinstance(label, str) and not 0 <= label < len(names):
            raise InputError(
                f"item {index} of {where} has the label {label}, but its classes have the labels 0 to {len(names) - 1}."
            )
    labels = as_labels(said, where)
    if labels.class_names is None and names is not None:
        labels = Labels(labels.places, names)
    return Listed(DatasetImages(dataset, called, items), labels, where, broken=broken)


_UNKNOWN = object()
"""The target of an item that has to be read for it."""
COMPARED = 3
"""Items that are read to see that `targets` are what a data set gives."""


def _targets(dataset: Any) -> Sequence[Any]:
    """All targets as the items have them, without reading an image where that can be avoided.

    A transform that nobody can call here (joint with the image, or under a name of its own) shows in the items alone,
    so a few are compared.
    """
    known, unknown = _known_targets(dataset), [_UNKNOWN] * len(dataset)
    if known is None:
        return unknown
    for index in np.unique(np.linspace(0, len(known) - 1, COMPARED).astype(int)).tolist() if len(known) else ():
        try:
            given = _item(dataset, index, "")[1]
        except BadImage:
            continue
        if not _same(given, known[index]):
            return unknown
    return known


def _known_targets(dataset: Any) -> Sequence[Any] | None:
    targets = getattr(dataset, "targets", None)
    if targets is not None and hasattr(targets, "__len__") and len(targets) == len(dataset):
        transform = getattr(dataset, "target_transform", None)
        return list(targets) if transform is None else [transform(target) for target in targets]
    if hasattr(dataset, "dataset") and hasattr(dataset, "indices"):
        whole = _known_targets(dataset.dataset)
        return None if whole is None else [whole[index] for index in dataset.indices]
    return None


def _same(one: Any, other: Any) -> bool:
    try:
        return label_of(one) == label_of(other)
    except NoLabel:
        return bool(np.array_equal(np.asarray(one, dtype=object), np.asarray(other, dtype=object)))


def _item(dataset: Any, index: int, name: str) -> tuple[Any, Any]:
    """One (image, label) pair; data sets fail in their own ways, and one broken item must not end a lesson."""
    try:
        item = dataset[index]
    except MemoryError:
        raise
    except Exception as error:
        raise BadImage(name, f"the data set can't read it ({error or type(error).__name__})") from error
    if not (isinstance(item, tuple | list) and len(item) >= 2):
        raise BadImage(name, "it is no pair (image, label)")
    return item[0], item[1]


def _rgb(image: object, name: str, most: int) -> Image.Image:
    if isinstance(image, Image.Image):
        try:
            return as_rgb(image, name, most)
        except (OSError, ValueError, SyntaxError) as error:  # a PIL image is read from its file only now
            raise BadImage(name, f"the image is damaged or cut short ({error})") from error
    if not isinstance(image, np.ndarray):
        raise BadImage(name, f"{type(image).__name__} is neither a PIL image nor an array (H, W, 3) uint8")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise BadImage(name, f"an array must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
    return as_rgb(Image.fromarray(image), name, most)


def _content(image: Image.Image) -> bytes:
    return f"{image.size}".encode() + image.tobytes()


def list_arrays(given: tuple[np.ndarray, Any], called: str = "") -> Listed:
    """List a pair of arrays: images (N, H, W, 3) or (N, H, W) uint8 and labels (N,).

    Raises:
        InputError: another shape or type, or not one label each.
    """
    pixels, where = given[0], "the array of images"
    said = read_labels(given[1], where)
    if pixels.dtype != np.uint8 or not (pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 3)):
        raise InputError(f"{where} must be (N, H, W, 3) uint8, not {pixels.shape} {pixels.dtype}.")
    if len(pixels) != len(said.places):
        raise InputError(f"{where} holds {len(pixels)}, but there are {len(said.places)} labels; give one each.")
    return Listed(ArrayImages(f"{called}array", pixels, said.places), said, where)


def list_pairs(given: Sequence[Any], called: str = "") -> Listed:
    """List (image, label) pairs.

    Raises:
        InputError: an item is no pair, or its image or its label is none.
    """
    where = "the list of images"
    for index, pair in enumerate(given):
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise InputError(f"item {index} of the list is no pair (image, class name), such as ('a.jpg', 'cat').")
    said = read_labels([label for _, label in given], where)
    return Listed(GivenImages([image for image, _ in given], said.places, called), said, where)


def is_pair_of_arrays(given: object) -> TypeGuard[tuple[np.ndarray, Any]]:
    """Whether it is data in one array and labels beside it, and not a list of pairs."""
    return isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], np.ndarray)
