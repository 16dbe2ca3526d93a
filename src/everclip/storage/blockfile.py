"""Files that are checked where they are read, block by block, and mended where they are damaged."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np

from everclip.errors import EverclipError
from everclip.storage.blocks import End
from everclip.storage.checksums import BLOCK, SIZE, checksum
from everclip.storage.files import atomic_file
from everclip.system.display import say
from everclip.system.processes import world

_TOGETHER = 8
"""Blocks that a thread checks at a time."""

Restore = Callable[[int, int], bytes]
"""Gives the bytes of the content from one place to another, computed again."""


def shared_out(portion: Callable[[int], list[int]], starts: Sequence[int]) -> list[int]:
    """Check several portions, in as many threads as this process has processors; which blocks are damaged."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = min(8, allowed // world(), len(starts))
    if threads < 2:
        found = map(portion, starts)
        return sorted({block for blocks in found for block in blocks})
    with ThreadPoolExecutor(threads) as pool:
        return sorted({block for blocks in pool.map(portion, starts) for block in blocks})


class BlockFile:
    """The content of a file with checksums, mapped into memory; what was checked once is not checked again.

    Any number of threads may use it, and any number of processes the same file.

    Attributes:
        path: the file.
        size: of its content, in bytes.
        index: what the writer said of it.
        whole: every block was checked, and nothing is left to do.
    """

    def __init__(self, path: Path, end: End) -> None:
        self.path, self.size, self.index = path, end.size, end.index
        self._lock = threading.RLock()
        self._told = False
        self._restore: Restore | None = None
        self._exact = True
        self._map(end.sums)

    def _map(self, sums: bytes) -> None:
        self._identity = _identity(os.stat(self.path))
        self._sums = np.frombuffer(bytearray(sums), f"V{SIZE}")
        self._pending = np.ones(len(self._sums), dtype=bool)  # not checked yet
        self.whole = not len(self._sums)
        self._content = np.empty(0, np.uint8)
        if self.size:
            self._content = np.memmap(self.path, np.uint8, "r", shape=(self.size,)).view(np.ndarray)

    @classmethod
    def open(cls, path: Path) -> BlockFile | None:
        """Map a file, or return None where there is none or where its end is not what was written."""
        end = End.read(path)
        try:
            return None if end is None else cls(path, end)
        except (OSError, ValueError):  # gone, or replaced by a shorter one, since its end was read
            return None

    def restored_by(self, restore: Restore, exact: bool) -> None:
        """Say how to come by the content of damaged blocks.

        Args:
            restore: gives it.
            exact: it gives the very same bytes again, because names are derived from them. Otherwise what is computed
                again may differ by rounding, and takes the place of what was there.
        """
        self._restore, self._exact = restore, exact

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def content(self) -> np.ndarray:
        """The mapped content (size,) uint8, read-only. Only what was verified may be believed."""
        return self._content

    @property
    def blocks(self) -> int:
        """How many there are."""
        return len(self._sums)

    def pending(self, starts: np.ndarray, length: int) -> np.ndarray:
        """The blocks, not checked yet, that hold `length` bytes from each of some places on (n,) int64; ascending."""
        if self.whole or not length or not len(starts):
            return np.empty(0, np.int64)
        first, last = starts // BLOCK, (starts + length - 1) // BLOCK
        if len(starts) == 1:
            return int(first[0]) + np.flatnonzero(self._pending[int(first[0]) : int(last[0]) + 1])
        touched = np.zeros(len(self._pending), dtype=bool)
        for step in range(int((last - first).max()) + 1):
            touched[np.minimum(first + step, last)] = True
        return np.flatnonzero(touched & self._pending)

    def damaged(self, blocks: Iterable[int]) -> list[int]:
        """Check some blocks and return those that are not what was written; the others are not checked again."""
        found = []
        for block in blocks:
            if self._intact(block):
                self._pending[block] = False
            else:
                found.append(block)
        self.whole = not self._pending.any()
        return found

    def verify(self, start: int, stop: int) -> None:
        """Make sure that a part of the content is what was written, computed again where it is not.

        Raises:
            EverclipError: a damaged block can't be restored.
        """
        if not self.whole and (damaged := self.inspected(start, stop)):
            self.restore(damaged)

    def inspected(self, start: int, stop: int) -> list[int]:
        """The damaged blocks of a part of the content; nothing is restored."""
        blocks = self.pending(np.array([start]), stop - start).tolist()
        if not blocks:
            return []
        return shared_out(lambda at: self.damaged(blocks[at : at + _TOGETHER]), range(0, len(blocks), _TOGETHER))

    def read(self, start: int, stop: int) -> np.ndarray:
        """A copy of a part of the content, uint8; see `verify`.

        Each block is copied right after it was checked, while the processor has it at hand.
        """
        if self.whole:
            intact: np.ndarray = self._content[start:stop].copy()
            return intact
        copied = np.empty(stop - start, np.uint8)
        first, last = start // BLOCK, -(-stop // BLOCK)

        def portion(begin: int) -> list[int]:
            found = []
            for block in range(begin, min(begin + _TOGETHER, last)):
                if self._pending[block]:
                    found += self.damaged([block])
                low, high = max(start, block * BLOCK), min(stop, (block + 1) * BLOCK)
                copied[low - start : high - start] = self._content[low:high]
            return found

        if damaged := shared_out(portion, range(first, last, _TOGETHER)):
            self.restore(damaged)
            copied[:] = self._content[start:stop]
        return copied

    def _intact(self, block: int) -> bool:
        stored: bytes = self._sums[block].tobytes()
        return checksum(self._content[block * BLOCK : (block + 1) * BLOCK]) == stored

    # -- restoring -----------------------------------------------------------------------------------------------------

    def restore(self, blocks: list[int]) -> None:
        """Compute damaged blocks again, put them into the file and say so once.

        Raises:
            EverclipError: they can't be computed or written.
        """
        with self._lock:
            blocks = self.damaged(blocks)  # another thread may have been here
            if blocks and self._taken_over():
                blocks = self.damaged(blocks)
            if not blocks:
                return
            self._tell()
            changed: dict[int, bytes] = {}
            try:
                for run in _runs(blocks):
                    contents = self._computed(run)
                    same = {
                        block: part for block, part in contents.items() if _sum(part) == self._sums[block].tobytes()
                    }
                    self._write(same)
                    changed |= {block: part for block, part in contents.items() if block not in same}
                    if changed and self._exact:
                        break
                if changed and not self._exact:
                    self._replace(changed)
            except OSError as error:
                raise EverclipError(
                    f"{self.path} is damaged and can't be mended ({error.strerror}); make it writable, remove it, or "
                    "set EVERCLIP_CACHE to another folder."
                ) from error
            if changed and self._exact:
                with contextlib.suppress(OSError):
                    self.path.unlink()
                raise EverclipError(
                    f"{self.path} was damaged, and what it was made from gives something else today (changed files, or "
                    "another version of a library); it was removed: give the command again."
                )
            if self.damaged(blocks):
                raise EverclipError(
                    f"{self.path} does not keep what is written to it; check the disk or set EVERCLIP_CACHE to another "
                    "folder."
                )

    def _computed(self, run: list[int]) -> dict[int, bytes]:
        """The content of consecutive blocks, computed again."""
        assert self._restore is not None, "a reader says how to restore before it reads"
        content = self._restore(run[0] * BLOCK, min((run[-1] + 1) * BLOCK, self.size))
        return {block: content[place * BLOCK : (place + 1) * BLOCK] for place, block in enumerate(run)}

    def _write(self, contents: Mapping[int, bytes]) -> None:
        """Overwrite blocks by what they were. Whoever does the same at this moment writes the same bytes."""
        if not contents:
            return
        with open(self.path, "r+b") as file:
            self._require_same(file)
            for block, content in contents.items():
                file.seek(block * BLOCK)
                file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def _replace(self, contents: Mapping[int, bytes]) -> None:
        """Let another file take the place of this one, with some blocks and their checksums changed."""
        sums = self._sums.copy()
        for block, content in contents.items():
            sums[block] = np.frombuffer(_sum(content), sums.dtype)[0]
        pending = self._pending
        with atomic_file(self.path) as file:
            with open(self.path, "rb") as old:
                self._require_same(old)
                shutil.copyfileobj(old, file, 1 << 22)
            for block, content in contents.items():
                file.seek(block * BLOCK)
                file.write(content)
            file.seek(self.size)
            End(self.size, sums.tobytes(), self.index).write(file)
            file.truncate()
        self._map(sums.tobytes())
        self._pending = pending  # what was checked was copied

    def _require_same(self, file: BinaryIO) -> None:
        """Refuse a file that took the place of the one that is mapped: its blocks may be others."""
        if _identity(os.fstat(file.fileno())) != self._identity:
            raise OSError(0, "another process has replaced it; give the command again")

    def _taken_over(self) -> bool:
        """Map the file by which another process has replaced a damaged one, if it is of the same content."""
        with contextlib.suppress(OSError):
            if _identity(os.stat(self.path)) != self._identity:
                end = End.read(self.path)
                if end is not None and (end.size, end.index) == (self.size, self.index):
                    self._map(end.sums)
                    return True
        return False

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            say(f"everclip: {self.path} is damaged; what is damaged in it is computed again.", error=True)


def _runs(blocks: list[int]) -> Iterator[list[int]]:
    """Consecutive blocks together, a few megabytes at most: what is computed in batches is computed once for all."""
    run: list[int] = []
    for block in blocks:
        if run and (block != run[-1] + 1 or len(run) == _TOGETHER):
            yield run
            run = []
        run.append(block)
    if run:
        yield run


def _sum(content: bytes) -> bytes:
    return checksum(np.frombuffer(content, np.uint8))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
