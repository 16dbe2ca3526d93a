"""A cache file of decoded images: built, opened, and mended by decoding what is damaged again."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from everclip.data.cache import written_atomically
from everclip.data.older import OlderPixels, PixelHash
from everclip.data.source import BadImage, ImageSource
from everclip.errors import EverclipError, InputError
from everclip.storage.blockfile import BlockFile
from everclip.storage.blocks import BlockWriter
from everclip.storage.verified import VerifiedArray

Progress = Callable[[int, int], None]
"""Called as `progress(done, total)` after each image that is decoded."""

Transform = Callable[[Image.Image], np.ndarray]
"""What is kept of an image: its pixels, uint8."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Pixels:
    """The pixels of all images of a source that could be decoded, one image after the other.

    Attributes:
        file: where they lie.
        key: hex hash of all pixels and shapes.
        shapes: of each image.
        skipped: (position in the source, reason) of every image that could not be used.
    """

    file: BlockFile
    key: str
    shapes: list[tuple[int, int, int]]
    skipped: list[tuple[int, str]]

    def array(self, *shape: int) -> VerifiedArray:
        """All pixels, uint8, in a shape that holds them; flat by default."""
        return VerifiedArray(self.file, np.dtype(np.uint8), shape or (self.file.size,))


def open_pixels(path: Path, source: ImageSource, transform: Transform) -> Pixels | None:
    """Open the cache file of a source; None where there is none, or where it can't be verified.

    Damaged pixels are decoded again from the source when they are read.
    """
    file = BlockFile.open(path)
    if file is None:
        return None
    try:
        shapes = [(int(height), int(width), int(depth)) for height, width, depth in file.index["shapes"]]
        skipped = [(int(position), str(reason)) for position, reason in file.index["skipped"]]
        pixels = Pixels(file, str(file.index["key"]), shapes, skipped)
        whole = file.index["name"] == path.stem and sum(map(math.prod, shapes)) == file.size
    except (LookupError, TypeError, ValueError):
        return None  # checksums of something else than pixels
    if not whole or len(shapes) + len(skipped) != len(source):
        return None  # the pixels of other images lie under this name
    kept = np.delete(np.arange(len(source)), [position for position, _ in skipped])
    ends = np.cumsum([math.prod(shape) for shape in shapes])

    def restore(start: int, stop: int) -> bytes:
        first, last = (int(np.searchsorted(ends, place, "right")) for place in (start, stop - 1))
        content = b"".join(_again(source, int(kept[image]), transform, path) for image in range(first, last + 1))
        begin = start - (int(ends[first - 1]) if first else 0)
        return content[begin : begin + stop - start]

    # `key` is the hash of these pixels, and names what is computed from them: no others may take their place.
    file.restored_by(restore, exact=True)
    return pixels


def _again(source: ImageSource, position: int, transform: Transform, path: Path) -> bytes:
    try:
        return transform(source.decode(position)).tobytes()
    except BadImage as error:
        raise EverclipError(
            f"{path} is damaged, and an image that it was made from can't be decoded again ({error}); restore the "
            "image, or remove the damaged file and give the command again without the image."
        ) from error


def build_pixels(
    path: Path,
    source: ImageSource,
    digests: list[str],
    transform: Transform,
    pool: ThreadPoolExecutor,
    progress: Progress | None,
) -> None:
    """Decode all images of a source into a cache file.

    Args:
        path: of the file; it appears when it is complete.
        source: the images.
        digests: of the images, taken before.
        transform: what is kept of each.
        pool: threads that decode.
        progress: called after each image.

    Raises:
        InputError: no image can be used, one changed meanwhile, or the cache folder cannot be written.
    """

    def load(position: int) -> np.ndarray | BadImage:
        try:
            return transform(source.decode(position))
        except BadImage as error:
            return error

    content = PixelHash()
    shapes: list[tuple[int, ...]] = []
    skipped: list[tuple[int, str]] = []
    with written_atomically(path) as file:
        writer = BlockWriter(file)
        for position, result in enumerate(in_order(pool, load, len(source))):
            if isinstance(result, BadImage):
                skipped.append((position, result.reason))
            else:
                result = np.ascontiguousarray(result)
                content.add(result.shape, result.data)
                writer.write(result)
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
        writer.finish({"name": path.stem, "key": content.hexdigest(), "shapes": shapes, "skipped": skipped})


def adopted(path: Path) -> bool:
    """Give a file that an earlier version wrote checksums, if all its pixels are what they were; whether there was one.

    Those files have a hash of all pixels, which takes a whole reading to be compared.

    Raises:
        InputError: the cache folder cannot be written.
    """
    older = OlderPixels.open(path)
    if older is None or not older.intact():
        return False
    with written_atomically(path) as file:
        writer = BlockWriter(file)
        for portion in older.portions():
            writer.write(portion)
        writer.finish({"name": path.stem} | older.index)
    return True


def in_order(
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
