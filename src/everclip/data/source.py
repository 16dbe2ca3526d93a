"""Labeled images that are not decoded yet, and two seeded draws on labels: a split and a few-shot subset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from everclip.errors import InputError

MAX_PIXELS = 100_000_000
"""An image with more pixels is refused from its header, before memory is spent on it, unless more are allowed."""


class BadImage(InputError):
    """One image cannot be used. Whoever reads many images skips it and counts it; `str()` is `NAME: REASON`.

    Attributes:
        name: the file or drawn image, as `ImageSource.name` gives it.
        reason: a few plain words, such as "the file is empty".
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Glance(NamedTuple):
    """What the header of an image says: width and height in pixels as stored, and bytes; 0 where there is no file.

    Equal files have equal glances.
    """

    width: int
    height: int
    bytes: int


class ImageSource(ABC):
    """An ordered, labeled collection of N images, each decoded only when asked for.

    Implementations must allow `digest` and `decode` to be called from several threads at once.

    Attributes:
        labels: (N,) int64, the class of each image.
        most_pixels: an image that has more is refused; it may be set to another number.
    """

    labels: np.ndarray
    most_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def name(self, index: int) -> str:
        """Return what messages call the image: its file path, or e.g. `drawn:shapes/train/12`."""

    @abstractmethod
    def digest(self, index: int) -> str:
        """Return the hex BLAKE2b-128 of the image's content: the file's bytes, or what a drawing depends on.

        It never raises for an image that cannot be read: the digest is then one of the failure itself, so
        that repairing the image changes it.
        """

    @abstractmethod
    def decode(self, index: int) -> Image.Image:
        """Return the image, mode RGB and upright.

        Raises:
            BadImage: the image cannot be read or decoded.
        """

    def glance(self, index: int) -> Glance:
        """Return what can be known of the image without decoding it; here it is decoded, for want of a header.

        Raises:
            BadImage: the image cannot be read, as far as its header tells.
        """
        return Glance(*self.decode(index).size, 0)

    def select(self, indices: Sequence[int] | np.ndarray, labels: np.ndarray | None = None) -> ImageSource:
        """Return a view of the images at `indices` (integers or a boolean mask), in that order.

        Args:
            indices: which images.
            labels: (len(indices),) int64, their labels in the view; by default those they have.

        Raises:
            IndexError: an index is outside the source.
        """
        chosen = np.arange(len(self))[indices if isinstance(indices, np.ndarray) else list(indices)]
        return _Selection(self, chosen, self.labels[chosen] if labels is None else labels)


class _Derived(ImageSource):
    """A source that reads from others, with one limit for all."""

    _sources: Sequence[ImageSource]

    @property
    def most_pixels(self) -> int:
        return self._sources[0].most_pixels

    @most_pixels.setter
    def most_pixels(self, most: int) -> None:
        for source in self._sources:
            source.most_pixels = most


class _Selection(_Derived):
    """Some images of another source. A selection of a selection refers to the first source directly."""

    def __init__(self, source: ImageSource, indices: np.ndarray, labels: np.ndarray) -> None:
        if isinstance(source, _Selection):
            indices, source = source._indices[indices], source._source
        self._source: ImageSource = source
        self._sources = [source]
        self._indices: np.ndarray = indices
        self.labels = labels

    def name(self, index: int) -> str:
        return self._source.name(int(self._indices[index]))

    def digest(self, index: int) -> str:
        return self._source.digest(int(self._indices[index]))

    def decode(self, index: int) -> Image.Image:
        return self._source.decode(int(self._indices[index]))

    def glance(self, index: int) -> Glance:
        return self._source.glance(int(self._indices[index]))


class Joined(_Derived):
    """Several sources, one after the other. Labels keep the meaning that they have in their source.

    Args:
        parts: the sources, at least one.
    """

    def __init__(self, parts: Sequence[ImageSource]) -> None:
        self._sources = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self.labels = np.concatenate([part.labels for part in parts])

    def _find(self, index: int) -> tuple[ImageSource, int]:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._sources[part], index - int(self._starts[part])

    def name(self, index: int) -> str:
        """The image's own name."""
        source, place = self._find(index)
        return source.name(place)

    def digest(self, index: int) -> str:
        """The image's own digest."""
        source, place = self._find(index)
        return source.digest(place)

    def decode(self, index: int) -> Image.Image:
        """The image."""
        source, place = self._find(index)
        return source.decode(place)


class Reduced(_Derived):
    """Images that lost all detail beyond one common resolution: each is resized until its short side has `side` pixels.

    Data sets of different native resolution can be told apart by their blur alone; after this they cannot.

    Args:
        source: the images.
        side: in pixels.
    """

    def __init__(self, source: ImageSource, side: int) -> None:
        self._source = source
        self._sources = [source]
        self._side = side
        self.labels = source.labels

    def name(self, index: int) -> str:
        """The image's own name."""
        return self._source.name(index)

    def digest(self, index: int) -> str:
        """Another content than that of the image itself."""
        return f"{self._source.digest(index)}-{self._side}"

    def decode(self, index: int) -> Image.Image:
        """Antialiased bicubic; the aspect ratio stays (to a pixel)."""
        image = self._source.decode(index)
        scale = self._side / min(image.size)
        width, height = (max(1, round(length * scale)) for length in image.size)
        return image.resize((width, height), Image.Resampling.BICUBIC)


def split(
    source_or_labels: ImageSource | np.ndarray, fraction: float, seed: int, least: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a stratified split: of every class, about `fraction` of the images are held out.

    Every class keeps at least one image, and a class of two or more images gives at least `least` when
    `fraction` is above 0. The draw of a class depends on the seed, its label and its own size only.

    Args:
        source_or_labels: the images, or their (N,) labels.
        fraction: the part to hold out, 0 <= fraction < 1.
        seed: 0 or larger.
        least: images that a class gives, however few it has.

    Returns:
        The kept and the held-out indices, both sorted int64; together they are 0 .. N-1.

    Raises:
        InputError: the fraction or the seed is out of range.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"the held-out fraction is {fraction}, but it must be at least 0 and below 1")
    labels = source_or_labels.labels if isinstance(source_or_labels, ImageSource) else source_or_labels
    held_out = np.zeros(len(labels), dtype=bool)
    for members in _shuffled_classes(labels, seed):
        wanted = max(round(len(members) * fraction), least if fraction > 0 else 0)
        held_out[members[: min(wanted, len(members) - 1)]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def few_shot(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Draw `shots` images of every class, or all of a class that has fewer.

    With one seed, a larger draw contains every smaller one.

    Args:
        labels: (N,) integers.
        shots: images per class, 1 or more.
        seed: 0 or larger.

    Returns:
        Sorted int64 indices into `labels`.

    Raises:
        InputError: `shots` or the seed is out of range.
    """
    if shots < 1:
        raise InputError(f"the number of shots is {shots}, but it must be at least 1")
    chosen = [members[:shots] for members in _shuffled_classes(labels, seed)]
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, dtype=np.int64)


def _shuffled_classes(labels: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yield the indices of each class in random order, each class shuffled by a generator of its own."""
    if seed < 0:
        raise InputError(f"the seed is {seed}, but it must be 0 or larger")
    order = np.argsort(labels, kind="stable")
    classes, starts = np.unique(labels[order], return_index=True)
    for label, members in zip(classes, np.split(order, starts)[1:], strict=True):
        yield np.random.default_rng([seed, int(label)]).permutation(members)
