from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everclip.errors import EverclipError
from everclip.storage.blockfile import BlockFile
from everclip.storage.blocks import BlockWriter
from everclip.storage.checksums import BLOCK

CONTENT = np.random.default_rng(0).integers(0, 256, 2 * BLOCK + 12345, dtype=np.uint8)
CONTENT.flags.writeable = False


def write(path: Path, content: np.ndarray = CONTENT, parts: tuple[int, ...] = (), index: dict | None = None) -> Path:
    with open(path, "wb") as file:
        writer = BlockWriter(file)
        for part in np.split(content, parts):
            writer.write(part)
        assert writer.size == len(content)
        writer.finish(index or {"what": "noise"})
    return path


def opened(path: Path, content: np.ndarray = CONTENT, exact: bool = True) -> tuple[BlockFile, list[tuple[int, int]]]:
    """A file, and what of it is computed again, as it happens."""
    file = BlockFile.open(path)
    assert file is not None
    asked: list[tuple[int, int]] = []

    def restore(start: int, stop: int) -> bytes:
        asked.append((start, stop))
        return content[start:stop].tobytes()

    file.restored_by(restore, exact)
    return file, asked


def flip(path: Path, *places: int) -> None:
    """Change bytes where they lie, as a disk would."""
    with open(path, "r+b") as file:
        for place in places:
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ 1]))


@given(st.lists(st.integers(0, len(CONTENT)), max_size=6).map(sorted))
@settings(max_examples=20, deadline=None)
def test_portions_do_not_matter(tmp_path_factory: pytest.TempPathFactory, parts: list[int]) -> None:
    folder = tmp_path_factory.mktemp("portions")
    assert write(folder / "a", parts=tuple(parts)).read_bytes() == write(folder / "b").read_bytes()


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, len(CONTENT)])
def test_a_round_trip(tmp_path: Path, size: int) -> None:
    file, asked = opened(write(tmp_path / "file", CONTENT[:size]))
    assert (file.size, file.index, file.blocks) == (size, {"what": "noise"}, -(-size // BLOCK))
    for start, stop in ((0, size), (size // 3, size // 2), (0, 0), (size, size)):
        assert np.array_equal(file.read(start, stop), CONTENT[start:stop])
        file.verify(start, stop)
    assert np.array_equal(file.content, CONTENT[:size])
    assert asked == []


@pytest.mark.parametrize(
    "broken",
    [
        lambda content: b"",
        lambda content: content[:7],
        lambda content: content[:-1],
        lambda content: content[1:],
        lambda content: content + b"x",
        lambda content: content[: len(CONTENT)],
        lambda content: b"\0" * len(content),
        lambda content: content.replace(b"noise", b"voice"),
    ],
)
def test_another_length_or_end_is_refused(tmp_path: Path, broken) -> None:
    path = write(tmp_path / "file")
    path.write_bytes(broken(path.read_bytes()))
    assert BlockFile.open(path) is None
    assert BlockFile.open(tmp_path / "absent") is None
    assert BlockFile.open(tmp_path) is None


def test_any_flipped_byte_of_the_end_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "file")
    for place in range(len(CONTENT), path.stat().st_size):
        flip(path, place)
        assert BlockFile.open(path) is None, place
        flip(path, place)
    assert BlockFile.open(path) is not None


def test_the_end_of_another_file_is_refused_or_shows(tmp_path: Path) -> None:
    """The content of one file with the end of another of the same size."""
    path, other = write(tmp_path / "file"), write(tmp_path / "other", CONTENT[::-1])
    path.write_bytes(path.read_bytes()[: len(CONTENT)] + other.read_bytes()[len(CONTENT) :])
    file = BlockFile.open(path)
    assert file is not None
    assert file.inspected(0, file.size) == [0, 1, 2]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("place", [0, BLOCK - 1, BLOCK, len(CONTENT) - 1])
def test_a_damaged_block_is_computed_again_alone(tmp_path: Path, capsys, place: int, exact: bool) -> None:
    path = write(tmp_path / "file")
    before = path.read_bytes()
    flip(path, place)
    file, asked = opened(path, exact=exact)
    assert np.array_equal(file.read(0, file.size), CONTENT)
    block = place // BLOCK
    assert asked == [(block * BLOCK, min((block + 1) * BLOCK, len(CONTENT)))]
    assert path.read_bytes() == before
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line
    assert "is damaged" in line
    again, asked = opened(path)
    again.verify(0, again.size)
    assert asked == []
    assert capsys.readouterr().err == ""


def test_only_what_is_touched_is_checked_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "file")
    flip(path, BLOCK + 7)
    file, asked = opened(path)
    file.verify(0, BLOCK)
    file.verify(2 * BLOCK, file.size)
    assert asked == []
    file.verify(BLOCK - 1, BLOCK + 1)
    assert asked == [(BLOCK, 2 * BLOCK)]
    monkeypatch.setattr("everclip.storage.blockfile.checksum", lambda content: pytest.fail("checked again"))
    assert np.array_equal(file.read(0, file.size), CONTENT)


def test_several_damaged_blocks_make_one_line(tmp_path: Path, capsys) -> None:
    path = write(tmp_path / "file")
    flip(path, 3, 2 * BLOCK + 3)
    file, asked = opened(path)
    file.verify(0, 1)
    file.verify(0, file.size)
    assert len(asked) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_is_computed_otherwise_takes_the_place(tmp_path: Path) -> None:
    """Embeddings on another processor: no name is derived from them, so they may differ by rounding."""
    path = write(tmp_path / "file")
    flip(path, BLOCK)
    other = CONTENT.copy()
    other[BLOCK : 2 * BLOCK] += 1
    file, asked = opened(path, other, exact=False)
    assert np.array_equal(file.read(0, file.size), other)
    again, asked = opened(path)
    assert again.index == {"what": "noise"}
    assert np.array_equal(again.read(0, again.size), other)
    assert asked == []
    assert list(tmp_path.iterdir()) == [path]


def test_what_names_are_derived_from_must_be_the_same_again(tmp_path: Path) -> None:
    path = write(tmp_path / "file")
    flip(path, BLOCK)
    file, _ = opened(path, CONTENT + 1)
    with pytest.raises(EverclipError, match=r"something else today.*give the command again"):
        file.verify(0, file.size)
    assert not path.exists()


def test_another_process_mends_at_the_same_time(tmp_path: Path) -> None:
    path = write(tmp_path / "file")
    flip(path, 5)
    (one, first), (other, second) = opened(path), opened(path)
    one.verify(0, 1)
    other.verify(0, 1)
    assert (len(first), second) == (1, [])
    assert np.array_equal(other.read(0, other.size), CONTENT)


def test_another_process_has_put_something_else_in_its_place(tmp_path: Path) -> None:
    """Both compute what differs from before by rounding; the second goes on with what the first has written."""
    path = write(tmp_path / "file")
    flip(path, 5)
    otherwise = CONTENT + 1
    (one, _), (other, asked) = opened(path, otherwise, exact=False), opened(path, otherwise + 1, exact=False)
    one.verify(0, 1)
    other.verify(0, other.size)
    assert asked == []
    assert np.array_equal(other.read(0, BLOCK), otherwise[:BLOCK])


def test_a_file_of_other_content_is_not_written_to(tmp_path: Path) -> None:
    path = write(tmp_path / "file")
    flip(path, 5)
    file, _ = opened(path)
    path.unlink()
    content = write(path, CONTENT[:BLOCK]).read_bytes()
    with pytest.raises(EverclipError, match="another process has replaced it"):
        file.verify(0, 1)
    assert path.read_bytes() == content


def test_a_file_that_cannot_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "file")
    flip(path, 5)
    file, _ = opened(path)

    def refused(self: BlockFile, contents: dict[int, bytes]) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(BlockFile, "_write", refused)
    with pytest.raises(
        EverclipError, match=r"file is damaged and can't be mended \(Permission denied\).*EVERCLIP_CACHE"
    ):
        file.read(0, 10)
    with pytest.raises(EverclipError, match="can't be mended"):
        file.read(0, 10)


def test_many_threads_get_what_was_written(tmp_path: Path) -> None:
    content = np.random.default_rng(1).integers(0, 256, 20 * BLOCK, dtype=np.uint8)
    path = write(tmp_path / "file", content)
    flip(path, *range(0, len(content), BLOCK // 2))
    file, asked = opened(path, content)
    assert np.array_equal(file.read(0, file.size), content)
    assert sum(stop - start for start, stop in asked) == len(content), "consecutive blocks are computed together"
    assert len(asked) < 5
