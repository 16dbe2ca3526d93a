"""What an image file carries beside its pixels, left out where it keeps the pixels from being read."""

from __future__ import annotations

import struct
import zlib

PNG = b"\x89PNG\r\n\x1a\n"
_SHOWN = (b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT")
"""Chunks that a PNG could do without, but that decide how it looks or which image of several comes first."""

_LONGEST_TEXT = 2**20
"""Bytes; Pillow refuses longer ones when they are compressed."""


def pixels_of_heif(content: bytes) -> bytes:
    """The same HEIF file, in which nothing describes an image any more (ISO/IEC 14496-12, references `cdsc`).

    Not even the orientation is needed: the container has it. libheif's reader for Python ends the whole process where
    such an item is damaged.
    """
    parts, place = [], 0
    while place < len(content):
        size, kind, head = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8], 8
        if size == 1:
            size, head = int.from_bytes(content[place + 8 : place + 16], "big"), 16
        end = place + size if size >= head else len(content)
        box = content[place:end]
        parts.append(box if kind == b"mdat" else box.replace(b"cdsc", b"skip"))
        place = end
    return b"".join(parts)


def without_metadata(content: bytes) -> bytes | None:
    """The same image without texts, profiles and histories, or None where nothing can be left out.

    Decoders refuse a whole PNG for one text that is too long, and an AVIF for one EXIF tag that they can't write back.

    Args:
        content: of a file.
    """
    if content.startswith(PNG):
        plain = _plain_png(content)
    elif content[4:8] == b"ftyp":
        plain = _plain_avif(content)
    else:
        return None
    return plain if plain != content else None


def _plain_png(content: bytes) -> bytes:
    """Only the chunks that matter (PNG specification, section 5: length, type, data, CRC)."""
    parts, place = [PNG], len(PNG)
    while place + 8 <= len(content):
        length, kind = struct.unpack_from(">L4s", content, place)
        end = place + 12 + length
        # A capital first letter: no image without it.
        if not kind[0] & 0x20 or kind in _SHOWN or _may_turn(kind, content[place + 8 : end - 4]):
            parts.append(content[place:end])
        place = end
    return b"".join(parts)


def _may_turn(kind: bytes, text: bytes) -> bool:
    """Whether a chunk is a text of bearable length that may hold the orientation."""
    if kind == b"zTXt" and text.startswith(b"Raw profile type exif\0\0"):
        try:
            return len(zlib.decompressobj().decompress(text[23:], _LONGEST_TEXT + 1)) <= _LONGEST_TEXT
        except zlib.error:
            return False
    plain = text.startswith(b"Raw profile type exif\0") or text.startswith(b"XML:com.adobe.xmp\0\0")
    return kind in (b"tEXt", b"iTXt") and plain and len(text) <= _LONGEST_TEXT


def _plain_avif(content: bytes) -> bytes:
    """Another name for items of EXIF data, so that they are passed over; the container itself says how to turn."""
    start = content.find(b"mdat")
    header = content[:start] if start > 0 else content
    return header.replace(b"Exif", b"skip") + content[len(header) :]
