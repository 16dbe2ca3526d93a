"""Places that are not like the developer's, for tests that run as anybody: root may write where mode bits forbid it."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ReadOnly = Callable[..., None]
"""`read_only(folder, errno)`: from now on nothing below that folder can be written, and the system says so."""


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> ReadOnly:
    refused: list[tuple[str, int]] = []

    def refuse(*paths: object) -> None:
        for path in paths:
            if isinstance(path, str | bytes | os.PathLike):
                place = os.path.abspath(os.fsdecode(path))
                for folder, code in refused:
                    if place == folder or place.startswith(folder + os.sep):
                        raise OSError(code, os.strerror(code), str(path))

    def changing(name: str, paths: int) -> None:
        known = getattr(os, name)

        def change(*args: Any, **options: Any) -> Any:
            if not (name == "mkdir" and os.path.isdir(args[0])):  # which exists already, says the system first
                refuse(*args[:paths])
            return known(*args, **options)

        monkeypatch.setattr(os, name, change)

    for name, paths in (("mkdir", 1), ("unlink", 1), ("remove", 1), ("rename", 2), ("replace", 2), ("rmdir", 1)):
        changing(name, paths)
    access, low, high = os.access, os.open, builtins.open

    def allowed(path: Any, mode: int, **options: Any) -> bool:
        try:
            if mode & os.W_OK:
                refuse(path)
        except OSError:
            return False
        return access(path, mode, **options)

    def opened(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse(path)
        return low(path, flags, *args, **options)

    def opened_file(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if set(mode) & set("wax+"):
            refuse(path)
        return high(path, mode, *args, **options)

    monkeypatch.setattr(os, "access", allowed)
    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(builtins, "open", opened_file)
    monkeypatch.setattr(io, "open", opened_file)

    def make(folder: Path, code: int = errno.EROFS) -> None:
        refused.append((os.path.abspath(folder), code))

    return make
