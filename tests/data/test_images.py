from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everclip.data.folders import FolderImages
from everclip.data.images import decoded, viewed
from everclip.data.source import BadImage
from everclip.errors import InputError


class Square:
    size = 8
    key = "square-8"

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.resize((8, 8))


class Sideways(Square):
    key = "sideways"

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.resize((8, 9))


@pytest.fixture
def files(tmp_path: Path, write_images) -> list[Path]:
    for i in range(5):
        write_images(f"d/{i}.png", size=(20 + i, 12))
    return sorted((tmp_path / "d").iterdir())


def source_of(files: list[Path]) -> FolderImages:
    return FolderImages([str(path) for path in files], np.arange(len(files)) + 10)


def stored(cache: Path) -> set[Path]:
    return set((cache / "images").iterdir())


class Unreadable(FolderImages):
    """Files that must not be decoded: their pixels have to come from the cache."""

    def decode(self, index: int) -> Image.Image:
        pytest.fail(f"decoded {self.name(index)}")


def test_viewed_round_trip(files, cache: Path):
    calls = []
    source = source_of(files)
    assert not cache.exists()
    images = viewed(source, Square(), progress=lambda *done: calls.append(done))
    assert calls == [(i + 1, 5) for i in range(5)]
    assert images.pixels.shape == (5, 3, 8, 8)
    assert images.labels.tolist() == [10, 11, 12, 13, 14]
    assert images.name(2) == str(files[2])
    assert images.skipped == []
    for i in range(5):
        assert np.array_equal(images[i], np.asarray(source.decode(i).resize((8, 8))).transpose(2, 0, 1))
    assert images[np.array([3, 1])].shape == (2, 3, 8, 8)
    assert not images.pixels[:].flags.writeable
    again = viewed(Unreadable([str(path) for path in files], source.labels), Square())
    assert np.array_equal(again.pixels, images.pixels)
    assert again.key == images.key


def test_decoded_round_trip_of_several_sizes(files):
    source = source_of(files)
    images = decoded(source, short_side=100)
    again = decoded(Unreadable([str(path) for path in files], source.labels), short_side=100)
    for i in range(5):
        assert images[i].shape == (12, 20 + i, 3)
        assert np.array_equal(again[i], np.asarray(source.decode(i)))
        assert np.array_equal(np.asarray(again.pil(i)), again[i])
    assert np.array_equal(images[-1], images[4])


def test_decoded_reduces_the_short_side(files):
    source = source_of(files)
    images = decoded(source, short_side=6)
    assert [images[i].shape for i in range(5)] == [(6, round((20 + i) / 2), 3) for i in range(5)]
    expected = source.decode(3).resize(images.pil(3).size, Image.Resampling.BICUBIC)
    assert np.array_equal(images[3], np.asarray(expected))


def test_workers_do_not_change_the_file(files, cache: Path):
    viewed(source_of(files), Square(), workers=1)
    (path,) = stored(cache)
    alone = path.read_bytes()
    path.unlink()
    viewed(source_of(files), Square(), workers=7)
    assert path.read_bytes() == alone


def test_what_makes_another_cache_file(files, cache: Path):
    viewed(source_of(files), Square())
    viewed(FolderImages([str(path) for path in files], np.zeros(5)), Square())
    assert len(stored(cache)) == 1  # labels are not part of it
    other = Square()
    other.key = "other"
    viewed(source_of(files), other)
    decoded(source_of(files), 50)
    decoded(source_of(files), 60)
    assert len(stored(cache)) == 4
    before = viewed(source_of(files), Square()).pixels.copy()
    Image.new("RGB", (20, 12), "red").save(files[1])
    after = viewed(source_of(files), Square())
    assert after[1][:, 0, 0].tolist() == [255, 0, 0]
    assert np.array_equal(after[2], before[2])
    assert len(viewed(source_of(files[:4]), Square())) == 4
    assert np.array_equal(viewed(source_of(files[::-1]), Square())[0], before[4])
    assert len(stored(cache)) == 7


def test_equal_pixels_have_equal_content_keys(files, tmp_path: Path):
    copies = [path.rename(tmp_path / path.name) for path in files[:2]]
    images = decoded(source_of(copies), 50)
    assert images.key == decoded(source_of(copies), 60).key
    assert images.key != decoded(source_of(copies[:1]), 50).key


def test_bad_images_are_skipped_and_stay_listed(files, cache: Path):
    content = files[2].read_bytes()
    files[0].write_bytes(b"")
    files[2].unlink()
    source = source_of(files)
    for read in (lambda s: viewed(s, Square()), lambda s: decoded(s, 50)):
        first = read(source)
        assert [first.name(i) for i in range(len(first))] == [str(files[i]) for i in first.positions]
        assert first.skipped == [
            (str(files[0]), "the file is empty"),
            (str(files[2]), "the file is not there (any more)"),
        ]
        assert first.labels.tolist() == [11, 13, 14]
        assert first.name(1) == str(files[3])
        count = len(stored(cache))
        again = read(source)
        assert again.skipped == first.skipped
        assert np.array_equal(again[1], first[1])
        assert len(stored(cache)) == count
    files[2].write_bytes(content)
    repaired = viewed(source, Square())
    assert [name for name, _ in repaired.skipped] == [str(files[0])]
    assert repaired.labels.tolist() == [11, 12, 13, 14]


def test_no_usable_image(files, cache: Path):
    for path in files:
        path.write_bytes(b"text")
    with pytest.raises(InputError, match=r"none of the 5 images .*0\.png: the content is not an image"):
        viewed(source_of(files), Square())
    assert stored(cache) == set()
    with pytest.raises(InputError, match="no image to read"):
        viewed(source_of([]), Square())


def test_a_file_that_vanishes_for_a_moment_is_not_remembered_as_bad(files, cache: Path):
    class Flickering(FolderImages):
        def decode(self, index: int) -> Image.Image:
            if index == 3:
                files[3].unlink()
            return super().decode(index)

    with pytest.raises(InputError, match=r"3\.png changed while"):
        viewed(Flickering([str(path) for path in files], np.arange(5)), Square())
    assert stored(cache) == set()


@pytest.mark.parametrize(
    "broken",
    [
        lambda content: b"",
        lambda content: content[:30],
        lambda content: content[:-1],
        lambda content: content[1:],
        lambda content: content + b"x",
        lambda content: content.replace(b'"skipped"', b'"skippes"'),
        lambda content: b"\0" * len(content),
    ],
)
def test_a_damaged_cache_file_is_built_again(files, cache: Path, broken):
    expected = viewed(source_of(files), Square()).pixels.copy()
    (path,) = stored(cache)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(broken(content))
    assert np.array_equal(viewed(source_of(files), Square()).pixels, expected)
    assert path.read_bytes() == content


def test_what_a_killed_process_leaves_is_not_read(files, cache: Path):
    expected = viewed(source_of(files), Square()).pixels.copy()
    (path,) = stored(cache)
    leftover = path.rename(path.with_name(path.name + ".0123.tmp"))
    leftover.write_bytes(leftover.read_bytes()[:50])
    assert np.array_equal(viewed(source_of(files), Square()).pixels, expected)
    assert stored(cache) == {path, leftover}


def test_an_interrupted_build_leaves_nothing(files, cache: Path):
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        viewed(source_of(files), Square(), progress=interrupt)
    assert stored(cache) == set()


def test_a_view_of_another_size_is_a_mistake(files):
    with pytest.raises(ValueError, match="sideways states size 8"):
        viewed(source_of(files), Sideways())


def test_a_cache_that_cannot_be_written(files, cache: Path):
    cache.write_text("in the way")
    with pytest.raises(InputError, match="EVERCLIP_CACHE"):
        decoded(source_of(files), 50)


def test_many_more_images_than_are_read_ahead(files):
    many = source_of(files).select(np.arange(200) % 5)
    images = viewed(many, Square(), workers=3)
    assert np.array_equal(images.pixels[:5], images.pixels[195:])
    assert len(images) == 200


def test_bad_image_is_what_a_source_raises(files):
    files[0].write_bytes(b"text")
    with pytest.raises(BadImage):
        source_of(files).decode(0)
