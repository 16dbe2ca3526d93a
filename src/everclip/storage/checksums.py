"""Checksums of blocks of a file, quick enough to check whatever is read.

A block is looked at as a table of 64-bit numbers. Its checksum is the sum of all numbers, the CRC-32 of the sums of
the rows and the CRC-32 of the sums of the columns, all sums modulo 2^64. A number that changed changes the sum of all,
whatever the change is: damage within 8 aligned bytes is always noticed. Other damage is missed only if it leaves the
sum as it is and gives the rows and the columns sums of the same CRC-32 again. For random damage that is one case in
2^128. Damage with a pattern (a bit that is always wrong, every other number negated) would have to fit the table to
cancel out in its rows and its columns, and rows of 1,021 numbers, a prime, fit no pattern.

Why not what the standard library has: reading from a cache is little more than copying, and numpy adds up nearly as
fast as it copies. Where 13 GB/s were added up and 19 copied, a CRC-32 of every byte took in 3.7 GB/s (older versions of
zlib a third of that), and BLAKE2b 0.8 (`benchmarks/cache.py` measures it). Like those CRCs it guards against accidents,
not against somebody who means to deceive.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

ROWS, COLUMNS = 64, 1021

BLOCK = 8 * ROWS * COLUMNS
"""Bytes of a block, 511 KiB: it fits the cache of a core, so that what was checked is at hand to be copied."""

_CHECKSUM = struct.Struct("<QII")  # the sum of all, the CRC-32 of the sums of the rows, and of those of the columns

SIZE = _CHECKSUM.size
"""Bytes of a checksum."""


def checksum(content: np.ndarray) -> bytes:
    """The checksum of a block.

    Args:
        content: (n,) uint8, n ≤ `BLOCK`; a shorter block counts as if zeros followed.
    """
    if len(content) < BLOCK:
        padded = np.zeros(BLOCK, np.uint8)
        padded[: len(content)] = content
        content = padded
    table = content.view("<u8").reshape(ROWS, COLUMNS)
    rows, columns = np.add.reduce(table, axis=1), np.add.reduce(table, axis=0)
    return _CHECKSUM.pack(int(np.add.reduce(rows)), zlib.crc32(_little(rows)), zlib.crc32(_little(columns)))


def _little(sums: np.ndarray) -> memoryview:
    return sums.astype("<u8", copy=False).data  # numpy adds up in the order of bytes of the machine
