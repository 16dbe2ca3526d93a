"""Decoded images in the cache folder: each image is decoded once, then read through a memory map.

A cache file holds the pixels of all images, one after the other, then an index (JSON), then a footer of fixed size with
the lengths of both and the hash of the index. A file that does not fit its footer, because it was cut short or
overwritten, is built again.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from PIL import Image

from everclip.data.cache import cache_dir, cache_key, written_atomically
from everclip.data.source import BadImage, ImageSource
from everclip.errors import InputError
from everclip.system.processes import by_main

FORMAT = 1
"""Part of every key: raise it when the same files would give other pixels or another layout."""

_MAGIC = b"everclip"
_FOOTER = struct.Struct("<8sQQ16s")  # magic, bytes of pixels, bytes of index, BLAKE2b-128 of the index

Progress = Callable[[int, int], None]
"""Called as `progress(done, total)` after each image that is decoded."""

Result = TypeVar("Result")


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

    def __init__(self, source: ImageSource, index: dict[str, Any], pixels: np.ndarray) -> None:
        skipped = [position for position, _ in index["skipped"]]
        self._source = source
        self._kept = np.delete(np.arange(len(source)), skipped)
        self._shapes: list[tuple[int, int, int]] = index["shapes"]
        self._pixels = pixels
        self.labels = source.labels[self._kept]
        self.skipped: list[tuple[str, str]] = [(source.name(position), reason) for position, reason in index["skipped"]]
        self.key: str = index["key"]
        self.content: str = index["content"]

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
        pixels: (N, 3, S, S) uint8, memory-mapped and read-only.
    """

    def __init__(self, source: ImageSource, index: dict[str, Any], pixels: np.ndarray) -> None:
        super().__init__(source, index, pixels)
        self.pixels = pixels.reshape(len(self), *self._shapes[0])

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        """Return (3, S, S) or (B, 3, S, S) uint8."""
        return self.pixels[index]


class DecodedImages(Images):
    """Images of any size."""

    def __init__(self, source: ImageSource, index: dict[str, Any], pixels: np.ndarray) -> None:
        super().__init__(source, index, pixels)
        self._ends = np.cumsum([math.prod(shape) for shape in self._shapes])

    def __getitem__(self, index: int) -> np.ndarray:
        """Return (H, W, 3) uint8, memory-mapped and read-only."""
        shape, end = self._shapes[index], self._ends[index]
        return self._pixels[end - math.prod(shape) : end].reshape(shape)

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

    with ThreadPoolExecutor(workers) as pool:
        yield from _in_order(pool, load, len(source))


def view_pixels(image: Image.Image, view: View) -> np.ndarray:
    """What the tower sees of an RGB image: (3, S, S) uint8."""
    pixels = np.asarray(view(image))
    if pixels.shape != (view.size, view.size, 3):
        raise ValueError(f"the view {view.key} states size {view.size} but returned {pixels.shape}")
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _cached(
    source: ImageSource,
    transform_key: str,
    transform: Callable[[Image.Image], np.ndarray],
    workers: int,
    progress: Progress | None,
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the index and the flat pixels of all images, from the cache file or by building it first.

    The index gets the `content` of the source besides.
    """
    if not len(source):
        raise InputError("there is no image to read; check that this part of the dataset is not empty")

    def built() -> tuple[Path, str]:
        with ThreadPoolExecutor(workers) as pool:
            digests = _digests(source, pool)
            path = cache_dir() / "images" / f"{cache_key(FORMAT, transform_key, *digests)}.pixels"
            if _open(path) is None:
                _build(path, source, digests, transform, pool, progress)
        return path, cache_key(*digests)

    path, content = by_main(built)
    if (stored := _open(path)) is None:
        raise InputError(f"{path} was damaged while it was written; check the disk or set EVERCLIP_CACHE")
    index, pixels = stored
    return index | {"content": content}, pixels


def content_key(source: ImageSource, workers: int = 2) -> str:
    """What `Images.content` of a source is; every file is read, no image is decoded."""
    with ThreadPoolExecutor(workers) as pool:
        return cache_key(*_digests(source, pool))


def _digests(source: ImageSource, pool: ThreadPoolExecutor) -> list[str]:
    return list(_in_order(pool, source.digest, len(source)))


def _open(path: Path) -> tuple[dict[str, Any], np.ndarray] | None:
    """Return the index and the flat pixels of a cache file, or None when it is absent or not intact."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _FOOTER.size))
            footer = file.read().rjust(_FOOTER.size)
            magic, pixel_bytes, index_bytes, index_hash = _FOOTER.unpack(footer)
            if magic != _MAGIC or pixel_bytes + index_bytes + _FOOTER.size != size:
                return None
            file.seek(pixel_bytes)
            index = file.read(index_bytes)
    except OSError:
        return None
    if _hash(index).digest() != index_hash:
        return None
    return json.loads(index), np.memmap(path, np.uint8, "r", shape=(pixel_bytes,)).view(np.ndarray)


def _build(
    path: Path,
    source: ImageSource,
    digests: list[str],
    transform: Callable[[Image.Image], np.ndarray],
    pool: ThreadPoolExecutor,
    progress: Progress | None,
) -> None:
    def load(position: int) -> np.ndarray | BadImage:
        try:
            return transform(source.decode(position))
        except BadImage as error:
            return error

    content = _hash()
    shapes: list[tuple[int, ...]] = []
    skipped: list[tuple[int, str]] = []
    with written_atomically(path) as file:
        for position, result in enumerate(_in_order(pool, load, len(source))):
            if isinstance(result, BadImage):
                skipped.append((position, result.reason))
            else:
                content.update(struct.pack("<3Q", *result.shape))
                content.update(result.data)
                file.write(result.data)
                shapes.append(result.shape)
            if progress is not None:
                progress(position + 1, len(source))
        if not shapes:
            raise InputError(
                f"none of the {len(source)} images can be used; the first, {source.name(0)}: {skipped[0][1]}"
            )
        for position, _ in skipped:
            # A file that vanished after its digest was taken must not be remembered as bad under that digest.
            if source.digest(position) != digests[position]:
                raise InputError(f"{source.name(position)} changed while it was being read; run again")
        pixel_bytes = file.tell()
        index = json.dumps({"key": content.hexdigest(), "shapes": shapes, "skipped": skipped}).encode()
        file.write(index)
        file.write(_FOOTER.pack(_MAGIC, pixel_bytes, len(index), _hash(index).digest()))


def _hash(content: bytes = b"") -> hashlib.blake2b:
    return hashlib.blake2b(content, digest_size=16)


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[int], Result], count: int, ahead: int = 32
) -> Iterator[Result]:
    """Yield function(0), function(1), ... computed by the pool at most `ahead` before they are used.

    `pool.map` would keep every result that is ready in memory while an early one is slow.
    """
    pending: deque[Future[Result]] = deque()
    for position in range(count):
        pending.append(pool.submit(function, position))
        if len(pending) == ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
