from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from everclip.data.decode import IMAGE_SUFFIXES, load_rgb, stated_pixels
from everclip.data.metadata import pixels_of_heif
from everclip.data.source import BadImage

PICTURES = Path(__file__).parent / "pictures"
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
        load_rgb("a\0b.jpg", "a b.jpg")

    def refuse(*args: object) -> int:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x.jpg").write_bytes(b"there")
    monkeypatch.setattr(os, "open", refuse)
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
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_a_file_cut_short_anywhere_is_refused(kind):
    content = encoded(Image.fromarray(COLORS.repeat(8, axis=0).repeat(8, axis=1)), kind)
    for part in (0.01, 0.1, 0.5, 0.9):
        with pytest.raises(BadImage):
            load_rgb(content[: int(len(content) * part)], "x")
    with pytest.raises(BadImage, match="damaged or cut short"):
        load_rgb(content[: int(len(content) * 0.5)], "x")


def png_with(content: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with more chunks behind its header."""
    more = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return content[:33] + more + content[33:]


def test_text_does_not_damage_a_png():
    plain = encoded(Image.fromarray(COLORS))
    long = zlib.compress(bytes(2 * 2**20))
    texts = {
        "compressed": [(b"zTXt", b"prompt\0\0" + long)],
        "international": [(b"iTXt", b"workflow\0\1\0\0\0" + long)],
        "plain": [(b"tEXt", b"prompt\0" + b"x" * (2 * 2**20))],
        "many": [(b"tEXt", b"prompt\0" + b"x" * 2**20)] * 70,
        "a profile": [(b"iCCP", b"ICC\0\0" + long)],
        "damaged": [(b"zTXt", b"prompt\0\7nonsense")],
    }
    for name, chunks in texts.items():
        assert np.array_equal(decoded(png_with(plain, *chunks)), COLORS), name
    broken = png_with(plain, (b"tEXt", b"prompt\0text")).replace(b"prompt\0text", b"prompt\0next")
    assert np.array_equal(decoded(broken), COLORS), "a checksum of a text that does not fit"


def test_what_shows_in_a_png_survives_its_text():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    long = (b"zTXt", b"prompt\0\0" + zlib.compress(bytes(2 * 2**20)))
    assert np.array_equal(decoded(png_with(encoded(Image.fromarray(COLORS), exif=exif), long)), np.rot90(COLORS, -1))
    xmp = (b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>')
    assert np.array_equal(decoded(png_with(encoded(Image.fromarray(COLORS)), long, xmp)), np.rot90(COLORS, -1))
    clear = encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0)))
    assert (decoded(png_with(clear, long)) == 255).all()
    keyed = encoded(Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 3))
    assert (decoded(png_with(keyed, long)) == 255).all()


def png_of_16_bits(values: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG (H, W) gray, (H, W, 2) with transparency, (H, W, 3) RGB or (H, W, 4) RGBA of uint16."""
    colors = values.shape[2] if values.ndim == 3 else 1
    rows = values.astype(">u2").reshape(len(values), -1)
    header = struct.pack(">IIBBBBB", values.shape[1], len(values), 16, {1: 0, 2: 4, 3: 2, 4: 6}[colors], 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


@pytest.mark.parametrize("colors", [2, 4])
def test_16_bits_with_transparency_look_as_8_bits(colors: int):
    eight = random.integers(0, 256, (6, 5, colors), dtype=np.uint8)
    sixteen = png_of_16_bits(eight.astype(np.uint16) * 257)
    expected = decoded(encoded(Image.fromarray(eight)))
    assert np.array_equal(decoded(sixteen), expected)


def test_one_clear_value_of_16_bits_looks_as_of_8_bits():
    gray = np.array([[0, 300, 65535], [300, 301, 40000]], dtype=np.uint16)
    pixels = decoded(png_of_16_bits(gray, (b"tRNS", struct.pack(">H", 300))))
    expected = np.where(gray == 300, 255, np.rint(gray / 257)).astype(np.uint8)
    assert np.array_equal(pixels, expected[..., None].repeat(3, axis=2))
    color = np.array([[[256, 512, 40000], [1000, 2000, 3000]]], dtype=np.uint16)
    pixels = decoded(png_of_16_bits(color, (b"tRNS", struct.pack(">3H", 1000, 2000, 3000))))
    assert pixels[0].tolist() == [[1, 2, 156], [255, 255, 255]]


def test_photos_of_phones():
    """HEIC through libheif, AVIF through Pillow; what is clear is white, as elsewhere."""
    pixels = np.asarray(load_rgb(PICTURES / "clear.heic", "x")).astype(int)
    assert (pixels[:, :36] == 255).all()
    assert np.abs(pixels[:, 44:] - (30, 30, 200)).max() < 12
    smooth = np.linspace(0, 255, 64 * 64).reshape(64, 64, 1).repeat(3, axis=2).astype(np.uint8)
    assert np.abs(decoded(encoded(Image.fromarray(smooth), "AVIF")).astype(int) - smooth).mean() < 3
    assert "HEIF" not in Image.OPEN, "Pillow is as it was for the rest of the program"


@pytest.mark.parametrize("name", ["plain", "turned", "clear"])
def test_a_heic_cut_short_anywhere_is_refused(name: str):
    content = (PICTURES / f"{name}.heic").read_bytes()
    for part in (0.01, 0.1, 0.5, 0.9):
        with pytest.raises(BadImage):
            load_rgb(content[: int(len(content) * part)], "x")


def test_the_pixels_that_a_header_states():
    assert stated_pixels((PICTURES / "plain.heic").read_bytes()) == 80 * 40
    assert stated_pixels(png_of_size(20_000, 20_000)) == 400_000_000
    assert stated_pixels(b"no image") == stated_pixels(b"") == 0


def test_what_describes_a_heic_is_not_looked_at():
    content = (PICTURES / "turned.heic").read_bytes()
    assert b"cdsc" in content
    assert b"cdsc" not in pixels_of_heif(content)
    assert len(pixels_of_heif(content)) == len(content), "places in the file stay where they are"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["damaged", "damaged2"])
def test_a_heic_whose_metadata_are_damaged_does_not_end_the_process(name: str):
    code = "import sys; from everclip.data.decode import load_rgb; print(load_rgb(sys.argv[1], 'x').size)"
    command = [sys.executable, "-c", code, str(PICTURES / f"{name}.heic")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "(40, 80)\n"), done.stderr


def test_the_first_of_several_photos_in_one_jpeg():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    content = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert np.abs(decoded(content).astype(int) - (255, 0, 0)).max() < 8
    damaged = content.replace(b"MPF\0", b"MPF\1", 1)
    assert np.array_equal(decoded(damaged), decoded(content))


def test_not_finite_pixels_are_refused():
    with pytest.raises(BadImage, match="not finite"):
        decoded(encoded(Image.fromarray(np.array([[np.nan, 1]], np.float32)), "TIFF"))


def test_suffixes():
    assert {".heic", ".heif", ".hif", ".avif"} <= IMAGE_SUFFIXES
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"} <= IMAGE_SUFFIXES
    assert IMAGE_SUFFIXES.isdisjoint({".txt", ".json", ".eps", ".pdf", ".h5", ".psd", ""})
