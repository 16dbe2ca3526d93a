"""The cache folder: content-addressed files that appear complete or not at all, and cached embeddings.

What is read is verified: every file holds a checksum of each of its blocks, and a block that is damaged is computed
again before anybody gets it (`everclip.storage.blocks`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from everclip.data.older import OlderPixels, is_older_array
from everclip.errors import EverclipError, InputError
from everclip.storage.blockfile import BlockFile
from everclip.storage.blocks import BlockWriter
from everclip.storage.files import atomic_file
from everclip.storage.verified import VerifiedArray
from everclip.system.display import say
from everclip.system.paths import expanded, home, without_home
from everclip.system.processes import barrier, by_main, is_main


def cache_dir() -> Path:
    """Return `$EVERCLIP_CACHE`, else `$XDG_CACHE_HOME/everclip`, else `~/.cache/everclip`; may be absent.

    A user without a home folder has it in a private folder among the temporary files.

    Raises:
        InputError: there is no such place.
    """
    if chosen := os.environ.get("EVERCLIP_CACHE"):
        return expanded(chosen)
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return expanded(chosen) / "everclip"
    return (home() or without_home()) / ".cache" / "everclip"


def cache_key(*parts: str | int) -> str:
    """Return the hex BLAKE2b-128 of the parts in order; equal keys mean equal parts."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` only when the block ends without an error.

    See `everclip.storage.files.atomic_file`; this one makes the folder as well.

    Raises:
        InputError: the cache folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            yield file
    except OSError as error:
        raise InputError(
            f"cannot write to the cache folder {path.parent} ({error.strerror}); "
            "free space there or set EVERCLIP_CACHE to another folder"
        ) from error


Keys = Callable[[], Iterable[str]]
"""Gives keys under which an earlier version of EverCLIP stored the same array."""

Again = Callable[[slice], np.ndarray]
"""Computes some consecutive rows of an array again, in one process alone: it exchanges nothing with the others."""


def _no_keys() -> Iterable[str]:
    return ()


def embedding_cache(
    key: str, compute: Callable[[], np.ndarray], former: Keys = _no_keys, again: Again | None = None
) -> VerifiedArray:
    """Return the array stored under a key, computing and storing it when there is none or it can't be verified.

    Args:
        key: a file name, e.g. a `cache_key` of the model, its weights and `Images.key`.
        compute: returns the array, of at least one dimension and any type but `object`.
        former: asked only where there is no array under the key; one that is found under a former key gets this one.
        again: computes rows that turn out to be damaged; by default `compute` does, which then exchanges nothing with
            other processes.

    Returns:
        The stored array: mapped, read-only, its rows verified where they are read.

    Raises:
        InputError: the cache folder cannot be written.
    """

    def parts() -> Iterator[np.ndarray]:
        yield compute()

    return _cached(key, None, parts, former, again or (lambda rows: compute()[rows]))


def streamed_cache(
    key: str,
    rows: int,
    parts: Callable[[], Iterable[np.ndarray]],
    former: Keys = _no_keys,
    again: Again | None = None,
) -> VerifiedArray:
    """As `embedding_cache`, for an array that may be larger than the memory: it is written as its parts come.

    Args:
        key: as there.
        rows: N, of all parts together.
        parts: gives the array (N, …) as parts (B, …), at least one.
        former: as there.
        again: as there; by default what `parts` gives is gone through from the beginning.

    Returns:
        The stored array: mapped, read-only, its rows verified where they are read.

    Raises:
        InputError: the cache folder cannot be written.
    """
    return _cached(key, rows, parts, former, again or (lambda chosen: _chosen(parts(), chosen)))


def _chosen(parts: Iterable[np.ndarray], rows: slice) -> np.ndarray:
    """Consecutive rows of an array that comes in parts."""
    found, first = [], 0
    for part in parts:
        found.append(part[max(0, rows.start - first) : max(0, rows.stop - first)])
        first += len(part)
    return np.concatenate(found)


def _cached(
    key: str, rows: int | None, parts: Callable[[], Iterable[np.ndarray]], former: Keys, again: Again
) -> VerifiedArray:
    """The array stored under a key; written first where there is none or it can't be verified."""
    path = cache_dir() / "embeddings" / f"{key}.npy"
    if by_main(lambda: not _usable(path, rows, former)):
        # All processes compute their share of the array; one of them stores it.
        with written_atomically(path) if is_main() else open(os.devnull, "wb") as file:
            _write(file, path.stem, rows, parts())
        barrier()
    stored = _load(path, rows, former)
    if stored is None:
        raise EverclipError(f"{path} was damaged while it was written; check the disk or set EVERCLIP_CACHE")
    return _restorable(*stored, again)


def _write(file: BinaryIO, name: str, rows: int | None, parts: Iterable[np.ndarray]) -> None:
    """Write an array that comes in parts as `.npy`, with checksums after it: numpy reads it as any other."""
    writer, facts = BlockWriter(file), {}
    for number, part in enumerate(parts):
        if number == 0:
            shape = (len(part) if rows is None else rows, *part.shape[1:])
            header = _header(part.dtype, shape)
            facts = {"name": name, "dtype": part.dtype.str, "shape": shape, "offset": len(header)}
            writer.write(header)
        writer.write(part)
    writer.finish(facts)


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What a `.npy` of an array in C order begins with."""
    file = io.BytesIO()
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, facts)
    return file.getvalue()


def _usable(path: Path, rows: int | None, former: Keys) -> bool:
    """Whether an array is stored under a key of today or of before; says so where what is there is of no use."""
    if _load(path, rows, former) is not None or _renamed(path, rows, former):
        return True
    if path.exists():
        if is_older_array(path):
            _tell_of_older(path.parent)
        else:
            say(f"everclip: {path} is damaged; it is computed again.", error=True)
    return False


def _renamed(path: Path, rows: int | None, former: Keys) -> bool:
    """Give an array that an earlier version stored its name of today; whether there was one."""
    if not (path.parent.is_dir() and any(path.parent.iterdir())):
        return False  # nothing is stored at all: do not even compute the former keys
    for key in former():
        old = path.with_name(f"{key}.npy")
        if _load(old, rows, former) is not None:
            with contextlib.suppress(OSError):  # a cache that can't be written says so when the array is
                old.replace(path)
                return True
    return False


def _load(path: Path, rows: int | None, former: Keys) -> tuple[BlockFile, VerifiedArray] | None:
    """An array and its file; None where there is none, where it is another one, or where it can't be verified."""
    file = BlockFile.open(path)
    if file is None:
        return None
    try:
        name, shape = file.index["name"], tuple(file.index["shape"])
        stored = VerifiedArray(file, np.dtype(file.index["dtype"]), shape, file.index["offset"])
    except (LookupError, TypeError, ValueError):
        return None  # checksums of something else than an array
    if rows not in (None, shape[0]) or (name != path.stem and name not in former()):
        return None  # another array lies under its name
    return file, stored


def _restorable(file: BlockFile, stored: VerifiedArray, again: Again) -> VerifiedArray:
    """An array that computes its damaged rows again."""
    offset, width = file.index["offset"], max(1, stored.row_bytes)

    def restore(start: int, stop: int) -> bytes:
        header = _header(stored.dtype, stored.shape)
        first, last = max(0, start - offset) // width, -(-max(0, stop - offset) // width)
        rows = again(slice(first, last)) if last > first else np.empty((0, *stored.shape[1:]), stored.dtype)
        if rows.shape != (last - first, *stored.shape[1:]) or rows.dtype != stored.dtype:
            file.path.unlink(missing_ok=True)
            raise EverclipError(
                f"{file.path} was damaged and is of another type or shape than what is computed today; it was removed: "
                "give the command again."
            )
        content = header[start:] + rows.tobytes()
        begin = max(0, start - offset - first * width)  # within the first of the rows
        return content[begin : begin + stop - start]

    file.restored_by(restore, exact=False)
    return stored


@lru_cache
def _tell_of_older(folder: Path) -> None:
    """Once per folder and process: a run may meet dozens of them."""
    say(
        f"everclip: {folder} has arrays that an earlier version stored without checksums; each is computed again when "
        "it is needed.",
        error=True,
    )


@dataclass(frozen=True)
class CacheFile:
    """A file of the cache folder, looked through.

    Attributes:
        path: of the file.
        problem: what is wrong with it, in a few words; empty where every byte is what was written.
    """

    path: Path
    problem: str


def verify_cache() -> list[CacheFile]:
    """Look through the whole cache folder: every block of every array and of all decoded images.

    Nothing is changed. What is damaged need not be removed either: it is computed again when it is next asked for.
    Arrays that an earlier version stored without checksums count as problems, for nobody can tell what they are worth.

    Returns:
        The files in the order of their paths; none where there is no cache folder. Unfinished files (`.tmp`), which
        nothing reads, are left out.
    """
    files = [*(cache_dir() / "embeddings").glob("*.npy"), *(cache_dir() / "images").glob("*.pixels")]
    return [CacheFile(path, _problem(path)) for path in sorted(files)]


def _problem(path: Path) -> str:
    try:
        with open(path, "rb"):  # what can't be opened is not taken for damaged
            file = BlockFile.open(path)
        if file is not None:
            damaged = file.inspected(0, file.size)
            return f"{len(damaged)} of {file.blocks} blocks are damaged" if damaged else ""
        if is_older_array(path):
            return "stored without checksums by an earlier version"
        if (older := OlderPixels.open(path)) is not None:
            return "" if older.intact() else "its pixels are damaged"
    except OSError as error:
        return f"can't be read ({error.strerror})"
    return "cut off, or its end is damaged"
