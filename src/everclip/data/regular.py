"""Reading a file that anybody may have put there: only regular files, and never more than a stated number of bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MAX_BYTES = 512 * 2**20
"""A file with more bytes is not read as an image. An uncompressed image of the most pixels has 400 million."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# Opening a pipe waits for a writer unless told not to; a terminal must not become the one of this process.
_AT_ONCE = os.O_RDONLY | sum(getattr(os, flag, 0) for flag in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"))


class NoRegularFile(Exception):
    """A path that is not read; `str()` says what it is in a few plain words, such as "it is a pipe (FIFO), …"."""


@contextlib.contextmanager
def open_regular(path: str | Path, most: int | None = None) -> Iterator[BinaryIO]:
    """Open a regular file for reading, as `read_regular` does.

    Raises:
        NoRegularFile, OSError: as there.
    """
    _require_regular(os.stat(path), most)
    descriptor = os.open(path, _AT_ONCE)
    with os.fdopen(descriptor, "rb") as file:
        _require_regular(os.fstat(descriptor), most)
        yield file


def read_regular(path: str | Path, most: int | None = None) -> bytes:
    """The content of a regular file; symbolic links are followed.

    Pipes, devices, sockets and folders are refused without opening them, because opening alone can wait for ever or
    set a device in motion. What was opened is looked at once more, for it may have been exchanged in between.

    Args:
        path: the file.
        most: bytes; by default `MAX_BYTES`. No file of more is read, and none that grows beyond it meanwhile.

    Raises:
        NoRegularFile: it is something else, or too large.
        OSError: it is not there, or cannot be read.
    """
    most = MAX_BYTES if most is None else most
    with open_regular(path, most) as file:
        content = bytearray()
        while len(content) <= most and (part := file.read(min(2**24, most + 1 - len(content)))):
            content += part
    if len(content) > most:
        raise NoRegularFile(_too_large(most))
    return bytes(content)


def file_digest(path: str | Path) -> str:
    """Hex BLAKE2b-128 of a file's bytes, or of what keeps it from being read, so that repairing the file changes it."""
    try:
        content = read_regular(path)
    except NoRegularFile as error:
        content = f"unreadable: {error}".encode()
    except (OSError, ValueError) as error:
        content = f"unreadable: {getattr(error, 'errno', None)}".encode()
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def require_regular(path: str | Path) -> None:
    """Refuse what is no regular file, of any size, without opening it.

    Raises:
        NoRegularFile: it is something else.
        OSError: it is not there.
    """
    _require_regular(os.stat(path), None)


def _require_regular(found: os.stat_result, most: int | None) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for of_kind, name in _KINDS if of_kind(found.st_mode)), "something else")
        raise NoRegularFile(f"it is {kind}, and only regular files are read")
    if most is not None and found.st_size > most:
        raise NoRegularFile(_too_large(most))


def _too_large(most: int) -> str:
    return f"the file has more than {most / 2**20:g} MiB"
