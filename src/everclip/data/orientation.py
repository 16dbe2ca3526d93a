"""How an image was held, read alone: whatever else its metadata say, and whatever of it is damaged."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator
from typing import Any

from PIL import ExifTags, Image

TAG = int(ExifTags.Base.Orientation)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image of each orientation upright (CIPA DC-008, tag 0x0112)."""

_TURNED_BY_DECODER = "HEIF"
"""libheif turns by the properties of the container, which alone count there; an EXIF tag beside them is a leftover."""

_VALUES = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l"}
"""How one number is stored in the entry itself, per type of a TIFF field."""


def load_upright(image: Image.Image) -> Image.Image:
    """Load the pixels of an image and turn them as its orientation says; an image without one stays as it is.

    Pillow's own `exif_transpose` writes all tags anew, which fails if any of them cannot be written.

    Raises:
        Exception: what decoding raises.
    """
    if image.format == "TIFF":
        with _orientation_only(image):  # Pillow turns it while loading, and writes all tags that it knows of
            image.load()
        return image
    image.load()
    if image.format == _TURNED_BY_DECODER:
        return image
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


@contextlib.contextmanager
def _orientation_only(image: Image.Image) -> Iterator[None]:
    """Meanwhile the image has no other tag; afterwards it has those again that can be read."""
    orientation = _orientation(image)
    exif, others = image.getexif(), {}
    for tag in list(exif):
        with contextlib.suppress(Exception):
            others[tag] = exif[tag]
        del exif[tag]
    others.pop(TAG, None)
    if orientation != 1:
        exif[TAG] = orientation
    yield
    exif.update(others)


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1 where nothing says otherwise."""
    try:
        found = _number(image.getexif().get(TAG))
    except Exception:
        found = None  # the block is damaged somewhere: it raises whatever its parts make of that
    if found is None and isinstance(block := image.info.get("exif"), bytes):
        found = _in_exif(block)
    if found is None:
        found = _in_xmp(image.info.get("XML:com.adobe.xmp") or image.info.get("xmp"))
    return found or 1


def _number(value: Any) -> int | None:
    """An orientation in any type in which cameras and programs have written it."""
    try:
        if isinstance(value, bytes | tuple):
            value = value[0]
        number = int(value.strip("\0 ") if isinstance(value, str) else value)
    except (TypeError, ValueError, ArithmeticError, IndexError):
        return None
    return number if 1 <= number <= 8 else None


def _in_exif(block: bytes) -> int | None:
    """The orientation in the first directory of an EXIF block; its other entries are stepped over unread."""
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}L", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", block, entry)
            if tag == TAG:
                return _number(struct.unpack_from(f"{order}{_VALUES[kind]}", block, entry + 8)[0])
    except (struct.error, KeyError):  # cut short, or no kind of number
        pass
    return None


def _in_xmp(text: object) -> int | None:
    if not isinstance(text, str | bytes):
        return None
    found = re.search(rb'tiff:Orientation(?:="|>)([0-9])', text if isinstance(text, bytes) else text.encode())
    return _number(int(found[1])) if found else None
