"""Any image file that people have → an upright 8-bit RGB image, or a plain reason why it cannot be one."""

from __future__ import annotations

import contextlib
import io
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin

from everclip.data.jpeg import decoded_row_by_row
from everclip.data.metadata import pixels_of_heif, without_metadata
from everclip.data.orientation import load_upright
from everclip.data.regular import NoRegularFile, read_regular
from everclip.data.source import MAX_PIXELS, BadImage

HALVED_TIMES = 4
"""A JPEG of up to this many times as many pixels is decoded at half its width and height: phones make them."""

HALVED_SIDE = 2048
"""Pixels that the shorter side of a JPEG keeps at least when it is decoded at half its size.

A view of up to 448 pixels then differs from that of the whole image by less than one level of 255 on average, and
nowhere by more than 8; tests/data/test_large.py measures it on what is worst: noise, stripes of one pixel, sharp edges.
"""

MAX_ASPECT = 1000
"""An image longer than this many times its width is refused: enlarged, it would fill the memory."""

# Only pixel formats: Pillow also opens PostScript (it runs Ghostscript), containers and scientific formats.
# AVIF and WebP depend on how Pillow was built.
Image.init()
_FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
    if name in Image.OPEN
)
_HEIF_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
_HEIF = frozenset((".heic", ".heif", ".hif", ".heics", ".heifs"))

IMAGE_SUFFIXES = _HEIF | {suffix for suffix, name in Image.registered_extensions().items() if name in _FORMATS}
"""The lower-case file suffixes, with their dot, that are taken for images."""

_allowing = threading.Lock()


def load_rgb(path_or_bytes: str | Path | bytes, name: str, most: int = MAX_PIXELS) -> Image.Image:
    """Decode one image: its first frame, turned as its EXIF orientation says, in mode RGB.

    Transparency is laid on white. 16-bit gray is scaled from its full range to 8 bits; 32-bit and floating
    gray, whose range no file states, is stretched from its own minimum and maximum. A JPEG of more than `most` pixels,
    but of no more than `HALVED_TIMES` as many, comes at half its width and height.

    Args:
        path_or_bytes: the file, or its content.
        name: what a refusal calls the image.
        most: pixels; an image with more is refused from its header.

    Raises:
        BadImage: the file is missing, no regular file, unreadable, empty, no image, damaged, or too large.
    """
    content = path_or_bytes if isinstance(path_or_bytes, bytes) else _read(path_or_bytes, name)
    if not content:
        raise BadImage(name, "the file is empty")
    try:
        return _decoded(content, name, most)
    except (BadImage, MemoryError):
        raise
    except Exception as error:
        # Decoders meet damaged bytes with whatever comes: OSError, SyntaxError, struct.error, IndexError, ...
        reason = f"the image is damaged or cut short ({error})"
        if (plain := without_metadata(content)) is not None:
            with contextlib.suppress(Exception):
                return _decoded(plain, name, most)
        raise BadImage(name, reason) from error


def stated_pixels(content: bytes) -> int:
    """Width times height as the header of an image says; 0 where none can be read, which decoding will find out too."""
    try:
        image = _opened(content, "", MAX_PIXELS)
    except Exception:  # of a damaged header: anything at all
        return 0
    return image.width * image.height


def as_rgb(image: Image.Image, name: str, most: int = MAX_PIXELS) -> Image.Image:
    """An opened image as `load_rgb` gives it: upright, in mode RGB.

    Raises:
        BadImage: it is too large, or has no pixels to be shown.
    """
    _check_size(image, name, most)
    with _pillow_allows(image.width * image.height):
        upright = load_upright(image)
    _check_size(upright, name, most)  # a header may have stated another size than the pixels have
    return _to_rgb(upright, name)


def _read(path: str | Path, name: str) -> bytes:
    try:
        return read_regular(path)
    except NoRegularFile as error:
        raise BadImage(name, str(error)) from error
    except FileNotFoundError as error:
        raise BadImage(name, "the file is not there (any more)") from error
    except PermissionError as error:
        raise BadImage(name, "no permission to read the file") from error
    except OSError as error:
        raise BadImage(name, f"the file cannot be read ({error.strerror})") from error
    except ValueError as error:  # a path with a zero byte
        raise BadImage(name, f"the file cannot be read ({error})") from error


def _decoded(content: bytes, name: str, most: int) -> Image.Image:
    image = _opened(content, name, most)
    pixels = image.width * image.height
    if (
        most < pixels <= HALVED_TIMES * most
        and min(image.size) >= 2 * HALVED_SIDE
        and isinstance(image, JpegImagePlugin.JpegImageFile)
        and decoded_row_by_row(content)
    ):
        image = _halved(image)
    return as_rgb(image, name, most)


def _halved(image: JpegImagePlugin.JpegImageFile) -> Image.Image:
    width, height = image.size
    image.draft(image.mode, (width // 2, height // 2))
    if width % 2 or height % 2:
        # The last column or row stands for one pixel, not for two: without this, everything is shifted a little.
        return image.resize((width // 2, height // 2), Image.Resampling.BICUBIC, (0, 0, width / 2, height / 2))
    return image


def _opened(content: bytes, name: str, most: int) -> Image.Image:
    """The image with its header read. `Image.open` has a limit of its own, and tries formats that others plugged in.

    Raises:
        BadImage: it is of no known format, or its decoder refuses the size.
        Exception: what its decoder says of damaged bytes.
    """
    refused: Exception | None = None
    for opener, accepts in _openers(content):
        try:
            if accepts is None or accepts(content[:16]) is True:
                return opener(io.BytesIO(content), "")
        except Image.DecompressionBombError as error:
            raise BadImage(name, _too_large(most)) from error
        except (SyntaxError, IndexError, TypeError, KeyError, EOFError, ValueError, struct.error) as error:
            refused = refused or error
    if refused is not None:
        raise refused
    raise BadImage(name, "the content is not an image of a known format")


def _openers(content: bytes) -> Iterator[tuple[Callable[[Any, str], Image.Image], Callable[[bytes], Any] | None]]:
    """What opens each format, and what says from the first bytes whether it may be one."""
    for name in _FORMATS:
        opener, accepts = Image.OPEN[name]
        # A JPEG may be the first of several images in one file; the opener of such files trips over a damaged table.
        yield JpegImagePlugin.JpegImageFile if name == "JPEG" else opener, accepts
    if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS:
        from pi_heif import HeifImageFile  # not registered with Pillow: that would change it for the whole program

        yield lambda file, name: HeifImageFile(io.BytesIO(pixels_of_heif(content)), name), None


@contextlib.contextmanager
def _pillow_allows(pixels: int) -> Iterator[None]:
    """Meanwhile Pillow, which counts the pixels of some formats once more, does not refuse as many as these."""
    before = Image.MAX_IMAGE_PIXELS
    if before is None or pixels <= before:
        yield
        return
    with _allowing:  # images of this size are decoded one at a time
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _too_large(most: int) -> str:
    return f"the image has more than {most / 1e6:g} megapixels; allow more, or make it smaller"


def _check_size(image: Image.Image, name: str, most: int) -> None:
    short, long = sorted(image.size)
    if short * long > most:
        raise BadImage(name, _too_large(most))
    if long > MAX_ASPECT * short:
        raise BadImage(name, f"the image is too narrow ({image.width} x {image.height} pixels)")


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    clear = image.info.get("transparency")
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        gray = Image.fromarray(_gray_to_8_bits(values, name))
        if not isinstance(clear, int):
            return gray.convert("RGB")
        image = gray.convert("LA")
        image.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    elif image.mode == "RGB" and isinstance(clear, tuple) and max(clear) > 255:
        # The color of a PNG with 16 bits, of which Pillow keeps the upper eight.
        image = image.copy()
        image.info["transparency"] = tuple(part >> 8 for part in clear)
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _gray_to_8_bits(values: np.ndarray, name: str) -> np.ndarray:
    """Scale (H, W) integers or floats to uint8."""
    if not np.isfinite(values).all():
        raise BadImage(name, "the image has pixels that are not finite numbers")
    low, high = float(values.min()), float(values.max())
    # Older Pillow opens 16-bit PNG as 32-bit integers, so the values decide, not the mode.
    if values.dtype.kind in "iu" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    scale = 255.0 / (high - low) if high > low else 0.0
    return np.rint((values.astype(np.float64) - low) * scale).astype(np.uint8)
