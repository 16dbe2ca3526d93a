"""Images that a caller hands over: paths, PIL images, arrays, or a data set in the manner of torch."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from everclip.data.arrays import ArrayImages
from everclip.data.decode import as_rgb, load_rgb
from everclip.data.folders import read_folder
from everclip.data.labels import Labels, among, read_labels
from everclip.data.names import DEFAULT_TEMPLATES
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
        try:
            content = item.read_bytes() if isinstance(item, Path) else _content(self.decode(index))
        except BadImage as error:
            content = error.reason.encode()
        except OSError as error:
            content = f"unreadable: {error.errno}".encode()
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def decode(self, index: int) -> Image.Image:
        """Return the image, mode RGB and upright.

        Raises:
            BadImage: a file that `load_rgb` refuses, or an array of another shape or type.
        """
        item, name = self._items[index], self.name(index)
        if isinstance(item, Path):
            return load_rgb(item, name)
        return _rgb(item, name)


class LabeledDataset(Protocol):
    """What data sets of torch that are read by index have in common: (image, label) pairs.

    Those of torchvision also list their `classes`, whose places the labels are, and all labels as `targets`.
    """

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, index: int, /) -> Any:
        """An image and its label."""


class DatasetImages(ImageSource):
    """A data set in the manner of torch, without a transform that makes tensors or draws at random.

    Args:
        dataset: read from one thread at a time, for not all of them allow more; its labels are taken from `targets`
            where it has them, else every item is read once for its label.
        called: what the names of its images begin with.

    Raises:
        InputError: an item without a label, or a label that is no place in `classes`.
    """

    def __init__(self, dataset: LabeledDataset, called: str = "") -> None:
        self._dataset = dataset
        self._called = called
        self._one_at_a_time = threading.Lock()
        self.said = Labels(read_labels(_targets(dataset), "the data set").places, None)
        names = listed_classes(dataset)
        if names is not None:
            self.said = self.said._replace(class_names=names)
            among(self.said._replace(class_names=None), names, "the data set")
        self.labels = self.said.places

    def name(self, index: int) -> str:
        """Return `item INDEX`."""
        return f"{self._called}item {index}"

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
        try:
            with self._one_at_a_time:
                image = self._dataset[index][0]
        except (OSError, ValueError, SyntaxError) as error:
            raise BadImage(name, f"the data set can't read it ({error})") from error
        return _rgb(image, name)


def listed_classes(given: object) -> tuple[str, ...] | None:
    """The class names that a data set lists, or the one that it is a `Subset` of; None where it lists none."""
    listed = getattr(given, "classes", None)
    if listed is None and hasattr(given, "dataset") and hasattr(given, "indices"):
        return listed_classes(given.dataset)
    return None if listed is None else tuple(str(name) for name in listed)


def _targets(dataset: Any) -> Sequence[Any]:
    """All labels, without reading an image where that can be avoided."""
    targets = getattr(dataset, "targets", None)
    if targets is not None and len(targets) == len(dataset):
        return targets if hasattr(targets, "shape") else list(targets)
    if hasattr(dataset, "dataset") and hasattr(dataset, "indices"):
        whole = _targets(dataset.dataset)
        return [whole[index] for index in dataset.indices]
    found = []
    for index in range(len(dataset)):
        item = dataset[index]
        if not (isinstance(item, tuple | list) and len(item) >= 2):
            raise InputError(f"item {index} of the data set is no pair (image, label).")
        found.append(item[1])
    return found


def _rgb(image: object, name: str) -> Image.Image:
    if isinstance(image, Image.Image):
        try:
            return as_rgb(image, name)
        except (OSError, ValueError, SyntaxError) as error:  # a PIL image is read from its file only now
            raise BadImage(name, f"the image is damaged or cut short ({error})") from error
    if not isinstance(image, np.ndarray):
        raise BadImage(name, f"{type(image).__name__} is neither a PIL image nor an array (H, W, 3) uint8")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise BadImage(name, f"an array must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
    return as_rgb(Image.fromarray(image), name)


def _content(image: Image.Image) -> bytes:
    return f"{image.size}".encode() + image.tobytes()


@dataclass(frozen=True)
class LabeledImages:
    """Images with names for their labels.

    Attributes:
        source: the images; `labels` index `class_names`.
        class_names: no two equal up to case and spaces.
        templates: prompt templates, where the images came with some.
    """

    source: ImageSource
    class_names: tuple[str, ...]
    templates: tuple[str, ...] | None


def labeled_images(
    given: Any,
    part: Literal["train", "test"] = "train",
    class_names: Sequence[str] | None = None,
    called: str = "",
) -> LabeledImages:
    """Labeled images in any of the forms that people have them in.

    Args:
        given: a folder (see `read_folder`), (image, label) pairs, a data set in the manner of torch, or a pair of
            arrays: images (N, H, W, 3) or (N, H, W) uint8 and labels (N,). A label is a class name or a number.
        part: of a folder that is divided into train and test; of any other, all images are meant.
        class_names: what the labels shall count: a number is a place in it, and names are looked up in it. By default
            the names of the data themselves, in the order of a folder or a data set, or in which they first appear.
        called: what the names of images that are no files begin with.

    Raises:
        InputError: it is none of these, or a folder, labels or class names that can't be used.
    """
    templates = None
    source: ImageSource
    if isinstance(given, str | Path):
        folder = read_folder(given, test_fraction=0, least_classes=1)
        templates = folder.templates if folder.templates != DEFAULT_TEMPLATES else None
        source = folder.test if part == "test" and len(folder.test) else folder.train
        said, where = Labels(source.labels, folder.class_names), str(given)
    elif is_pair_of_arrays(given):
        pixels, where = given[0], f"the array of {part} images"
        said = read_labels(given[1], where)
        if pixels.dtype != np.uint8 or not (pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 3)):
            raise InputError(f"{where} must be (N, H, W, 3) uint8, not {pixels.shape} {pixels.dtype}.")
        if len(pixels) != len(said.places):
            raise InputError(f"{where} holds {len(pixels)}, but there are {len(said.places)} labels; give one each.")
        source = ArrayImages(f"{called}array", pixels, said.places)
    elif isinstance(given, Sequence):
        where = "the list of images"
        for index, pair in enumerate(given):
            if not (isinstance(pair, tuple | list) and len(pair) == 2):
                raise InputError(f"item {index} of the list is no pair (image, class name), such as ('a.jpg', 'cat').")
        said = read_labels([label for _, label in given], where)
        source = GivenImages([image for image, _ in given], said.places, called)
    elif hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        where = "the data set"
        dataset = DatasetImages(given, called)
        source, said = dataset, dataset.said
    else:
        raise InputError(
            f"images of type {type(given).__name__} can't be read; give a folder, a list of (image, class name) pairs, "
            "a pair of arrays, or a data set that is read by index."
        )
    labels, names = among(said, class_names, where)
    if labels is not source.labels and not np.array_equal(labels, source.labels):
        source = source.select(np.arange(len(source)), labels)
    return LabeledImages(source, names, templates)


def is_pair_of_arrays(given: object) -> bool:
    """Whether it is data in one array and labels beside it, and not a list of pairs."""
    return isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], np.ndarray)
