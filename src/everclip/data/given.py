"""Images that a caller hands over: paths, PIL images, arrays, or a data set in the manner of torchvision."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from everclip.data.decode import as_rgb, load_rgb
from everclip.data.folders import read_folder
from everclip.data.names import DEFAULT_TEMPLATES, check_class_names, plain_name
from everclip.data.source import BadImage, ImageSource
from everclip.errors import InputError

GivenImage = str | Path | Image.Image | np.ndarray
"""A file, a PIL image of any mode, or an array (H, W, 3) uint8."""


class GivenImages(ImageSource):
    """Images in a list.

    Args:
        items: N images.
        labels: (N,) int64; all 0 by default.

    Raises:
        InputError: an item is no image at all.
    """

    def __init__(self, items: Sequence[GivenImage], labels: np.ndarray | None = None) -> None:
        for index, item in enumerate(items):
            if not isinstance(item, str | Path | Image.Image | np.ndarray):
                raise InputError(
                    f"image {index} is of type {type(item).__name__}; give a path, a PIL image or an array (H, W, 3) "
                    "uint8."
                )
        self._items = items
        self.labels = np.zeros(len(items), dtype=np.int64) if labels is None else labels

    def name(self, index: int) -> str:
        """Return the path, or `image INDEX`."""
        item = self._items[index]
        return str(item) if isinstance(item, str | Path) else f"image {index}"

    def digest(self, index: int) -> str:
        """Return the hex BLAKE2b-128 of the file's bytes, of the pixels, or of what is wrong with either."""
        item = self._items[index]
        try:
            content = Path(item).read_bytes() if isinstance(item, str | Path) else _content(self.decode(index))
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
        if isinstance(item, str | Path):
            return load_rgb(item, name)
        return _rgb(item, name)


class LabeledDataset(Protocol):
    """What torchvision's data sets have in common: `classes`, and (image, label) by index."""

    classes: Sequence[str]

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, index: int) -> Any:
        """An image and its place in `classes`."""


class DatasetImages(ImageSource):
    """A data set in the manner of torchvision, without a transform that makes tensors.

    Args:
        dataset: read from one thread at a time, for not all of them allow more; its labels are taken from `targets`
            where it has them, else every item is read once for its label.

    Raises:
        InputError: a label that is no place in `classes`.
    """

    def __init__(self, dataset: LabeledDataset) -> None:
        self._dataset = dataset
        self._one_at_a_time = threading.Lock()
        targets = getattr(dataset, "targets", None)
        if targets is None or len(targets) != len(dataset):
            targets = [dataset[index][1] for index in range(len(dataset))]
        self.labels = np.asarray([int(target) for target in targets], dtype=np.int64)
        outside = (self.labels < 0) | (self.labels >= len(dataset.classes))
        if outside.any():
            index = int(outside.argmax())
            raise InputError(
                f"item {index} of the data set has the label {self.labels[index]}, but its classes have the labels 0 "
                f"to {len(dataset.classes) - 1}."
            )

    def name(self, index: int) -> str:
        """Return `item INDEX`."""
        return f"item {index}"

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
    given: str | Path | Sequence[tuple[GivenImage, str]] | LabeledDataset, part: Literal["train", "test"] = "train"
) -> LabeledImages:
    """Labeled images in any of the forms that people have them in.

    Args:
        given: a folder (see `read_folder`), (image, class name) pairs, or a data set in the manner of torchvision.
        part: of a folder that is divided into train and test; of any other, all images are meant.

    Raises:
        InputError: it is none of these, or a folder or class names that can't be used.
    """
    if isinstance(given, str | Path):
        folder = read_folder(Path(given).expanduser(), test_fraction=0, least_classes=1)
        templates = folder.templates if folder.templates != DEFAULT_TEMPLATES else None
        source = folder.test if part == "test" and len(folder.test) else folder.train
        return LabeledImages(source, folder.class_names, templates)
    if hasattr(given, "classes"):
        names = tuple(str(name) for name in given.classes)
        check_class_names(names, "the data set", least=1)
        return LabeledImages(DatasetImages(given), names, None)
    if not isinstance(given, Sequence):
        raise InputError(
            f"images of type {type(given).__name__} can't be read; give a folder, a list of (image, class name) pairs, "
            "or a data set with classes."
        )
    images: list[GivenImage] = []
    labels: list[int] = []
    names_of: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for index, pair in enumerate(given):
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[1], str)):
            raise InputError(f"item {index} of the list is no pair (image, class name), such as ('a.jpg', 'cat').")
        plain = plain_name(pair[1])
        names_of.setdefault(plain, pair[1].strip())
        images.append(pair[0])
        labels.append(numbers.setdefault(plain, len(numbers)))
    if not names_of:
        raise InputError("the list of images is empty; give at least one (image, class name) pair.")
    check_class_names(tuple(names_of.values()), "the list of images", least=1)
    source = GivenImages(images, np.array(labels, dtype=np.int64))
    return LabeledImages(source, tuple(names_of.values()), None)
