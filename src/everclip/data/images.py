"""Decoded images in the cache folder: each image is decoded once, then read through a memory map.

A cache file holds the pixels of all images, one after the other, then what `everclip.storage.blocks` needs to verify
them: pixels are checked where they are read, and the images of a damaged block are decoded again. A file whose end is
damaged, because it was cut short or overwritten, is built again as a whole.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from everclip.data.cache import cache_dir, cache_key
from everclip.data.pixels import Pixels, Progress, Transform, adopted, build_pixels, in_order, open_pixels
from everclip.data.source import MAX_PIXELS, BadImage, ImageSource
from everclip.errors import InputError
from everclip.system.display import say
from everclip.system.processes import by_main

FORMAT = 1
"""Part of every key: raise it when the same files would give other pixels."""


class View(Protocol):
    """The evaluation transform of a model: an RGB image in, an RGB image of `size` x `size` out."""

    @property
    def key(self) -> str:
        """What decides the pixels."""

    @property
    def size(self) -> int:
        """S, in pixels."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Resize and crop."""


class Images:
    """Those images of a source that could be decoded, in its order.

    Attributes:
        labels: (N,) int64.
        skipped: (name, reason) of every image that could not be used.
        key: hex hash of all pixels and shapes, to build the keys of what is computed from them.
        content: hex hash of the digests of all images of the source, the skipped ones included: what the images are,
            whatever reads them and wherever they lie.
    """

    def __init__(self, source: ImageSource, pixels: Pixels, content: str) -> None:
        self._source = source
        self._kept = np.delete(np.arange(len(source)), [position for position, _ in pixels.skipped])
        self.labels = source.labels[self._kept]
        self.skipped: list[tuple[str, str]] = [(source.name(position), reason) for position, reason in pixels.skipped]
        self.key = pixels.key
        self.content = content

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def positions(self) -> np.ndarray:
        """(N,) int64, where in the source each image stands."""
        return self._kept

    def name(self, index: int) -> str:
        """Return the name that the source gives to the image."""
        return self._source.name(int(self._kept[index]))


class ViewedImages(Images):
    """Images through a `View`.

    Attributes:
        pixels: (N, 3, S, S) uint8, memory-mapped, read-only, verified where they are read.
    """

    def __init__(self, source: ImageSource, pixels: Pixels, content: str) -> None:
        super().__init__(source, pixels, content)
        self.pixels = pixels.array(len(self), *pixels.shapes[0])

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        """Return (3, S, S) or (B, 3, S, S) uint8.

        Raises:
            EverclipError: these pixels are damaged, and can't be decoded again or put into the cache.
        """
        chosen: np.ndarray = self.pixels[index]
        return chosen


class DecodedImages(Images):
    """Images of any size."""

    def __init__(self, source: ImageSource, pixels: Pixels, content: str) -> None:
        super().__init__(source, pixels, content)
        self._shapes = pixels.shapes
        self._ends = np.cumsum([math.prod(shape) for shape in self._shapes])
        self._pixels = pixels.array()

    def __getitem__(self, index: int) -> np.ndarray:
        """Return (H, W, 3) uint8, memory-mapped and read-only.

        Raises:
            EverclipError: these pixels are damaged, and can't be decoded again or put into the cache.
        """
        shape, end = self._shapes[index], int(self._ends[index])
        image: np.ndarray = self._pixels[end - math.prod(shape) : end].reshape(shape)
        return image

    def pil(self, index: int) -> Image.Image:
        """Return the image, mode RGB."""
        return Image.fromarray(self[index])


def viewed(source: ImageSource, view: View, workers: int = 2, progress: Progress | None = None) -> ViewedImages:
    """Decode every image and pass it through the view, or read the result of the last time.

    Args:
        source: the images. An image that is added, removed, moved or changed gives another cache file.
        view: the evaluation transform.
        workers: threads that read and decode; the result does not depend on it.
        progress: called after each image while the cache is being built.

    Raises:
        InputError: no image can be used, or the cache folder cannot be written.
        ValueError: the view returned another size than it states.
    """

    transform = partial(view_pixels, view=view)
    return ViewedImages(source, *_cached(source, f"view {view.key}", transform, workers, progress))


def decoded(source: ImageSource, short_side: int, workers: int = 2, progress: Progress | None = None) -> DecodedImages:
    """Decode every image, or read the result of the last time; larger ones are reduced to `short_side`.

    The reduction is antialiased bicubic and keeps the aspect ratio; nothing is enlarged.

    Args:
        source: the images. An image that is added, removed, moved or changed gives another cache file.
        short_side: the most pixels that the shorter side may keep.
        workers: threads that read and decode; the result does not depend on it.
        progress: called after each image while the cache is being built.

    Raises:
        InputError: no image can be used, or the cache folder cannot be written.
    """

    def reduced(image: Image.Image) -> np.ndarray:
        scale = short_side / min(image.size)
        if scale < 1:
            width, height = (round(side * scale) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(image)

    return DecodedImages(source, *_cached(source, f"short side {short_side}", reduced, workers, progress))


def views(source: ImageSource, view: View, workers: int = 2) -> Iterator[np.ndarray | BadImage]:
    """Decode images one after the other and pass them through the view, without a cache.

    Args:
        source: the images.
        view: the evaluation transform.
        workers: threads that read and decode, a few images ahead.

    Yields:
        Per image (3, S, S) uint8, or why it can't be used.
    """

    def load(position: int) -> np.ndarray | BadImage:
        try:
            return view_pixels(source.decode(position), view)
        except BadImage as error:
            return error

    with _threads(workers) as pool:
        yield from in_order(pool, load, len(source))


def view_pixels(image: Image.Image, view: View) -> np.ndarray:
    """What the tower sees of an RGB image: (3, S, S) uint8."""
    pixels = np.asarray(view(image))
    if pixels.shape != (view.size, view.size, 3):
        raise ValueError(f"the view {view.key} states size {view.size} but returned {pixels.shape}")
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _cached(
    source: ImageSource, transform_key: str, transform: Transform, workers: int, progress: Progress | None
) -> tuple[Pixels, str]:
    """Return the pixels of all images, from the cache file or by building it first, and the `content` of the source."""
    if not len(source):
        raise InputError("there is no image to read; check that this part of the dataset is not empty")

    def built() -> tuple[Path, str]:
        with _threads(workers) as pool:
            digests = _digests(source, pool)
            limit = [] if source.most_pixels == MAX_PIXELS else [f"at most {source.most_pixels}"]
            path = cache_dir() / "images" / f"{cache_key(FORMAT, transform_key, *limit, *digests)}.pixels"
            if open_pixels(path, source, transform) is None and not adopted(path):
                if path.exists():
                    say(f"everclip: {path} is damaged; its images are decoded again.", error=True)
                build_pixels(path, source, digests, transform, pool, progress)
        return path, cache_key(*digests)

    path, content = by_main(built)
    if (pixels := open_pixels(path, source, transform)) is None:
        raise InputError(f"{path} was damaged while it was written; check the disk or set EVERCLIP_CACHE")
    return pixels, content


def content_key(source: ImageSource, workers: int = 2) -> str:
    """What `Images.content` of a source is; every file is read, no image is decoded."""
    with _threads(workers) as pool:
        return cache_key(*_digests(source, pool))


@contextlib.contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that begin nothing new once the block is left early: by an error, a signal, or whoever stops reading."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _digests(source: ImageSource, pool: ThreadPoolExecutor) -> list[str]:
    return list(in_order(pool, source.digest, len(source)))
