"""Only regular files are read, at once and never too much of them."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from everclip.data import regular
from everclip.data.decode import load_rgb
from everclip.data.door import read_images
from everclip.data.folders import FolderImages
from everclip.data.given import GivenImages
from everclip.data.regular import NoRegularFile, file_digest, read_regular
from everclip.data.source import BadImage

posix = pytest.mark.skipif(os.name != "posix", reason="has no such files")


def in_seconds(function: Callable[[], object]) -> None:
    """Run something that must not wait; a thread is given up where a blocked call would block the tests."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "it waits"


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    before = os.getcwd()
    os.chdir(path.parent)  # the address of a socket has to be short
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(before)


def make_link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


SPECIAL = [
    pytest.param(make_pipe, "pipe", marks=posix),
    pytest.param(make_socket, "socket", marks=posix),
    pytest.param(make_link_to_device, "device", marks=posix),
    pytest.param(Path.mkdir, "folder"),
]


@pytest.mark.parametrize(("make", "kind"), SPECIAL)
def test_what_is_no_regular_file_is_named_and_not_opened(make, kind, tmp_path: Path):
    path = tmp_path / "x.jpg"
    make(path)
    found: list[object] = []

    def attempt() -> None:
        for read in (lambda: load_rgb(path, "x.jpg"), lambda: GivenImages([path]).decode(0)):
            try:
                found.append(read())
            except BadImage as error:
                found.append(error.reason)
        found.append(file_digest(path))

    in_seconds(attempt)
    assert len(found) == 3
    assert all(kind in str(reason) for reason in found[:2])
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    path.write_bytes(b"repaired")
    assert file_digest(path) != found[2]


@pytest.mark.parametrize(("make", "kind"), SPECIAL)
def test_it_is_one_skipped_image_among_others(make, kind, tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(b"something")
    make(tmp_path / "x.jpg")
    source = read_images(tmp_path).images
    assert [Path(source.name(index)).name for index in range(len(source))] == ["a.jpg", "x.jpg"]
    digests: list[str] = []
    in_seconds(lambda: digests.extend(source.digest(index) for index in range(len(source))))
    assert len(set(digests)) == 2


@posix
def test_a_file_that_is_exchanged_for_a_pipe_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, real = tmp_path / "x.jpg", os.open
    path.write_bytes(b"a file")

    def exchanged(name: object, *args: object, **kwargs: object) -> int:
        path.unlink()
        os.mkfifo(path)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", exchanged)
    found: list[str] = []

    def attempt() -> None:
        try:
            read_regular(path)
        except NoRegularFile as error:
            found.append(str(error))

    in_seconds(attempt)
    assert found == ["it is a pipe (FIFO), and only regular files are read"]


def test_a_file_of_too_many_bytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "x.jpg"
    with path.open("wb") as file:
        file.truncate(regular.MAX_BYTES + 1)  # takes no room on most file systems
    monkeypatch.setattr(os, "open", lambda *args: pytest.fail("it was opened"))
    with pytest.raises(BadImage, match="more than 512 MiB"):
        load_rgb(path, "x.jpg")


def test_exactly_the_most_bytes_are_read_and_a_growing_file_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "x"
    path.write_bytes(bytes(1000))
    assert read_regular(path, 1000) == bytes(1000)
    with pytest.raises(NoRegularFile):
        read_regular(path, 999)
    monkeypatch.setattr(regular, "_require_regular", lambda found, most: None)  # as if it had been small when looked at
    with pytest.raises(NoRegularFile, match="more than"):
        read_regular(path, 999)


def test_digests_of_files_are_those_of_their_bytes(tmp_path: Path):
    path = tmp_path / "x.jpg"
    path.write_bytes(b"abc")
    # BLAKE2b-128, as `b2sum -l 128` says it; stored keys are made from it.
    assert file_digest(path) == "cf4ab791c62b8d2b2109c90275287816"
    assert file_digest(tmp_path / "gone") == file_digest(tmp_path / "gone too") != file_digest(path)
    both = FolderImages([str(path)], [0]).digest(0), GivenImages([path]).digest(0)  # type: ignore[arg-type]
    assert both == (file_digest(path),) * 2
