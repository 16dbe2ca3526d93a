"""One writer at a time, on every file system: a lock of the kernel, or a file that names the writer.

The kernel drops its lock with its owner, so a dead process never keeps anybody out. Some network and user-space file
systems have no such locks. There the lock is a file that only one process can create; it names its owner, so that a
process that died is recognized.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
from pathlib import Path

from everclip.storage.reading import Malformed, json_of, read_bytes, shown

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:  # everything else
    msvcrt = None  # type: ignore[assignment]

LOCK = "lock"
"""The file that the kernel locks; it says who did so last."""
OWNER = "lock.owner"
"""The file that is the lock where the kernel has none."""
OWNER_LIMIT = 1 << 16
"""Bytes of it."""
FILES = frozenset({LOCK, OWNER})

_TAKEN = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK})
"""What says that another process holds the lock; everything else says that there are no locks here."""
_FAR = 1 << 30
"""Windows keeps others from reading what is locked: a byte behind everything that the file holds."""


class TakenError(Exception):
    """Another process holds the lock; `str()` says which."""


class Lock:
    """The right to write to a folder.

    Args:
        folder: exists and can be written to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: int | None = None
        self._own: bytes | None = None

    def acquire(self) -> None:
        """Take it, at once or not at all.

        Raises:
            TakenError: another process has it.
            OSError: the folder cannot be written to.
        """
        file = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            taken = _locked_by_kernel(file)
            if taken is None:
                self._create_owner()
            elif not taken:
                raise TakenError(os.read(file, 64).decode(errors="replace").strip() or "another process")
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
            os.write(file, f"process {os.getpid()} on {platform.node()}".encode())
        except BaseException:
            os.close(file)
            self._remove_owner()
            raise
        self._file = file

    def release(self) -> None:
        """Give it back; nothing happens without it."""
        if self._file is not None:
            self._remove_owner()
            os.close(self._file)
            self._file = None

    def _create_owner(self) -> None:
        path = self._folder / OWNER
        content = json.dumps(
            {"process": os.getpid(), "begun": _begun(os.getpid()), "host": platform.node(), "place": _place()}
        ).encode()
        while True:
            try:
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                _remove_dead_owner(path)
                continue
            self._own = content
            try:
                os.write(file, content)
            finally:
                os.close(file)
            return

    def _remove_owner(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            with contextlib.suppress(OSError):
                path = self._folder / OWNER
                if path.read_bytes() in (own, b""):
                    path.unlink()


def _locked_by_kernel(file: int) -> bool | None:
    """Whether the kernel gives this process the lock; None where it has none to give."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif msvcrt is not None:
            os.lseek(file, _FAR, os.SEEK_SET)
            try:
                msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
            finally:
                os.lseek(file, 0, os.SEEK_SET)
        else:
            return None
    except OSError as error:
        return False if error.errno in _TAKEN else None
    return True


def _remove_dead_owner(path: Path) -> None:
    """Remove the file of an owner that is dead.

    Raises:
        TakenError: it lives, or nobody can know.
    """
    found = _read(path)
    if found is None:  # its owner removed it, or somebody who found it dead as well
        return
    alive = TakenError(f"{_said(found)} (if that has ended, remove {path})")
    if not _is_dead(found):
        raise alive
    # Whoever takes over must not remove the file of somebody who did so a moment before. One at a time may remove this
    # very owner's, and looks again before.
    turn = path.with_name(f"{OWNER}.{hashlib.sha256(found).hexdigest()[:8]}.tmp")
    try:
        os.close(os.open(turn, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    except FileExistsError:
        raise alive from None
    try:
        if _read(path) == found:
            path.unlink()
    finally:
        turn.unlink(missing_ok=True)


def _read(path: Path) -> bytes | None:
    try:
        return read_bytes(path, OWNER_LIMIT)
    except FileNotFoundError:
        return None
    except Malformed:  # not what a process writes: of whom it is, nobody can know
        return b""


def _is_dead(owner: bytes) -> bool:
    """Whether an owner certainly runs no more. A process of another machine or container may: it can't be seen."""
    try:
        fields = json_of(owner)
        process, begun, place = int(fields["process"]), fields["begun"], fields["place"]
    except (ValueError, KeyError, TypeError):  # it is being written, or its writer was killed meanwhile
        return False
    if place != _place() or os.name == "nt":  # there, asking for a process by its number may end it
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's; or no process has such a number
        pass
    now = _begun(process)
    return bool(begun and now and begun != now)  # the number is another process's by now


def _said(owner: bytes) -> str:
    try:
        fields = json_of(owner)
        return f"process {int(fields['process'])} on {shown(fields['host'])[1:-1]}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _place() -> str:
    """Within what a process number means one process: a machine since it was started, and a container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _begun(process: int) -> str:
    """When a process began, in ticks since the machine did; empty where the system does not say."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        return stat.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
