from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everclip.storage.blockfile import BlockFile
from everclip.storage.blocks import BlockWriter
from everclip.storage.checksums import BLOCK
from everclip.storage.verified import VerifiedArray

ROWS, OFFSET = 37, 64
NUMBERS = np.random.default_rng(0).normal(size=(ROWS, 3, BLOCK // 100)).astype(np.float32)
NUMBERS.flags.writeable = False


def stored(path: Path, numbers: np.ndarray = NUMBERS, damaged: bool = False) -> tuple[VerifiedArray, list[int]]:
    """An array in a file, every block of it damaged or none; and where something is computed again."""
    content = bytes(OFFSET) + numbers.tobytes()
    with open(path, "wb") as file:
        writer = BlockWriter(file)
        writer.write(content)
        writer.finish({})
    if damaged:
        with open(path, "r+b") as file:
            for place in range(0, len(content), BLOCK):
                file.seek(place)
                file.write(b"damage")
    opened = BlockFile.open(path)
    assert opened is not None
    asked: list[int] = []

    def restore(start: int, stop: int) -> bytes:
        asked.append(start)
        return content[start:stop]

    opened.restored_by(restore, exact=True)
    return VerifiedArray(opened, numbers.dtype, numbers.shape, OFFSET), asked


rows = st.integers(-ROWS, ROWS - 1)
bounds = st.none() | st.integers(-ROWS - 3, ROWS + 3)
firsts = st.one_of(
    rows,
    rows.map(np.int64),
    st.builds(slice, bounds, bounds, st.sampled_from([None, 1, 2, -1, -3])),
    st.lists(rows, max_size=9),
    st.lists(rows, max_size=9).map(lambda some: np.array(some, dtype=np.int64)),
    st.builds(lambda start, count: np.arange(start, min(ROWS, start + count)), st.integers(0, ROWS), st.integers(0, 9)),
    st.lists(st.booleans(), min_size=ROWS, max_size=ROWS).map(np.array),
    st.sampled_from([Ellipsis, None]),
    st.lists(rows, min_size=4, max_size=4).map(lambda some: np.array(some).reshape(2, 2)),
)
indices = firsts | st.builds(lambda first, second: (first, second), firsts, st.integers(0, 2) | st.just(slice(1, None)))


@given(index=indices, damaged=st.booleans())
@settings(max_examples=100, deadline=None)
def test_it_is_indexed_like_a_numpy_array(tmp_path_factory: pytest.TempPathFactory, index, damaged: bool) -> None:
    array, _ = stored(tmp_path_factory.mktemp("array") / "file", damaged=damaged)
    got = array[index]
    assert np.array_equal(got, NUMBERS[index])
    assert got.dtype == np.float32


@pytest.mark.parametrize("index", [ROWS, -ROWS - 1, np.array([0, ROWS]), [-ROWS - 1], (ROWS, 0)])
def test_there_is_no_such_row(tmp_path: Path, index) -> None:
    array, _ = stored(tmp_path / "file")
    with pytest.raises(IndexError):
        array[index]


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    array, _ = stored(tmp_path / "file")
    assert (array.shape, array.dtype, array.ndim, len(array)) == (NUMBERS.shape, np.float32, 3, ROWS)
    assert array.row_bytes == NUMBERS[0].nbytes
    assert [float(row[0, 0]) for row in array] == NUMBERS[:, 0, 0].tolist()


def test_every_way_to_the_rows_is_verified(tmp_path: Path) -> None:
    ways = {
        "asarray": np.asarray,
        "array": np.array,
        "another type": lambda array: np.asarray(array, dtype=np.float64),
        "copy": lambda array: array.copy(),
        "mapped": lambda array: array.mapped(),
        "slice": lambda array: array[:],
        "list": list,
        "ellipsis": lambda array: array[...],
        "function": lambda array: np.concatenate([array]),
    }
    for name, way in ways.items():
        array, asked = stored(tmp_path / name, damaged=True)
        assert np.array_equal(way(array), NUMBERS), name
        assert asked, name
    assert [name for name in vars(array) if not name.startswith("_")] == ["dtype", "shape", "row_bytes"]


def test_it_is_read_only_and_mapped(tmp_path: Path) -> None:
    array, _ = stored(tmp_path / "file")
    for view in (array[:], array[3], np.asarray(array)):
        assert not view.flags.writeable
        assert view.base is not None
    for copy in (array.copy(), np.array(array), array[np.array([3, 1])]):
        copy += 1
    private = array.mapped()
    private += 1
    assert np.array_equal(array, NUMBERS)
    assert np.array_equal(stored(tmp_path / "again")[0], NUMBERS)


def test_only_the_blocks_of_the_rows_are_read(tmp_path: Path) -> None:
    array, asked = stored(tmp_path / "file", damaged=True)
    array[np.array([ROWS - 1, ROWS - 2])]
    assert asked
    assert min(asked) >= (ROWS - 2) * array.row_bytes // BLOCK * BLOCK
    before = len(asked)
    array[ROWS - 1]
    assert len(asked) == before


@pytest.mark.parametrize("shape", [(0,), (0, 5), (4, 0), (3,)])
def test_small_and_empty_arrays(tmp_path: Path, shape: tuple[int, ...]) -> None:
    numbers = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    array, _ = stored(tmp_path / "file", numbers)
    for got in (array[:], array.copy(), np.array(array), array.mapped(), array[np.arange(len(numbers))]):
        assert np.array_equal(got, numbers)
        assert got.dtype == np.int16


def test_content_that_is_too_short(tmp_path: Path) -> None:
    array, _ = stored(tmp_path / "file")
    with pytest.raises(ValueError, match="too short"):
        VerifiedArray(array._file, np.dtype(np.float32), (ROWS + 1, *NUMBERS.shape[1:]), OFFSET)
