"""Paths as people write them, and file names that every system can hold."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from everclip.errors import EverclipError, InputError

_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]')
"""What Windows has in no file name, and what is no text at all."""
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\.|$)", re.IGNORECASE)
"""Names that mean a device on Windows, whatever follows the first point."""
LONGEST_NAME = 200
"""Bytes; file systems take 255, and whoever writes a file adds to its name."""

_stand_in: Path | None = None
"""What `HOME` was set to where this user has none."""


def expanded(path: str | Path) -> Path:
    """A path that somebody wrote: `~` is the home folder, `~NAME` that of another user, if there is one.

    Everything that takes a path from a person goes through here, for the shell sees neither `--set reference=~/x` nor
    `folders:~/x`.

    Raises:
        InputError: the path starts with `~`, and this user has no home folder.
    """
    text = os.fspath(path)
    if not text.startswith("~"):
        plain = Path(text)  # which makes `~/x` of `./~/x`; whoever expands that once more must not be led astray
        return plain.absolute() if str(plain).startswith("~") else plain
    if re.match(r"~($|[/\\])", text) and home() is None:
        raise InputError(f"{text} is below a home folder, but this user has none; set HOME, or write the path in full.")
    return Path(os.path.expanduser(text))


def home() -> Path | None:
    """This user's home folder; None without `HOME` for a user who has no entry in the password database."""
    found = Path(os.path.expanduser("~"))  # left as it is where nobody knows
    return found if found.is_absolute() and found != _stand_in else None


def without_home() -> Path:
    """A folder in the place of a home folder that this user does not have: one that nobody else can write to.

    Raises:
        InputError: it cannot be made, or somebody else made it.
    """
    user = os.geteuid() if hasattr(os, "geteuid") else "user"
    path = Path(temporary_root()) / f"everclip-{user}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise InputError(
            f"{path} cannot be made ({error.strerror}); set HOME or EVERCLIP_CACHE to a folder."
        ) from error
    # Everybody may write to the folder for temporary files: what lies there under our name may be a trap.
    foreign = os.name == "posix" and stat.S_IMODE(found.st_mode) & 0o077
    if foreign or not stat.S_ISDIR(found.st_mode) or not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"{path} is not this user's alone; remove it, or set HOME or EVERCLIP_CACHE.")
    return path


@contextlib.contextmanager
def home_for_libraries() -> Iterator[None]:
    """Meanwhile there is a `HOME`: without one, libraries that download or cache fail, or make a folder called `~`."""
    global _stand_in
    if home() is not None:
        yield
        return
    try:
        _stand_in = without_home()
    except EverclipError:  # what needs it says so; most commands do not
        yield
        return
    before = os.environ.get("HOME")
    os.environ["HOME"] = str(_stand_in)
    try:
        yield
    finally:
        _stand_in = None
        if before is None:
            del os.environ["HOME"]
        else:
            os.environ["HOME"] = before


def temporary_root() -> str:
    """The folder for temporary files.

    Raises:
        EverclipError: there is none that can be written to.
    """
    try:
        return tempfile.gettempdir()
    except OSError as error:
        raise no_room_for_temporary_files("the folder for temporary files", error) from error


def temporary_folder(prefix: str) -> Path:
    """A new folder for temporary files; whoever makes it removes it.

    Raises:
        EverclipError: it cannot be made: the folder for temporary files is full, or gone.
    """
    root = temporary_root()
    try:
        return Path(tempfile.mkdtemp(prefix=prefix, dir=root))
    except OSError as error:
        raise no_room_for_temporary_files(root, error) from error


def no_room_for_temporary_files(where: str | Path, error: OSError) -> EverclipError:
    """A temporary file cannot be written."""
    return EverclipError(
        f"{where} takes no temporary files ({error.strerror or error}); make room there, or set TMPDIR to another "
        "folder, then try again."
    )


def portable_name(name: str) -> str:
    """A file name like this one that every system can hold.

    What Windows has in no name becomes `-`, points and spaces at the end go, and the name of a device gets `_` in
    front. A name that is portable stays as it is.
    """
    plain = _FORBIDDEN.sub("-", name).encode()[:LONGEST_NAME].decode(errors="ignore").rstrip(" .")
    return f"_{plain}" if _DEVICE.match(plain) else plain or "_"


def portable_path(path: Path) -> Path:
    """A folder with a portable name, unless the one that is meant exists under the name that it had before."""
    return path if os.path.isdir(path) else path.with_name(portable_name(path.name))
