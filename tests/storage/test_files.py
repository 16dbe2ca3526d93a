from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from everclip.storage import faults
from everclip.storage.files import atomic_file, sha256, write_atomic, write_whole


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "größer")
    assert path.read_bytes() == "größer".encode()
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_in_between_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def half_write() -> None:
        with atomic_file(path) as file:
            file.write(b"ne")
            raise KeyError

    with pytest.raises(KeyError):
        half_write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_appears_only_when_the_content_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_file(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_text() == "new"


def test_of_two_writers_the_last_to_finish_wins(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_file(path) as slow:
        write_atomic(path, "quick")
        slow.write(b"slow")
    assert path.read_text() == "slow"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (happened.append("sync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *names: (happened.append("name"), replace(*names)))
    write_atomic(tmp_path / "a.txt", "content")
    assert happened == ["sync", "name", "sync"]


def test_a_folder_that_is_absent_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "nowhere/a.txt", "")


def test_a_full_disk_is_an_os_error_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")
    monkeypatch.setattr(faults, "_reached", 0)
    monkeypatch.setenv("EVERCLIP_FAULT", "2:disk-full")
    with pytest.raises(OSError, match=r"replace a\.txt") as error:
        write_atomic(path, "new")
    assert error.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_user_names_is_written_whole_and_links_are_followed(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "größer")
    (tmp_path / "link").symlink_to(tmp_path / "a.txt")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "a.txt").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()
    write_whole(Path(os.devnull), "nowhere")
    assert not Path(os.devnull).is_file()


def test_names_that_are_not_utf8_survive_as_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    write_atomic(tmp_path / "a.json", json.dumps({"name": name}, ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": name}


@pytest.mark.parametrize("size", [0, 5, (1 << 22) + 1])
def test_sha256_of_files_of_any_size(tmp_path: Path, size: int) -> None:
    content = b"x" * size
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
