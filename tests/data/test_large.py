"""Photos of more megapixels than are decoded in full, and the limit itself."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everclip.data import decode, decoded
from everclip.data.decode import HALVED_SIDE, HALVED_TIMES, load_rgb
from everclip.data.folders import FolderImages
from everclip.data.jpeg import decoded_row_by_row
from everclip.data.source import BadImage, Joined, Reduced

SIDE = 2 * HALVED_SIDE + 3


def jpeg(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def pattern(name: str) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8 with detail that a smaller image cannot hold."""
    pixels = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    rows, columns = np.ogrid[:SIDE, :SIDE]
    if name == "noise":
        pixels[...] = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    elif name == "stripes":
        pixels[:, ::2] = 255
    else:
        pixels[...] = ((rows // 53 + columns // 37) % 2 * 255)[..., None]
    return pixels


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noise", "stripes", "edges"])
def test_what_a_view_shows_of_a_halved_photo(name: str):
    content = jpeg(pattern(name))
    whole, halved = load_rgb(content, "x"), load_rgb(content, "x", SIDE * SIDE // 2)
    assert whole.size == (SIDE, SIDE)
    assert halved.size == (SIDE // 2, SIDE // 2)
    for size in (64, 224, 448):
        one, other = (
            np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)).astype(int) for image in (whole, halved)
        )
        difference = np.abs(one - other)
        assert difference.max() <= 8
        assert difference.mean() < 1


@pytest.fixture
def small_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds for large photos, tried on small ones."""
    monkeypatch.setattr(decode, "HALVED_SIDE", 8)


@pytest.mark.usefixtures("small_photos")
def test_what_is_halved_and_what_is_refused():
    gradient = np.linspace(0, 255, 32 * 40 * 3).reshape(32, 40, 3).astype(np.uint8)
    pixels, content = 32 * 40, jpeg(gradient)
    assert load_rgb(content, "x", pixels).size == (40, 32), "as many as are allowed"
    assert load_rgb(content, "x", pixels - 1).size == (20, 16)
    assert load_rgb(content, "x", pixels // HALVED_TIMES).size == (20, 16)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load_rgb(jpeg(gradient, exif=exif), "x", pixels - 1).size == (16, 20)
    gray = jpeg(gradient[..., 0])
    assert load_rgb(gray, "x", pixels - 1).size == (20, 16)
    for refused, most in (
        (content, pixels // HALVED_TIMES - 1),
        (jpeg(gradient, progressive=True), pixels - 1),
        (jpeg(gradient[:8]), 8 * 40 - 1),
    ):
        with pytest.raises(BadImage, match=r"megapixels; allow more, or make it smaller"):
            load_rgb(refused, "x", most)
    buffer = io.BytesIO()
    Image.fromarray(gradient).save(buffer, "PNG")
    with pytest.raises(BadImage, match="megapixels"):
        load_rgb(buffer.getvalue(), "x", pixels - 1)


def test_which_jpegs_a_decoder_keeps_in_memory():
    gradient = np.linspace(0, 255, 32 * 40 * 3).reshape(32, 40, 3).astype(np.uint8)
    content = jpeg(gradient)
    assert decoded_row_by_row(content)
    assert decoded_row_by_row(jpeg(gradient, exif=b"Exif\0\0" + content))  # a preview inside does not count
    assert not decoded_row_by_row(jpeg(gradient, progressive=True))
    scan = content.index(b"\xff\xda")
    one_color = content[: scan + 4] + b"\1" + content[scan + 5 :]
    assert not decoded_row_by_row(one_color), "its colors come one after the other"
    for cut in (0, 3, scan, scan + 4):
        assert not decoded_row_by_row(content[:cut])


def test_more_can_be_allowed_than_pillow_does(monkeypatch: pytest.MonkeyPatch):
    """As for images above Pillow's own limits, tried on small ones."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    for kind in ("PNG", "TIFF", "GIF", "BMP"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        expected = np.asarray(load_rgb(buffer.getvalue(), "x"))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        assert np.array_equal(np.asarray(load_rgb(buffer.getvalue(), "x")), expected), kind
        assert Image.MAX_IMAGE_PIXELS == 100, "and is as it was"
        monkeypatch.undo()


def test_the_limit_of_a_source_reaches_every_image_and_the_cache(tmp_path: Path):
    for name, side in (("small", 20), ("large", 40)):
        Image.new("RGB", (side, side), "red").save(tmp_path / f"{name}.png")
    paths = [str(tmp_path / f"{name}.png") for name in ("small", "large")]
    source = FolderImages(paths, np.zeros(2, dtype=np.int64))
    whole = Joined([Reduced(source, 10), source.select([1, 0])])
    assert len(decoded(whole, 10)) == 4
    whole.most_pixels = 1000
    assert source.most_pixels == whole.select([0]).most_pixels == 1000
    assert [Path(name).name for name, _ in decoded(whole, 10).skipped] == ["large.png", "large.png"]
    whole.most_pixels = 1600
    assert not decoded(whole, 10).skipped, "a refusal under another limit is not remembered"


@pytest.mark.slow
def test_a_photo_of_108_megapixels(tmp_path: Path):
    path = tmp_path / "x.jpg"
    Image.new("RGB", (12_000, 9_000), (200, 30, 30)).save(path)
    image = load_rgb(path, "x.jpg")
    assert image.size == (6_000, 4_500)
    assert np.abs(np.asarray(image.resize((9, 9))).astype(int) - (200, 30, 30)).max() < 5
