"""Letters and digits in the fonts that ship with matplotlib (system fonts differ between computers)."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from string import ascii_uppercase, digits

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from everclip.data.drawn.canvas import Canvas, ground_and_ink, mix, near
from everclip.data.drawn.domain import painted

_FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralBolIta",
    "cmr10",
    "cmss10",
    "cmtt10",
    "cmb10",
)
_EM = 128  # pixels; a glyph is drawn once at this size and then scaled, turned and slanted


@cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    path = Path(get_data_path(), "fonts", "ttf", f"{name}.ttf")
    # The basic layout engine is in every build of Pillow; the other is optional and places glyphs differently.
    return ImageFont.truetype(str(path), _EM, layout_engine=ImageFont.Layout.BASIC)


@cache
def _mask(character: str, font: str) -> Image.Image:
    """The glyph in the middle of a gray image of EM x EM pixels; at most 36 x 14 of them, 8 MB."""
    mask = Image.new("L", (_EM, _EM))
    ImageDraw.Draw(mask).text((_EM / 2, _EM / 2), character, 255, _font(font), anchor="mm")
    return mask


def _paint(character: str, canvas: Canvas, rng: np.random.Generator) -> None:
    ground, ink = ground_and_ink(rng)
    canvas.fill(ground)
    canvas.clouds(rng, near(rng, ground, 60), cells=int(rng.integers(2, 6)))
    canvas.clutter(rng, mix(ground, ink, 0.45))
    mask = _mask(character, _FONTS[rng.integers(len(_FONTS))])
    height = rng.uniform(0.5, 1.05) * canvas.side  # of one EM: capitals are about 0.7 EM high
    center = canvas.side * (0.5 + rng.uniform(-1, 1, 2) * 0.12)
    angle, slant = np.radians(rng.uniform(-14, 14)), rng.uniform(-0.15, 0.15)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # PIL maps output pixels to input pixels: the inverse of what we do to the glyph.
    inverse = np.linalg.inv(turn @ np.array([[1, slant], [0, 1]]) * height / _EM)
    offset = np.full(2, _EM / 2) - inverse @ center
    data = (*inverse[0], offset[0], *inverse[1], offset[1])
    placed = mask.transform(canvas.image.size, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
    canvas.image.paste(ink, (0, 0), placed)


GLYPHS = painted(
    "glyphs",
    ("a picture of {}.", "{} in print.", "a sign that shows {}."),
    {
        **{f"the digit {digit}": partial(_paint, digit) for digit in digits},
        **{f"the letter {letter}": partial(_paint, letter) for letter in ascii_uppercase},
    },
)
