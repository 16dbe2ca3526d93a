from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from everclip.data.decode import IMAGE_SUFFIXES, load_rgb
from everclip.data.source import BadImage

random = np.random.default_rng(0)
COLORS = random.integers(0, 256, (10, 14, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(content: bytes) -> np.ndarray:
    image = load_rgb(content, "x")
    assert image.mode == "RGB"
    return np.asarray(image)


def png_of_size(width: int, height: int) -> bytes:
    """Return a PNG whose header states a size that its data does not have."""
    content = encoded(Image.new("L", (1, 1)))
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_keep_every_pixel(kind, tmp_path: Path):
    content = encoded(Image.fromarray(COLORS), kind)
    assert np.array_equal(decoded(content), COLORS)
    (tmp_path / "file").write_bytes(content)
    assert np.array_equal(np.asarray(load_rgb(tmp_path / "file", "x")), COLORS)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_stay_close(kind):
    smooth = np.linspace(0, 255, 64 * 64).reshape(64, 64, 1).repeat(3, axis=2).astype(np.uint8)
    assert np.abs(decoded(encoded(Image.fromarray(smooth), kind)).astype(int) - smooth).mean() < 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_modes_look_as_they_are(mode):
    blocks = np.zeros((8, 8, 3), dtype=np.uint8)
    blocks[:, 4:] = 255
    image = Image.fromarray(blocks).convert(mode)
    assert np.array_equal(decoded(encoded(image, "TIFF")), blocks)


def test_16_bit_gray_is_scaled_not_clipped():
    values = np.array([[0, 255, 256], [32768, 40000, 65535]], dtype=np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decoded(encoded(Image.fromarray(values), kind))[..., 0], expected)
    as_32_bit = Image.fromarray(values.astype(np.int32))
    assert np.array_equal(decoded(encoded(as_32_bit, "TIFF"))[..., 2], expected)


def test_gray_without_a_stated_range_is_stretched():
    assert decoded(encoded(Image.fromarray(np.array([[-1.0, 0.0, 1.0]], np.float32)), "TIFF"))[0, :, 0].tolist() == [
        0,
        128,
        255,
    ]
    assert decoded(encoded(Image.fromarray(np.array([[0, 10**6]], np.int32)), "TIFF"))[0, :, 1].tolist() == [0, 255]
    assert decoded(encoded(Image.fromarray(np.full((2, 2), 3.0, np.float32)), "TIFF")).max() == 0


def test_transparency_becomes_white():
    clear_red = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (decoded(encoded(clear_red)) == 255).all()
    half_black = Image.new("LA", (4, 4), (0, 128))
    assert np.all(np.abs(decoded(encoded(half_black)).astype(int) - 127) <= 1)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 200, 0, 90, 0])
    palette.putpixel((1, 0), 1)
    pixels = decoded(encoded(palette, transparency=0))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == [0, 90, 0]
    keyed = Image.new("RGB", (2, 2), (1, 2, 3))
    assert (decoded(encoded(keyed, transparency=(1, 2, 3))) == 255).all()


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(1, lambda x: x), (3, lambda x: x[::-1, ::-1]), (6, lambda x: np.rot90(x, -1)), (8, lambda x: np.rot90(x))],
)
def test_exif_orientation_is_applied(orientation, turned):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    assert np.array_equal(decoded(encoded(Image.fromarray(COLORS), exif=exif)), turned(COLORS))


def test_a_broken_exif_block_is_ignored():
    content = encoded(Image.fromarray(COLORS), "JPEG", exif=b"Exif\0\0 this is no TIFF header")
    assert decoded(content).shape == COLORS.shape


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    pixels = decoded(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() < 8


def test_no_file_and_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(BadImage, match=r"gone\.jpg: the file is not there"):
        load_rgb(tmp_path / "gone.jpg", "gone.jpg")
    with pytest.raises(BadImage, match="cannot be read"):
        load_rgb(tmp_path, "folder.jpg")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BadImage, match="no permission"):
        load_rgb(tmp_path / "x.jpg", "x.jpg")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"Not an image, only renamed.\n" * 9, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
        (png_of_size(20_000, 20_000), "more than 100 megapixels"),
        (png_of_size(1, 5_000), "too narrow"),
    ],
)
def test_refused_content(content, reason):
    with pytest.raises(BadImage, match=reason):
        load_rgb(content, "x.jpg")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_large_between_our_limit_and_that_of_pillow():
    with pytest.raises(BadImage, match="more than 100 megapixels"):
        load_rgb(png_of_size(12_000, 9_000), "x.png")


@pytest.mark.filterwarnings("error")
def test_too_large_when_warnings_are_errors():
    with pytest.raises(BadImage, match="more than 100 megapixels"):
        load_rgb(png_of_size(12_000, 9_000), "x.png")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_a_file_cut_short_anywhere_is_refused(kind):
    content = encoded(Image.fromarray(COLORS.repeat(8, axis=0).repeat(8, axis=1)), kind)
    for part in (0.01, 0.1, 0.5, 0.9):
        with pytest.raises(BadImage):
            load_rgb(content[: int(len(content) * part)], "x")
    with pytest.raises(BadImage, match="damaged or cut short"):
        load_rgb(content[: int(len(content) * 0.5)], "x")


def test_not_finite_pixels_are_refused():
    with pytest.raises(BadImage, match="not finite"):
        decoded(encoded(Image.fromarray(np.array([[np.nan, 1]], np.float32)), "TIFF"))


def test_suffixes():
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"} <= IMAGE_SUFFIXES
    assert IMAGE_SUFFIXES.isdisjoint({".txt", ".json", ".eps", ".pdf", ".h5", ".psd", ""})
