"""What a directory says where it cannot be written to."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from everclip.errors import EverclipError, InputError
from everclip.storage import files
from everclip.storage.directory import ReadOnlyError
from everclip.storage.files import write_atomic
from everclip.storage.run import RunDirectory
from everclip.storage.state import State

from ..places import ReadOnly

REFUSALS = [errno.EROFS, errno.EACCES, errno.EPERM]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    with directory:
        directory.begin(State("größer", "", ""), {"method": "größer"})
    return directory


@pytest.mark.parametrize("code", REFUSALS)
def test_a_read_only_directory_is_read_and_not_written(run: RunDirectory, read_only: ReadOnly, code: int) -> None:
    read_only(run.path, code)
    with pytest.raises(ReadOnlyError, match=r"run directory .* is read-only .*: what is there can be read"), run:
        pass
    with pytest.raises(ReadOnlyError, match="choose another --out"):
        run.require_writable()
    assert run.read_config() == {"method": "größer"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write wherever it likes")
def test_a_directory_without_permission_to_write(run: RunDirectory) -> None:
    run.path.chmod(0o555)
    try:
        with pytest.raises(ReadOnlyError, match="read-only"), run:
            pass
        assert run.read_config() == {"method": "größer"}
    finally:
        run.path.chmod(0o755)


def test_where_nothing_can_be_made(tmp_path: Path, read_only: ReadOnly) -> None:
    read_only(tmp_path)
    directory = RunDirectory(tmp_path / "a/b")
    for refuse in (directory.require_writable, directory.__enter__):
        with pytest.raises(InputError, match=r"a/b cannot be made where it is read-only .* choose another --out"):
            refuse()


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EROFS, "is read-only, make it writable"),
        (errno.EACCES, "is read-only, make it writable"),
        (errno.ENOSPC, "make room"),
        (errno.EIO, "put that right"),
    ],
)
def test_what_cannot_be_written_any_more_names_the_remedy(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, code: int, remedy: str
) -> None:
    def refuse(path: Path, content: bytes | str) -> None:
        raise OSError(code, os.strerror(code))

    with run:
        monkeypatch.setattr("everclip.storage.directory.write_atomic", refuse)
        with pytest.raises(EverclipError, match=remedy) as error:
            run.write("x", "")
    assert "nothing is lost" in str(error.value)


@pytest.mark.parametrize("name", ["config.yaml", "checkpoints/state.json"])
def test_what_may_not_be_read_is_not_called_damaged(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(path: Path, *args: object, **options: object) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(EverclipError, match=rf"{re.escape(name)} can't be read \(Permission denied\)"):
        run.read_config() if name == "config.yaml" else run.read_state()


def test_the_configuration_is_read_whatever_the_locale(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are UTF-8: a system whose text is Latin-1 writes and reads the same ones."""
    known = builtins.open

    def opened(path: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, *more: Any, **named: Any):
        return known(path, mode, buffering, encoding if "b" in mode else encoding or "ascii", *more, **named)

    monkeypatch.setattr(builtins, "open", opened)
    monkeypatch.setattr(io, "open", opened)
    monkeypatch.setattr(io, "text_encoding", lambda encoding, level=2: encoding or "ascii")
    with run:
        run.event("start", name="größer")
    assert "größer".encode() in (run.path / "config.yaml").read_bytes()
    assert run.read_config() == {"method": "größer"}
    (line,) = (run.path / "events.jsonl").read_bytes().splitlines()
    assert json.loads(line)["name"] == "größer"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fsync(file: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "fsync", fsync)
    write_atomic(tmp_path / "a", "content")
    assert (tmp_path / "a").read_text() == "content"


def test_a_disk_that_fails_to_sync_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_atomic(tmp_path / "a", "content")
    assert list(tmp_path.iterdir()) == []
