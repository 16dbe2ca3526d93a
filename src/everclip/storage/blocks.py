"""Files with a checksum for every block of their content: how they are written.

    content | checksums of its blocks | index (JSON) | footer

The footer has a fixed size: it holds the lengths of content and index, and a hash of all that follows the content. So
a file that was cut short, or whose checksums or index were changed, is refused when it is opened, before any of its
content is read. Checksums and content are one file, so they can't be of different writers. `BlockFile` reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from everclip.storage.checksums import BLOCK, SIZE, checksum

_MAGIC = b"ecblock1"
_FOOTER = struct.Struct("<8sQQ16s")  # magic, bytes of content, bytes of index, BLAKE2b-128 of what stands between


@dataclass(frozen=True)
class End:
    """What follows the content of a file.

    Attributes:
        size: of the content, in bytes.
        sums: the checksums of its blocks, one after the other.
        index: what the writer said of the content.
    """

    size: int
    sums: bytes
    index: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> End | None:
        """The end of a file, or None where there is no file or its end is not what was written."""
        try:
            with open(path, "rb") as file:
                length = file.seek(0, os.SEEK_END)
                file.seek(max(0, length - _FOOTER.size))
                magic, size, index_size, digest = _FOOTER.unpack(file.read().rjust(_FOOTER.size))
                sums_size = -(-size // BLOCK) * SIZE
                if magic != _MAGIC or size + sums_size + index_size + _FOOTER.size != length:
                    return None
                file.seek(size)
                sums, index = file.read(sums_size), file.read(index_size)
        except OSError:
            return None
        return cls(size, sums, json.loads(index)) if _hash(size, sums, index) == digest else None

    def write(self, file: BinaryIO) -> None:
        """Append it to the content."""
        index = json.dumps(self.index).encode()
        digest = _hash(self.size, self.sums, index)
        for part in (self.sums, index, _FOOTER.pack(_MAGIC, self.size, len(index), digest)):
            file.write(part)


def _hash(size: int, sums: bytes, index: bytes) -> bytes:
    return hashlib.blake2b(b"%d %d " % (size, len(index)) + sums + index, digest_size=16).digest()


class BlockWriter:
    """Writes the content of a file in any portions, then its checksums.

    Args:
        file: empty, open for writing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rest = bytearray()  # of the block that is not full yet
        self._sums = bytearray()
        self.size = 0

    def write(self, content: bytes | np.ndarray) -> None:
        """Append to the content, in the order of the bytes in memory."""
        part = np.frombuffer(content, np.uint8) if isinstance(content, bytes) else _bytes_of(content)
        self._file.write(part.data)
        self.size += len(part)
        if self._rest:
            missing = BLOCK - len(self._rest)
            self._rest += part[:missing].data
            part = part[missing:]
            if len(self._rest) < BLOCK:
                return
            self._sums += checksum(np.frombuffer(self._rest, np.uint8))
            self._rest = bytearray()
        full = len(part) // BLOCK * BLOCK
        for start in range(0, full, BLOCK):
            self._sums += checksum(part[start : start + BLOCK])
        self._rest += part[full:].data

    def finish(self, index: Mapping[str, Any]) -> None:
        """Append what follows the content.

        Args:
            index: what a reader must know of the content; JSON can say it.
        """
        if self._rest:
            self._sums += checksum(np.frombuffer(self._rest, np.uint8))
        End(self.size, bytes(self._sums), dict(index)).write(self._file)


def _bytes_of(array: np.ndarray) -> np.ndarray:
    """The bytes of an array (n,), without a copy where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
