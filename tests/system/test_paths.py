"""Paths as people write them, on machines that are not the developer's."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everclip.errors import EverclipError, InputError
from everclip.system import paths
from everclip.system.paths import expanded, home, home_for_libraries, portable_name, portable_path, without_home


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No HOME, and a user whom the password database does not know; returns the folder for temporary files."""
    pwd = pytest.importorskip("pwd", reason="only Unix has a password database")

    def unknown(user: object) -> None:
        raise KeyError(user)

    for name in ("HOME", "XDG_CACHE_HOME", "EVERCLIP_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


# -- home folders ------------------------------------------------------------------------------------------------------


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert expanded("~") == tmp_path
    assert expanded("~/a/b") == expanded(Path("~/a/b")) == tmp_path / "a/b"
    assert expanded("a/~") == Path("a/~")
    assert expanded("") == Path()


def test_what_only_looks_like_a_home_folder_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editor's left-over is an image like any other, and `./` keeps a name from being expanded: once, and again."""
    monkeypatch.chdir(tmp_path)
    assert expanded("~nobody-of-this-name.jpg") == Path("~nobody-of-this-name.jpg")
    assert expanded(expanded("./~/x")) == tmp_path / "~/x"


def test_nobody_has_no_home(nobody: Path) -> None:
    assert home() is None
    assert expanded("x") == Path("x")
    for path in ("~", "~/x"):
        with pytest.raises(InputError, match=f"{path} is below a home folder, but this user has none; set HOME"):
            expanded(path)


def test_nobody_has_a_folder_that_is_no_one_elses(nobody: Path) -> None:
    folder = without_home()
    assert folder.parent == nobody
    assert without_home() == folder
    if os.name == "posix":
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.name != "posix", reason="Windows has no mode bits, and no shared folder for temporary files")
@pytest.mark.parametrize("trap", ["open", "link", "file"])
def test_a_trap_among_the_temporary_files_is_refused(nobody: Path, trap: str) -> None:
    path = without_home()
    path.rmdir()
    if trap == "open":
        path.mkdir()
        path.chmod(0o777)
    elif trap == "link":
        (nobody / "theirs").mkdir(mode=0o700)
        path.symlink_to(nobody / "theirs")
    else:
        path.touch(mode=0o600)
    with pytest.raises(InputError, match="HOME or EVERCLIP_CACHE"):
        without_home()


def test_libraries_find_a_home_that_we_do_not_take_for_one(nobody: Path) -> None:
    with home_for_libraries():
        assert os.path.expanduser("~/x") == str(without_home() / "x")
        assert home() is None
        with pytest.raises(InputError, match="set HOME"):
            expanded("~/x")
    assert "HOME" not in os.environ


def test_a_home_that_is_there_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    with home_for_libraries():
        assert home() == tmp_path
    assert os.environ["HOME"] == str(tmp_path)


# -- temporary files ---------------------------------------------------------------------------------------------------


def test_temporary_files_without_a_place_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(EverclipError, match=r"gone takes no temporary files \(No such file.*TMPDIR"):
        paths.temporary_folder("everclip-")

    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(EverclipError, match=r"No usable temporary directory.*TMPDIR"):
        paths.temporary_folder("everclip-")


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "portable"),
    [
        ("birds", "birds"),
        ("a b.c", "a b.c"),
        ("鳥 größer", "鳥 größer"),
        ("a:b?c", "a-b-c"),
        ("a/b\\c", "a-b-c"),
        ("dots...", "dots"),
        ("space ", "space"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("lpt1 .x", "_lpt1 .x"),
        ("console", "console"),
        ("com10", "com10"),
        ("..", "_"),
        ("", "_"),
        ("tab\t", "tab-"),
        (os.fsdecode(b"caf\xe9"), "caf-"),
    ],
)
def test_names_that_every_system_can_hold(name: str, portable: str) -> None:
    assert portable_name(name) == portable


@given(st.text(alphabet=st.characters() | st.sampled_from("cCoOnNuUlL .:?/\\~1²\udce9"), max_size=300))
def test_a_portable_name_is_one_and_stays_as_it_is(name: str) -> None:
    portable = portable_name(name)
    assert portable_name(portable) == portable
    assert not set('<>:"/\\|?*') & set(portable)
    assert portable.isprintable() or min(map(ord, portable)) >= 32
    assert portable[-1] not in " ."
    assert portable.split(".")[0].rstrip().lower() not in {"con", "nul", "prn", "aux", "com1", "lpt²"}
    assert 0 < len(portable.encode()) <= paths.LONGEST_NAME + 1


@pytest.mark.skipif(os.name == "nt", reason="there was never such a name")
def test_what_has_another_name_already_is_found(tmp_path: Path) -> None:
    assert portable_path(tmp_path / "a:b") == tmp_path / "a-b"
    (tmp_path / "a:b").mkdir()
    assert portable_path(tmp_path / "a:b") == tmp_path / "a:b"
