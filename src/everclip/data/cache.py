"""The cache folder: content-addressed files that appear complete or not at all, and cached embeddings."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from everclip.errors import InputError
from everclip.storage.files import atomic_file
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


def _no_keys() -> Iterable[str]:
    return ()


def embedding_cache(key: str, compute: Callable[[], np.ndarray], former: Keys = _no_keys) -> np.ndarray:
    """Return the array stored under a key, computing and storing it when there is none or it is broken.

    Args:
        key: a file name, e.g. a `cache_key` of the model, its weights and `Images.key`.
        compute: returns the array, of any shape and any type but `object`.
        former: asked only where there is no array under the key; one that is found under a former key gets this one.

    Returns:
        The stored array, memory-mapped and read-only.

    Raises:
        InputError: the cache folder cannot be written.
    """
    return _cached(key, lambda file: np.save(file, compute(), allow_pickle=False), former)


def streamed_cache(
    key: str, rows: int, parts: Callable[[], Iterable[np.ndarray]], former: Keys = _no_keys
) -> np.ndarray:
    """As `embedding_cache`, for an array that may be larger than the memory: it is written as its parts come.

    Args:
        key: as there.
        rows: N, of all parts together.
        parts: gives the array (N, …) as parts (B, …), at least one.
        former: as there.

    Returns:
        The stored array, memory-mapped and read-only.

    Raises:
        InputError: the cache folder cannot be written.
    """

    def write(file: BinaryIO) -> None:
        for number, part in enumerate(parts()):
            if number == 0:
                descr = np.lib.format.dtype_to_descr(part.dtype)
                header = {"descr": descr, "fortran_order": False, "shape": (rows, *part.shape[1:])}
                np.lib.format.write_array_header_2_0(file, header)
            file.write(np.ascontiguousarray(part).data)

    return _cached(key, write, former)


def _cached(key: str, write: Callable[[BinaryIO], None], former: Keys) -> np.ndarray:
    """The array stored under a key, memory-mapped; written first where there is none or it is broken."""
    path = cache_dir() / "embeddings" / f"{key}.npy"
    if by_main(lambda: _load(path) is None and not _renamed(path, former)):
        # All processes compute their share of the array; one of them stores it.
        with written_atomically(path) if is_main() else open(os.devnull, "wb") as file:
            write(file)
        barrier()
    stored: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return stored


def _renamed(path: Path, former: Keys) -> bool:
    """Give an array that an earlier version stored its name of today; whether there was one."""
    if not (path.parent.is_dir() and any(path.parent.iterdir())):
        return False  # nothing is stored at all: do not even compute the former keys
    for key in former():
        old = path.with_name(f"{key}.npy")
        if _load(old) is not None:
            with contextlib.suppress(OSError):  # a cache that can't be written says so when the array is
                old.replace(path)
                return True
    return False


def _load(path: Path) -> np.ndarray | None:
    try:
        stored: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return stored
    except Exception:
        # numpy parses the header as Python text, so broken bytes raise anything. Whatever is wrong, a
        # missing file included, the array is computed again.
        return None
