"""What earlier versions stored in the cache, without checksums."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_FOOTER = struct.Struct("<8sQQ16s")  # b"everclip", bytes of pixels, bytes of index, BLAKE2b-128 of the index
_PORTION = 1 << 24


def is_older_array(path: Path) -> bool:
    """Whether a file is a whole `.npy` and nothing else. Nobody can tell whether its numbers are what they were."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return bool(array.offset + array.nbytes == path.stat().st_size)
    except Exception:
        return False  # numpy parses the header as Python text, so broken bytes raise anything


class PixelHash:
    """The hash of pixels and shapes, image by image."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, shape: Sequence[int], pixels: bytes | memoryview) -> None:
        """One more image."""
        self._hash.update(struct.pack("<3Q", *shape))
        self._hash.update(pixels)

    def hexdigest(self) -> str:
        """The hash of all images so far."""
        return self._hash.hexdigest()


class OlderPixels:
    """A file of decoded images: pixels, an index with the hash of all of them, a footer.

    Attributes:
        index: as the file has it: `key`, `shapes` and `skipped`.
    """

    def __init__(self, path: Path, size: int, index: dict[str, Any]) -> None:
        self._path, self._size, self.index = path, size, index

    @classmethod
    def open(cls, path: Path) -> OlderPixels | None:
        """Read the end of a file; None where it is no such file, or its end is damaged."""
        try:
            with open(path, "rb") as file:
                length = file.seek(0, 2)
                file.seek(max(0, length - _FOOTER.size))
                magic, size, index_size, digest = _FOOTER.unpack(file.read().rjust(_FOOTER.size))
                if magic != b"everclip" or size + index_size + _FOOTER.size != length:
                    return None
                file.seek(size)
                index = file.read(index_size)
        except OSError:
            return None
        return cls(path, size, json.loads(index)) if hashlib.blake2b(index, digest_size=16).digest() == digest else None

    def intact(self) -> bool:
        """Whether the pixels have the hash that the index tells; all of them are read."""
        content = PixelHash()
        with open(self._path, "rb") as file:
            for shape in self.index["shapes"]:
                content.add(shape, file.read(math.prod(shape)))
            return file.tell() == self._size and content.hexdigest() == self.index["key"]

    def portions(self) -> Iterator[bytes]:
        """The pixels, from the first to the last."""
        with open(self._path, "rb") as file:
            for start in range(0, self._size, _PORTION):
                yield file.read(min(_PORTION, self._size - start))
