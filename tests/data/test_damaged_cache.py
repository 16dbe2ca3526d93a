"""Whatever happens to a file of the cache, what is read is what was computed, and a line says so."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everclip.data import cache as caching
from everclip.data.cache import embedding_cache, streamed_cache, verify_cache
from everclip.data.folders import FolderImages
from everclip.data.images import decoded, viewed
from everclip.errors import EverclipError
from everclip.storage.checksums import BLOCK

NUMBERS = np.random.default_rng(0).normal(size=(1000, 200)).astype(np.float64)  # three blocks and a bit
SIDE = 64


class Square:
    size = SIDE
    key = "square"

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.resize((SIDE, SIDE))


class Counted(FolderImages):
    """Files that say how often one is decoded."""

    count = 0

    def decode(self, index: int) -> Image.Image:
        self.count += 1
        return super().decode(index)


@pytest.fixture
def source(tmp_path: Path, write_images) -> FolderImages:
    """A hundred images in a few files, of 1.2 MB as views."""
    write_images(*(f"d/{number:02d}.png" for number in range(10)), size=(80, SIDE))
    return Counted([str(path) for path in sorted((tmp_path / "d").iterdir())] * 10, np.arange(100))


KINDS = ("array", "streamed", "views", "images")


@pytest.fixture(params=KINDS)
def read(request: pytest.FixtureRequest, cache: Path, source: FolderImages) -> Callable[[], np.ndarray]:
    """Reads a kind of cached array, from the beginning."""
    ways = {
        "array": lambda: embedding_cache("key", lambda: NUMBERS).copy(),
        "streamed": lambda: streamed_cache("key", 1000, lambda: np.split(NUMBERS, [300, 301, 999])).copy(),
        "views": lambda: viewed(source, Square())[:],
        "images": lambda: np.stack([images[row] for images in [decoded(source, SIDE)] for row in range(len(images))]),
    }
    return ways[request.param]


def the_file(cache: Path) -> Path:
    (path,) = (path for kind in ("embeddings", "images") for path in (cache / kind).glob("*"))
    return path


def flip(path: Path, place: int) -> None:
    with open(path, "r+b") as file:
        file.seek(place, 0 if place >= 0 else 2)
        (byte,) = file.read(1)
        file.seek(place, 0 if place >= 0 else 2)
        file.write(bytes([byte ^ 64]))


PLACES = {
    "first byte": 0,
    "within the header, where there is one": 20,
    "first number": 200,
    "end of a block": BLOCK - 1,
    "begin of a block": BLOCK,
    "last block": 2 * BLOCK + 5000,
    "index": -60,
    "magic": -40,
    "length": -31,
    "hash": -10,
    "last byte": -1,
}


@pytest.mark.parametrize("place", PLACES)
def test_a_flipped_byte(read: Callable[[], np.ndarray], cache: Path, capsys, place: str) -> None:
    expected = read().copy()
    path = the_file(cache)
    content = path.read_bytes()
    flip(path, PLACES[place])
    assert [bool(file.problem) for file in verify_cache()] == [True]
    capsys.readouterr()
    assert np.array_equal(read(), expected)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"everclip: {path} is damaged; ")
    assert "again" in line
    assert path.read_bytes() == content
    assert [file.problem for file in verify_cache()] == [""]
    assert np.array_equal(read(), expected)
    assert capsys.readouterr().err == ""


def test_a_flipped_byte_of_the_checksums(read: Callable[[], np.ndarray], cache: Path) -> None:
    expected = read().copy()
    path = the_file(cache)
    content = path.read_bytes()
    end = content.rindex(b'{"name"')
    for place in (end - 1, end - 8, end - 48):
        flip(path, place)
        assert [file.problem for file in verify_cache()] == ["cut off, or its end is damaged"]
        assert np.array_equal(read(), expected)
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    "broken",
    [
        lambda content: b"",
        lambda content: content[:100],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content[1:],
        lambda content: content + b"\0",
        lambda content: content + content,
        lambda content: b"\0" * len(content),
        lambda content: content[:5000] + b"\0" * (len(content) - 10000) + content[-5000:],
        lambda content: content[:5000] + content[5001:] + b"\0",
    ],
)
def test_other_damage(read: Callable[[], np.ndarray], cache: Path, capsys, broken) -> None:
    expected = read().copy()
    path = the_file(cache)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(broken(content))
    assert [bool(file.problem) for file in verify_cache()] == [True]
    capsys.readouterr()
    assert np.array_equal(read(), expected)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert path.read_bytes() == content


# -- arrays ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [5, 300, BLOCK + 7, 3 * BLOCK])
def test_only_the_rows_of_the_block_are_computed_again(cache: Path, place: int) -> None:
    asked: list[slice] = []

    def again(rows: slice) -> np.ndarray:
        asked.append(rows)
        return NUMBERS[rows]

    embedding_cache("key", lambda: NUMBERS)
    flip(the_file(cache), place)
    stored = embedding_cache("key", lambda: pytest.fail("computed again as a whole"), again=again)
    assert asked == []
    assert np.array_equal(stored, NUMBERS)
    (rows,) = asked
    assert rows.stop - rows.start <= BLOCK // NUMBERS[0].nbytes + 2


@pytest.mark.parametrize(
    "other",
    [
        NUMBERS.astype(np.float32),
        NUMBERS[:500],
        NUMBERS.T.copy(),
        NUMBERS.reshape(500, 400),
        np.asfortranarray(NUMBERS),
    ],
    ids=["dtype", "rows", "turned", "shape", "order"],
)
def test_an_array_without_checksums_is_computed_again(cache: Path, capsys, other: np.ndarray) -> None:
    """That is also what earlier versions stored."""
    caching._tell_of_older.cache_clear()
    expected = embedding_cache("key", lambda: NUMBERS).copy()
    embedding_cache("another", lambda: NUMBERS)
    for name in ("key", "another"):
        np.save(cache / "embeddings" / f"{name}.npy", other)
    assert {file.problem for file in verify_cache()} == {"stored without checksums by an earlier version"}
    for name in ("key", "another"):
        stored = embedding_cache(name, lambda: NUMBERS)
        assert (stored.dtype, stored.shape) == (expected.dtype, expected.shape)
        assert np.array_equal(stored, expected)
    (line,) = capsys.readouterr().err.splitlines()
    assert "stored without checksums" in line
    assert str(cache / "embeddings") in line


def test_a_file_of_another_array_is_not_read(cache: Path, capsys) -> None:
    """Its own checksums are right."""
    embedding_cache("one", lambda: NUMBERS)
    embedding_cache("other", lambda: -NUMBERS)
    shutil.copy(cache / "embeddings" / "other.npy", cache / "embeddings" / "one.npy")
    assert np.array_equal(embedding_cache("one", lambda: NUMBERS), NUMBERS)
    assert "one.npy is damaged" in capsys.readouterr().err
    streamed_cache("rows", 1000, lambda: [NUMBERS])
    assert len(streamed_cache("rows", 500, lambda: [NUMBERS[:500]])) == 500


def test_what_is_computed_today_has_another_type(cache: Path) -> None:
    embedding_cache("key", lambda: NUMBERS)
    flip(the_file(cache), 500)
    stored = embedding_cache("key", lambda: NUMBERS.astype(np.float32))
    with pytest.raises(EverclipError, match=r"another type or shape than what is computed today.*again"):
        np.asarray(stored)
    assert np.array_equal(embedding_cache("key", lambda: NUMBERS), NUMBERS)


def test_what_differs_by_rounding_takes_the_place(cache: Path) -> None:
    """The array was computed on another processor."""
    embedding_cache("key", lambda: NUMBERS)
    path = the_file(cache)
    flip(path, BLOCK + 500)
    rounded = NUMBERS + 1e-9
    stored = embedding_cache("key", lambda: rounded)
    mended = stored.copy()
    np.testing.assert_allclose(mended, NUMBERS, atol=1e-8)
    rows = (mended == rounded).all(axis=1)
    assert 300 < rows.sum() < 400
    assert np.array_equal(embedding_cache("key", lambda: pytest.fail("computed again")), mended)
    assert np.array_equal(np.load(path), mended)


def test_an_empty_cache_is_intact() -> None:
    assert verify_cache() == []


def test_what_cannot_be_read_is_a_problem(cache: Path) -> None:
    (cache / "embeddings" / "folder.npy").mkdir(parents=True)
    (file,) = verify_cache()
    assert file.path == cache / "embeddings" / "folder.npy"
    assert file.problem.startswith("can't be read")


# -- images ------------------------------------------------------------------------------------------------------------


def test_only_the_images_of_the_block_are_decoded_again(source, cache: Path) -> None:
    expected = viewed(source, Square())[:].copy()
    flip(the_file(cache), BLOCK + 100)
    images = viewed(source, Square())
    source.count = 0
    assert np.array_equal(images[np.array([0, 99])], expected[[0, 99]])
    assert source.count == 0
    assert np.array_equal(images[50], expected[50])
    assert source.count == BLOCK // (3 * SIDE * SIDE) + 1 + (BLOCK % (3 * SIDE * SIDE) > 0)
    source.count = 0
    assert np.array_equal(images[:], expected)
    assert source.count == 0


def test_an_image_that_is_gone_is_named(source, tmp_path: Path, cache: Path) -> None:
    viewed(source, Square())
    flip(the_file(cache), 100)
    images = viewed(source, Square())
    gone = tmp_path / "d" / "03.png"
    content = gone.read_bytes()
    gone.unlink()
    with pytest.raises(EverclipError, match=r"is damaged, and an image .*03\.png: the file is not there"):
        images[0]
    gone.write_bytes(content)
    assert np.array_equal(images[3], viewed(source, Square())[3])


def test_an_image_that_is_decoded_otherwise_today(source, cache: Path) -> None:
    """Another Pillow, say. Names are derived from the pixels, so that other pixels are other images."""
    viewed(source, Square())
    flip(the_file(cache), 100)

    class Mirrored(Square):
        def __call__(self, image: Image.Image) -> Image.Image:
            return super().__call__(image).transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    with pytest.raises(EverclipError, match=r"gives something else today.*give the command again"):
        viewed(source, Mirrored())[:]
    again = viewed(source, Mirrored())
    assert np.array_equal(again[:], viewed(source, Square())[:])


def older(content: bytes) -> bytes:
    """A file of today as EverCLIP 0.1 wrote it."""
    magic, size, index_size, _ = struct.unpack("<8sQQ16s", content[-40:])
    assert magic == b"ecblock1"
    index = json.loads(content[-40 - index_size : -40])
    del index["name"]
    written = json.dumps(index).encode()
    footer = struct.pack("<8sQQ16s", b"everclip", size, len(written), hashlib.blake2b(written, digest_size=16).digest())
    return content[:size] + written + footer


@pytest.mark.parametrize("way", ["views", "images"])
def test_pixels_of_an_earlier_version_get_checksums(source, tmp_path: Path, cache: Path, capsys, way: str) -> None:
    """They have a hash of all pixels, so that nothing need be decoded again."""
    (tmp_path / "d" / "07.png").write_bytes(b"no image")
    read = {"views": lambda: viewed(source, Square()), "images": lambda: decoded(source, SIDE)}[way]
    first = read()
    path = the_file(cache)
    content = path.read_bytes()
    path.write_bytes(older(content))
    assert [file.problem for file in verify_cache()] == [""]
    source.count = 0
    again = read()
    assert source.count == 0
    assert capsys.readouterr().err == ""
    assert (again.key, again.skipped) == (first.key, first.skipped)
    assert path.read_bytes() == content


@pytest.mark.parametrize("place", [0, 100_000, -45, -1])
def test_damaged_pixels_of_an_earlier_version_are_decoded_again(source, cache: Path, capsys, place: int) -> None:
    expected = viewed(source, Square())[:].copy()
    path = the_file(cache)
    content = path.read_bytes()
    path.write_bytes(older(content))
    flip(path, place)
    assert [bool(file.problem) for file in verify_cache()] == [True]
    assert np.array_equal(viewed(source, Square())[:], expected)
    assert f"{path} is damaged; its images are decoded again" in capsys.readouterr().err
    assert path.read_bytes() == content
