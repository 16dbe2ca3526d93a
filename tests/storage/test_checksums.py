from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everclip.storage.checksums import BLOCK, COLUMNS, ROWS, SIZE, checksum

CONTENT = np.random.default_rng(0).integers(0, 256, BLOCK, dtype=np.uint8)
CONTENT.flags.writeable = False
SUM = checksum(CONTENT)


def by_hand(content: bytes) -> bytes:
    """The same in Python's own numbers."""
    numbers = [value for (value,) in struct.iter_unpack("<Q", content.ljust(BLOCK, b"\0"))]
    table = [numbers[start : start + COLUMNS] for start in range(0, len(numbers), COLUMNS)]
    assert len(table) == ROWS
    rows, columns = ([sum(line) % 2**64 for line in lines] for lines in (table, zip(*table, strict=True)))
    crcs = (zlib.crc32(struct.pack(f"<{len(sums)}Q", *sums)) for sums in (rows, columns))
    return struct.pack("<QII", sum(numbers) % 2**64, *crcs)


@pytest.mark.parametrize("size", [0, 1, 8, 1000, 8 * COLUMNS, BLOCK - 1, BLOCK])
def test_what_it_is(size: int) -> None:
    assert checksum(CONTENT[:size]) == by_hand(CONTENT[:size].tobytes())


def test_what_it_is_never_changes() -> None:
    """Another rule, and every cache file looks damaged."""
    content = (np.arange(BLOCK) * 7 % 251).astype(np.uint8)
    assert checksum(content).hex() == "3622f757b1fc59b4c239589ac3c01026"
    assert len(SUM) == SIZE


@settings(deadline=None)
@given(place=st.integers(0, BLOCK - 1), flipped=st.integers(1, 255))
def test_any_changed_byte_shows(place: int, flipped: int) -> None:
    changed = CONTENT.copy()
    changed[place] ^= flipped
    assert checksum(changed) != SUM


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, BLOCK - 1), st.integers(1, 255)), min_size=2, max_size=6))
def test_several_changed_bytes_show(changes: list[tuple[int, int]]) -> None:
    changed = CONTENT.copy()
    for place, flipped in changes:
        changed[place] ^= flipped
    assert (checksum(changed) == SUM) == bool((changed == CONTENT).all())


def rolled(start: int, stop: int, by: int) -> np.ndarray:
    """The content with a part of it turned."""
    changed = CONTENT.copy()
    changed[start:stop] = np.roll(changed[start:stop], by)
    return changed


def negated(*places: int) -> np.ndarray:
    """The content with the top bit of some bytes flipped."""
    changed = CONTENT.copy()
    changed[list(places)] ^= 128
    return changed


DAMAGE = {
    "a page of zeros": np.concatenate([CONTENT[:8192], np.zeros(4096, np.uint8), CONTENT[12288:]]),
    "nothing but zeros": np.zeros(BLOCK, np.uint8),
    "all bits inverted": ~CONTENT,
    "two pages exchanged": rolled(4096, 12288, 4096),
    "two sectors exchanged": rolled(512, 1536, 512),
    "two numbers exchanged": rolled(16, 32, 8),
    "two rows exchanged": rolled(0, 16 * COLUMNS, 8 * COLUMNS),
    "shifted by a byte": rolled(0, BLOCK, 1),
    "shifted by a number": rolled(0, BLOCK, 8),
    "shifted by a row": rolled(0, BLOCK, 8 * COLUMNS),
    "two numbers of a row negated": negated(7, 15),
    "two numbers of a column negated": negated(7, 7 + 8 * COLUMNS),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_of_many_bytes_shows(kind: str) -> None:
    assert not np.array_equal(DAMAGE[kind], CONTENT)
    assert checksum(DAMAGE[kind]) != SUM


@pytest.mark.parametrize("first", [0, 8 * 17, 8 * 4000])
@pytest.mark.parametrize("stride", [1, 2, 4, 8, 64, 512, 1020, 1021, 1022, 2042])
@pytest.mark.parametrize("count", [2, 64, 1021, 5000])
def test_a_band_of_negated_numbers_shows(first: int, stride: int, count: int) -> None:
    """The top bit of 64 is the one that a sum sees least of: two of them cancel out."""
    changed = CONTENT.copy()
    places = first + 7 + 8 * stride * np.arange(count)
    places = places[places < BLOCK]
    changed[places] ^= 128
    assert checksum(changed) != SUM
