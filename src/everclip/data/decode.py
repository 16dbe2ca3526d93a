"""Any image file that people have → an upright 8-bit RGB image, or a plain reason why it cannot be one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from everclip.data.source import BadImage

MAX_PIXELS = 100_000_000
"""An image with more pixels is refused from its header, before memory is spent on it."""

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

IMAGE_SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in _FORMATS)
"""The lower-case file suffixes, with their dot, that are taken for images."""


def load_rgb(path_or_bytes: str | Path | bytes, name: str, most: int = MAX_PIXELS) -> Image.Image:
    """Decode one image: its first frame, turned as its EXIF orientation says, in mode RGB.

    Transparency is laid on white. 16-bit gray is scaled from its full range to 8 bits; 32-bit and floating
    gray, whose range no file states, is stretched from its own minimum and maximum.

    Args:
        path_or_bytes: the file, or its content.
        name: what a refusal calls the image.
        most: pixels; an image with more is refused from its header.

    Raises:
        BadImage: the file is missing, unreadable, empty, no image, damaged, or too large.
    """
    content = path_or_bytes if isinstance(path_or_bytes, bytes) else _read(path_or_bytes, name)
    if not content:
        raise BadImage(name, "the file is empty")
    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
        return as_rgb(image, name, most)
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BadImage(name, "the content is not an image of a known format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(name, _too_large(most)) from error
    except Exception as error:
        # Decoders meet damaged bytes with whatever comes: OSError, SyntaxError, struct.error, IndexError, ...
        raise BadImage(name, f"the image is damaged or cut short ({error})") from error


def as_rgb(image: Image.Image, name: str, most: int = MAX_PIXELS) -> Image.Image:
    """An opened image as `load_rgb` gives it: upright, in mode RGB.

    Raises:
        BadImage: it is too large, or has no pixels to be shown.
    """
    _check_size(image, name, most)
    image.load()
    return _to_rgb(_upright(image), name)


def _read(path: str | Path, name: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise BadImage(name, "the file is not there (any more)") from error
    except PermissionError as error:
        raise BadImage(name, "no permission to read the file") from error
    except OSError as error:
        raise BadImage(name, f"the file cannot be read ({error.strerror})") from error


def _too_large(most: int) -> str:
    return f"the image has more than {most / 1e6:g} megapixels"


def _check_size(image: Image.Image, name: str, most: int) -> None:
    short, long = sorted(image.size)
    if short * long > most:
        raise BadImage(name, _too_large(most))
    if long > MAX_ASPECT * short:
        raise BadImage(name, f"the image is too narrow ({image.width} x {image.height} pixels)")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # A broken EXIF block raises anything and says nothing about orientation; the pixels are still good.
        return image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_gray_to_8_bits(np.asarray(image), name)).convert("RGB")
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
