"""Arrays in files, whose rows are verified before anybody gets them."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import numpy as np

from everclip.storage.blockfile import BlockFile, shared_out

_PORTION = 1 << 22
"""Bytes of rows that a thread checks at a time."""


class VerifiedArray:
    """An array (N, …) in a file with checksums, read-only and read lazily.

    It is indexed like a numpy array, and `np.asarray` makes one of it. Whatever is asked for is checked first, and
    computed again where it is damaged; what nobody asks for is not read. There is no way to the rows but these.

    Args:
        file: the array's bytes are in its content, in C order.
        dtype: of the numbers.
        shape: at least one dimension.
        offset: where in the content the array begins.

    Attributes:
        dtype: of the numbers.
        shape: (N, …).
        row_bytes: how many bytes a row has.

    Raises:
        ValueError: the content is too short for the shape.
    """

    def __init__(self, file: BlockFile, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int = 0) -> None:
        self._file = file
        self.dtype = dtype
        self.shape = shape
        self._offset = offset
        self.row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        if offset + self.row_bytes * shape[0] > file.size:
            raise ValueError(f"{file.path} is too short for an array {shape} of {dtype}")

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[row] for row in range(len(self)))

    @property
    def ndim(self) -> int:
        """How many dimensions the array has."""
        return len(self.shape)

    @property
    def _rows(self) -> np.ndarray:
        """All rows as they are in the file, whether verified or not."""
        end = self._offset + len(self) * self.row_bytes
        return self._file.content[self._offset : end].view(self.dtype).reshape(self.shape)

    def __getitem__(self, index: Any) -> Any:
        """Rows, or parts of them: by an integer or a slice as read-only views, by integers or a mask as a copy.

        Raises:
            IndexError: there is no such row.
            EverclipError: rows are damaged, and can't be computed again or put into the file.
        """
        if self._file.whole:
            return self._rows[index]
        first = index[0] if isinstance(index, tuple) and index else index
        if isinstance(first, slice):
            chosen = range(len(self))[first]
            self._verify(min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1]) + 1) if chosen else None
        elif isinstance(first, (int, np.integer)) and not isinstance(first, bool):
            row = range(len(self))[operator.index(first)]
            self._verify(row, row + 1)
        elif isinstance(first, (np.ndarray, list)):
            rows = self._positions(np.asarray(first))
            if rows is not None and first is index:
                return self._gathered(rows)
            self._verify(0, len(self)) if rows is None else self._require(rows)
        else:
            self._verify(0, len(self))
        return self._rows[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows; without a copy they stay mapped, and read-only."""
        if copy:
            rows = self.copy()
        else:
            self._verify(0, len(self))
            rows = self._rows
        return rows if dtype is None else rows.astype(dtype, copy=False)

    def copy(self) -> np.ndarray:
        """All rows, in memory."""
        return self._run(0, len(self))

    def mapped(self) -> np.ndarray:
        """All rows, verified, mapped so that whoever changes them changes memory of its own and not the file."""
        self._verify(0, len(self))
        if not self.row_bytes * len(self):
            return np.empty(self.shape, self.dtype)
        return np.memmap(self._file.path, self.dtype, "c", self._offset, self.shape)

    # -- checking ------------------------------------------------------------------------------------------------------

    def _verify(self, start: int, stop: int) -> None:
        """Rows from `start` to `stop`."""
        self._file.verify(self._offset + start * self.row_bytes, self._offset + stop * self.row_bytes)

    def _pending(self, rows: np.ndarray) -> np.ndarray:
        return self._file.pending(self._offset + rows * self.row_bytes, self.row_bytes)

    def _require(self, rows: np.ndarray) -> None:
        self._file.restore(self._file.damaged(self._pending(rows).tolist()))

    def _positions(self, index: np.ndarray) -> np.ndarray | None:
        """Which rows (B,) an array asks for, from 0 on; None where it is no list of rows."""
        if index.ndim != 1:
            return None
        if index.dtype == bool:
            return np.flatnonzero(index) if len(index) == len(self) else None
        if index.dtype.kind not in "iu" and len(index):
            return None
        rows = index.astype(np.int64)
        if len(rows) and not (-len(self) <= rows.min() and rows.max() < len(self)):
            raise IndexError(f"there are {len(self)} rows, but rows {rows.min()} to {rows.max()} are asked for")
        return np.where(rows < 0, rows + len(self), rows)

    def _gathered(self, rows: np.ndarray) -> np.ndarray:
        """A copy of rows (B,), from 0 on."""
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows) and bool((np.diff(rows) == 1).all()):
            return self._run(int(rows[0]), int(rows[-1]) + 1)  # one run, as a batch of an evaluation is
        if len(self._pending(rows)):
            size = max(1, _PORTION // self.row_bytes)
            starts = range(0, len(rows), size)
            self._file.restore(
                shared_out(lambda at: self._file.damaged(self._pending(rows[at : at + size]).tolist()), starts)
            )
        copied: np.ndarray = self._rows[rows]
        return copied

    def _run(self, start: int, stop: int) -> np.ndarray:
        """A copy of the rows from `start` to `stop`."""
        if not self.row_bytes:
            return np.empty((stop - start, *self.shape[1:]), self.dtype)
        content = self._file.read(self._offset + start * self.row_bytes, self._offset + stop * self.row_bytes)
        return content.view(self.dtype).reshape(stop - start, *self.shape[1:])
