from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from everclip.data.cache import cache_dir, cache_key, embedding_cache, streamed_cache, written_atomically
from everclip.errors import InputError
from everclip.storage.verified import VerifiedArray


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, cache: Path):
    assert cache_dir() == cache
    monkeypatch.delenv("EVERCLIP_CACHE")
    monkeypatch.setenv("EVERCLIP_CACHE", "~/x")
    assert cache_dir() == Path.home() / "x"
    monkeypatch.delenv("EVERCLIP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/everclip")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "everclip"


def test_keys_tell_parts_apart():
    keys = {cache_key(*parts) for parts in [("ab", "c"), ("a", "bc"), ("abc",), ("c", "ab"), (1,), ("1",)]}
    assert len(keys) == 6
    assert cache_key("a", 1) == cache_key("a", 1)


def test_embeddings_are_computed_once(cache: Path):
    expected = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert not cache.exists()
    first = embedding_cache("key", lambda: expected)
    again = embedding_cache("key", lambda: pytest.fail("computed twice"))
    assert np.array_equal(first, expected)
    assert np.array_equal(again, expected)
    assert isinstance(again, VerifiedArray)
    assert not again[:].flags.writeable
    assert [path.name for path in (cache / "embeddings").iterdir()] == ["key.npy"]


def test_parts_make_one_file(cache: Path):
    expected = np.arange(42, dtype=np.float32).reshape(7, 3, 2)
    parts = [expected[:4], expected[4:6].transpose(1, 0, 2).copy().transpose(1, 0, 2), expected[6:]]
    first = streamed_cache("key", 7, lambda: iter(parts))
    again = streamed_cache("key", 7, lambda: pytest.fail("computed twice"))
    assert np.array_equal(first, expected)
    assert np.array_equal(again, expected)
    assert isinstance(again, VerifiedArray)
    assert not again[:].flags.writeable
    assert np.array_equal(np.load(cache / "embeddings" / "key.npy"), expected)


def test_parts_that_end_in_an_error_leave_no_file(cache: Path):
    def parts():
        yield np.zeros((2, 3))
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        streamed_cache("key", 4, parts)
    assert list((cache / "embeddings").iterdir()) == []


@pytest.mark.parametrize(
    "broken",
    [
        lambda content: b"",
        lambda content: content[:40],
        lambda content: content[:-1],
        lambda content: b"\0" * len(content),
        lambda content: content.replace(b"'shape'", b"'sh\xffp('"),
    ],
)
def test_broken_embeddings_are_computed_again(cache: Path, broken):
    expected = np.arange(6.0)
    embedding_cache("key", lambda: expected)
    file = cache / "embeddings" / "key.npy"
    file.write_bytes(broken(file.read_bytes()))
    assert np.array_equal(embedding_cache("key", lambda: expected), expected)
    assert np.array_equal(np.load(file), expected)


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "folder" / "file"
    with written_atomically(path) as file:
        file.write(b"old")

    def interrupted() -> None:
        with written_atomically(path) as file:
            file.write(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_two_writers_at_the_same_time(tmp_path: Path):
    path = tmp_path / "file"
    with written_atomically(path) as first, written_atomically(path) as second:
        first.write(b"same")
        second.write(b"same")
    assert path.read_bytes() == b"same"
    assert list(tmp_path.iterdir()) == [path]


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EVERCLIP_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot write .* EVERCLIP_CACHE"):
        embedding_cache("key", lambda: np.zeros(3))
