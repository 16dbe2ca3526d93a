"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from everclip.storage.faults import fault_point


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` only when the block ends without an error.

    The file is on disk before it gets its name, so even a power cut leaves the old file or the new one. A process
    killed in between leaves a `.tmp` file that nothing reads. Of two writers of one path the last to finish wins.

    Raises:
        OSError: the file cannot be written; what was at `path` is untouched.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        fault_point(f"write {path.name}")
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            _sync(file.fileno())
        fault_point(f"replace {path.name}")
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder; the rename is atomic all the same
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _sync(file: int) -> None:
    try:
        os.fsync(file)
    except OSError as error:
        # Some network and user-space file systems have no such call; what they hold is as safe as they make it.
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a whole file at once, text as UTF-8; see `atomic_file`."""
    with atomic_file(path) as file:
        file.write(content if isinstance(content, bytes) else as_bytes(content))


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file that a user names: as `write_atomic`, but into what is no plain file (a link, /dev/stdout)."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_bytes(content if isinstance(content, bytes) else as_bytes(content))
    else:
        write_atomic(path, content)


def as_bytes(text: str) -> bytes:
    """Text as it is written to a file: UTF-8.

    A file name need not be UTF-8; what Python makes of one becomes an escape that JSON and YAML read back.
    """
    return text.encode(errors="backslashreplace")


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
