"""A directory that one process at a time writes to: a lock, whole files, JSON that shows damage, tensors.

No file holds code: tensors are safetensors, the rest is text.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NamedTuple

from safetensors.torch import save
from torch import Tensor

from everclip.errors import EverclipError, InputError
from everclip.storage.files import write_atomic
from everclip.storage.lock import FILES, Lock, TakenError
from everclip.storage.reading import Malformed, Schema, fitting, read_json
from everclip.storage.tensors import read_tensors
from everclip.system.paths import expanded
from everclip.system.processes import is_main

_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})


class _Sealed(Schema):
    """A state with its SHA-256."""

    sha256: str
    state: dict[str, Any]


class ReadOnlyError(InputError):
    """A directory can be read and not written to."""


class Checked(NamedTuple):
    """A file of a directory, compared with its digest.

    Attributes:
        name: within the directory.
        problem: a sentence that says what is wrong and what to do; None where it is as it was written.
        has_digest: false where an earlier version wrote it, so that nobody can tell.
    """

    name: str
    problem: str | None = None
    has_digest: bool = True

    @classmethod
    def of(cls, name: str, error: EverclipError | None) -> Checked:
        """A file, and what reading it said."""
        return cls(name, None if error is None else str(error))


class Directory:
    """Base of directories that keep a state. To write, use it as a context manager: inside it the lock is held.

    Args:
        path: the directory; made on entering if it is absent.
    """

    kind: ClassVar[str]
    """What messages call it."""
    elsewhere: ClassVar[str]
    """How to name another one."""
    anew: ClassVar[str]
    """What to do where a file is lost for good."""
    again: ClassVar[str]
    """What to do once there is room on the disk."""
    state: ClassVar[str]
    """The file that says what the others are."""
    folders: ClassVar[tuple[str, ...]] = ()
    """Sub-folders."""

    def __init__(self, path: str | Path) -> None:
        self.path = expanded(path)
        self._lock: Lock | None = None

    def __enter__(self) -> Directory:
        """Make the directory and take the lock; of several processes the main one does so for all.

        Raises:
            ReadOnlyError: the directory is there and cannot be written to.
            InputError: the directory cannot be made.
            EverclipError: another process holds the lock.
        """
        if not is_main():
            return self
        lock = Lock(self.path)
        try:
            for part in self.folders or ("",):
                (self.path / part).mkdir(parents=True, exist_ok=True)
            self.require_writable()
            lock.acquire()
        except OSError as error:
            raise self._refused(error) from error
        except TakenError as owner:
            raise EverclipError(
                f"{self.kind} {self.path} is in use by {owner}; wait for it to end or {self.elsewhere}."
            ) from None
        self._lock = lock
        try:
            for part in ("", *self.folders):
                for leftover in (self.path / part).glob("*.tmp"):  # of writes cut off; nobody else writes here now
                    self.remove(leftover)
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock."""
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def require_writable(self) -> None:
        """Refuse a directory that cannot be written to, or made, before anything is computed for it.

        Raises:
            ReadOnlyError: it is there and cannot be written to.
            InputError: the folder that it would be made in cannot.
        """
        if not is_main():
            return
        existing = next(path for path in (self.path, *self.path.absolute().parents) if os.path.lexists(path))
        if existing.is_dir() and not os.access(existing, os.W_OK | os.X_OK):
            raise self._refused(OSError(errno.EACCES, "no permission to write"))

    def exists(self) -> bool:
        """Whether something of this kind is kept here."""
        return (self.path / self.state).exists()

    def refuse_foreign_files(self) -> None:
        """Keep out of a folder that holds something else.

        Raises:
            InputError: the path is a file, or a folder with files that are not of this kind.
        """
        if self.path.is_file():
            raise InputError(f"{self.path} is a file; {self.elsewhere}.")
        if self.path.is_dir() and not self.exists():
            others = [path.name for path in self.path.iterdir() if not self.is_ours(path.name)]
            if others:
                raise InputError(f"{self.path} holds other files ({others[0]}, …); {self.elsewhere}.")

    def is_ours(self, name: str) -> bool:
        """Whether a file of this name may be here before the state is."""
        return name in {*FILES, *self.folders} or name.endswith(".tmp")

    # -- files -----------------------------------------------------------------------------------------------------

    def write(self, name: str, content: bytes | str) -> None:
        """Write a file, whole or not at all; of several processes the main one does.

        Raises:
            EverclipError: the disk is full or refuses.
        """
        if not is_main():
            return
        try:
            write_atomic(self.path / name, content)
        except OSError as error:
            raise self.unwritable(name, error) from error

    def remove(self, path: Path) -> None:
        """Remove a file of this directory, if it is there.

        Raises:
            EverclipError: the system refuses.
        """
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise self.unwritable(str(path.relative_to(self.path)), error) from error

    def write_state(self, body: Mapping[str, Any]) -> None:
        """Replace the state, with a SHA-256 of itself."""
        self.write(self.state, json.dumps({"sha256": body_digest(body), "state": body}, indent=1))

    def read_state(self) -> dict[str, Any]:
        """The state, its SHA-256 checked.

        Raises:
            EverclipError: it is damaged or missing, or may not be read.
        """
        try:
            sealed = fitting(_Sealed, read_json(self.path / self.state))
        except PermissionError as error:
            raise self.unreadable(self.state, error) from error
        except (OSError, Malformed) as error:
            raise self.damaged(self.state, error) from error
        if sealed.sha256 != body_digest(sealed.state):
            raise self.damaged(self.state)
        return sealed.state

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """Load a file of tensors.

        Raises:
            EverclipError: not a safetensors file.
        """
        try:
            return read_tensors(self.path / name)
        except (OSError, Malformed) as error:
            raise self.damaged(name, error) from error

    # -- what goes wrong -------------------------------------------------------------------------------------------

    def _refused(self, error: OSError) -> InputError:
        """The system lets nobody make or enter the directory."""
        if error.errno not in _READ_ONLY:
            return InputError(f"{self.kind} {self.path} cannot be made ({error.strerror}); {self.elsewhere}.")
        if not self.path.is_dir():
            return InputError(
                f"{self.kind} {self.path} cannot be made where it is read-only ({error.strerror}); {self.elsewhere}."
            )
        return ReadOnlyError(
            f"{self.kind} {self.path} is read-only ({error.strerror}): what is there can be read and used, not "
            f"changed; make it writable or {self.elsewhere}."
        )

    def unwritable(self, name: str, error: OSError) -> EverclipError:
        """The disk refuses a file."""
        remedy = "make room" if error.errno in _FULL else "put that right"
        if error.errno in _READ_ONLY:
            remedy = f"the {self.kind} is read-only, make it writable"
        return EverclipError(
            f"{self.path / name} could not be written ({error.strerror}); nothing is lost: {remedy}, then {self.again}."
        )

    def unreadable(self, name: str, error: OSError) -> EverclipError:
        """The system lets nobody read a file."""
        return EverclipError(f"{self.path / name} can't be read ({error.strerror}); make it readable, then try again.")

    def damaged(self, name: str, reason: Exception | None = None) -> EverclipError:
        """A file is not what was written."""
        why = f"it {reason}" if isinstance(reason, Malformed) else "it differs from what was written"
        if isinstance(reason, IsADirectoryError):
            why = "it is a directory"
        return EverclipError(f"{self.path / name} is damaged ({why}); put it back from a copy or {self.anew}.")

    def unfit(self, name: str, what: str, reason: str) -> EverclipError:
        """A file of tensors is whole, but not what it is read for."""
        return EverclipError(
            f"{self.path / name} does not hold what {what} needs ({reason}); put it back from a copy or {self.anew}."
        )

    def missing(self, name: str) -> EverclipError:
        """A file is gone."""
        return EverclipError(f"{self.path / name} is missing; put it back from a copy or {self.anew}.")


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as the content of a safetensors file; equal tensors give equal bytes."""
    return save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})


def body_digest(body: Mapping[str, Any]) -> str:
    """Hex SHA-256 of what JSON can say."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
