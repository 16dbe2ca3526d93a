"""How a JPEG is stored, which decides what decoding it costs."""

from __future__ import annotations

_BASELINE = (0xC0, 0xC1)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN = 0xDA


def decoded_row_by_row(content: bytes) -> bool:
    """Whether a decoder needs memory for a few rows only.

    Of progressive images, and of those that store their colors one after the other, it keeps all coefficients
    (2 bytes per pixel and color) until the end, at whatever scale it decodes.

    Args:
        content: of a JPEG file. (ITU-T T.81, annex B: segments of marker, length and parameters.)
    """
    colors, place = 0, 2
    while place + 4 <= len(content):
        if content[place] != 0xFF:
            return False
        kind = content[place + 1]
        if kind == 0xFF:  # padding
            place += 1
            continue
        parameters = content[place + 4 : place + 10]
        if kind in _FRAMES:
            if kind not in _BASELINE or len(parameters) < 6:
                return False
            colors = parameters[5]
        elif kind == _SCAN:
            return bool(colors) and bool(parameters) and parameters[0] == colors
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return False
