"""Round faces, named by their expression or by what they wear."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from everclip.data.drawn.canvas import BLACK, WHITE, Canvas, Color, disk, mix, near, tone
from everclip.data.drawn.domain import painted
from everclip.data.drawn.shapes import OUTLINES

# Draws one feature in the frame of the face, given the color of its lines.
Feature = Callable[[Canvas, np.random.Generator, Color], None]

_RED: Color = (215, 45, 60)
_BLUE: Color = (70, 150, 240)


def _open_eyes(canvas: Canvas, rng: np.random.Generator, ink: Color, wide: float = 1.0) -> None:
    tall, white = rng.uniform(0.12, 0.17) * wide, rng.random() < 0.35 or wide > 1
    for x in (-0.36, 0.36):
        if white:
            canvas.ellipse(x, -0.22, 1.3 * tall, 1.5 * tall, fill=WHITE)
        canvas.ellipse(x, -0.22, 0.62 * tall, 0.85 * tall, fill=ink)


def _wink(canvas: Canvas, rng: np.random.Generator, ink: Color) -> None:
    canvas.ellipse(-0.36, -0.22, 0.11, 0.15, fill=ink)
    canvas.stroke(disk(0.2, 0.12, 190, 350, at=(0.36, -0.15)), ink, 0.08)


def _arcs(canvas: Canvas, rng: np.random.Generator, ink: Color, closed_down: bool = False) -> None:
    start, stop = (10, 170) if closed_down else (190, 350)
    for x in (-0.36, 0.36):
        canvas.stroke(disk(0.19, rng.uniform(0.12, 0.18), start, stop, at=(x, -0.2)), ink, 0.08)


def _crossed_eyes(canvas: Canvas, rng: np.random.Generator, ink: Color) -> None:
    reach = rng.uniform(0.14, 0.19)
    for x in (-0.36, 0.36):
        canvas.stroke([(x - reach, -0.22 - reach), (x + reach, -0.22 + reach)], ink, 0.08)
        canvas.stroke([(x + reach, -0.22 - reach), (x - reach, -0.22 + reach)], ink, 0.08)


def _heart_eyes(canvas: Canvas, rng: np.random.Generator, ink: Color) -> None:
    scale = rng.uniform(0.22, 0.3)
    for x in (-0.37, 0.37):
        canvas.polygon(OUTLINES["heart"] * scale + (x, -0.22), near(rng, _RED))


def _star_eyes(canvas: Canvas, rng: np.random.Generator, ink: Color) -> None:
    scale, gold = (
        rng.uniform(0.25, 0.32),
        tone(rng, hue=(0.02, 0.1), saturation=(0.85, 1.0), value=(0.85, 0.95)),
    )
    for x in (-0.37, 0.37):
        canvas.polygon(OUTLINES["star"] * scale + (x, -0.22), gold)


def _sunglasses(canvas: Canvas, rng: np.random.Generator, ink: Color) -> None:
    glass = tone(rng, value=(0.05, 0.25))
    for x in (-0.4, 0.4):
        canvas.polygon(
            np.array([(-0.32, -0.17), (0.32, -0.17), (0.26, 0.14), (-0.2, 0.16)]) * (np.sign(x), 1) + (x, -0.2),
            glass,
        )
        canvas.stroke([(x - 0.12, -0.08), (x + 0.05, -0.28)], mix(glass, WHITE, 0.5), 0.05)
    canvas.stroke([(-0.95, -0.36), (0.95, -0.36)], glass, 0.09)


def _eye_patch(canvas: Canvas, rng: np.random.Generator, ink: Color) -> None:
    canvas.ellipse(-0.36, -0.22, 0.11, 0.14, fill=ink)
    canvas.stroke([(-0.62, -0.78), (0.93, 0.05)], BLACK, 0.08)
    canvas.ellipse(0.36, -0.2, 0.27, 0.24, fill=BLACK)


def _angry_brows(canvas: Canvas, rng: np.random.Generator, ink: Color) -> None:
    steep = rng.uniform(0.18, 0.28)
    for side in (-1, 1):
        canvas.stroke([(0.66 * side, -0.45 - steep), (0.14 * side, -0.4)], ink, 0.11)


def _worried_brows(canvas: Canvas, rng: np.random.Generator, ink: Color) -> None:
    for side in (-1, 1):
        canvas.stroke([(0.6 * side, -0.46), (0.22 * side, -0.64)], ink, 0.07)


def _raised_brow(canvas: Canvas, rng: np.random.Generator, ink: Color) -> None:
    canvas.stroke(disk(0.24, 0.16, 200, 340, at=(0.38, -0.5)), ink, 0.08)
    canvas.stroke([(-0.58, -0.45), (-0.16, -0.45)], ink, 0.08)


def _curve(canvas: Canvas, rng: np.random.Generator, ink: Color, bend: float) -> None:
    """A mouth line: a smile for `bend` > 0, a frown below, flat at 0."""
    x = np.linspace(-1, 1, 12) * rng.uniform(0.36, 0.5)
    y = 0.42 + bend * rng.uniform(0.8, 1.2) * (0.5 - (x / 0.45) ** 2)
    canvas.stroke(np.stack([x, y], axis=1), ink, rng.uniform(0.07, 0.11))


def _grin(canvas: Canvas, rng: np.random.Generator, ink: Color) -> None:
    wide = rng.uniform(0.46, 0.58)
    canvas.polygon(disk(wide, rng.uniform(0.42, 0.5), 0, 180, at=(0, 0.18)), mix(ink, (120, 20, 20), 0.5))
    canvas.box(-0.88 * wide, 0.18, 0.88 * wide, 0.3, WHITE)


def _round_mouth(canvas: Canvas, rng: np.random.Generator, ink: Color) -> None:
    canvas.ellipse(0, 0.45, rng.uniform(0.15, 0.22), rng.uniform(0.2, 0.3), fill=mix(ink, (120, 20, 20), 0.4))


def _wave_mouth(canvas: Canvas, rng: np.random.Generator, ink: Color) -> None:
    x = np.linspace(-0.42, 0.42, 24)
    canvas.stroke(np.stack([x, 0.45 + 0.09 * np.sin(15 * x)], axis=1), ink, 0.08)


def _slanted_mouth(canvas: Canvas, rng: np.random.Generator, ink: Color) -> None:
    canvas.stroke([(-0.35, 0.52), (0.38, rng.uniform(0.3, 0.38))], ink, 0.09)


def _tongue(canvas: Canvas, rng: np.random.Generator, ink: Color) -> None:
    _curve(canvas, rng, ink, 0.25)
    canvas.ellipse(0.08, 0.66, 0.17, 0.22, fill=near(rng, (240, 90, 120)))
    canvas.stroke([(0.08, 0.55), (0.08, 0.72)], (200, 50, 90), 0.04)


def _kiss(canvas: Canvas, rng: np.random.Generator, ink: Color) -> None:
    canvas.ellipse(0, 0.42, 0.12, 0.09, fill=_RED)
    canvas.ellipse(0, 0.55, 0.12, 0.09, fill=_RED)
    canvas.polygon(OUTLINES["heart"] * rng.uniform(0.18, 0.26) + (0.55, 0.45), _RED)


def _tears(canvas: Canvas, rng: np.random.Generator, ink: Color) -> None:
    length = rng.uniform(0.55, 0.85)
    for x in (-0.42, 0.42):
        canvas.stroke([(x, 0.02), (1.1 * x, length)], _BLUE, rng.uniform(0.15, 0.2))


def _snoring(canvas: Canvas, rng: np.random.Generator, ink: Color) -> None:
    canvas.ellipse(0, 0.45, 0.12, 0.1, fill=ink)
    for x, y, scale in ((0.5, -0.62, 0.14), (0.82, -0.92, 0.2)):
        zed = np.array([(-1, -1), (1, -1), (-1, 1), (1, 1)]) * scale + (x, y)
        canvas.stroke(zed, near(rng, (40, 70, 200)), 0.08)


def _mask(canvas: Canvas, rng: np.random.Generator, ink: Color) -> None:
    cloth = tone(rng, hue=(0.45, 0.6), saturation=(0.05, 0.4), value=(0.85, 1.0))
    for y, low in ((0.15, 0.2), (0.6, 0.55)):
        canvas.stroke([(-0.95, y), (0, low), (0.95, y)], mix(cloth, BLACK, 0.25), 0.05)
    canvas.polygon([(-0.6, 0.12), (0, 0.04), (0.6, 0.12), (0.5, 0.68), (0, 0.86), (-0.5, 0.68)], cloth)
    for y in (0.28, 0.45, 0.6):
        canvas.stroke([(-0.5, y), (0.5, y)], mix(cloth, BLACK, 0.15), 0.03)


def _horns(canvas: Canvas, rng: np.random.Generator, ink: Color) -> None:
    color = near(rng, (150, 20, 30))
    for side in (-1, 1):
        canvas.polygon(np.array([(0.35, -0.85), (0.75, -1.25), (0.8, -0.6)]) * (side, 1), color)


def _party_hat(canvas: Canvas, rng: np.random.Generator, ink: Color) -> None:
    hat = tone(rng, value=(0.7, 0.95))
    canvas.polygon([(-0.5, -0.72), (0.05, -1.5), (0.55, -0.68)], hat)
    canvas.stroke([(-0.28, -0.98), (0.35, -0.95)], mix(hat, WHITE, 0.7), 0.1)
    canvas.ellipse(0.05, -1.45, 0.14, fill=tone(rng, value=(0.9, 1.0)))


def _paint(features: tuple[Feature, ...], skin: Color | None, canvas: Canvas, rng: np.random.Generator) -> None:
    wall = tone(rng, saturation=(0.05, 0.5), value=(0.55, 1.0))
    canvas.fill(wall)
    canvas.clouds(rng, near(rng, wall, 50), cells=2)
    canvas.clutter(rng, mix(wall, WHITE, 0.5), most=3)
    x, y = rng.uniform([0.42, 0.5], [0.58, 0.6])
    canvas.place(x, y, rng.uniform(0.28, 0.38), rng.uniform(-14, 14), rng.uniform(0.9, 1.12))
    ink = mix(tone(rng, hue=(0.02, 0.1), value=(0.15, 0.3)), BLACK, rng.uniform(0, 0.7))
    face = tone(rng, hue=(0.09, 0.165), saturation=(0.4, 0.95), value=(0.88, 1.0)) if skin is None else near(rng, skin)
    canvas.ellipse(0, 0, 1.06, fill=mix(face, BLACK, rng.uniform(0.15, 0.5)))
    canvas.ellipse(0, 0, 1.0, fill=face)
    canvas.ellipse(-0.2, -0.3, 0.55, 0.45, fill=mix(face, WHITE, rng.uniform(0.05, 0.2)))
    if rng.random() < 0.35:
        for x in (-0.62, 0.62):
            canvas.ellipse(x, 0.2, 0.17, 0.12, fill=mix(face, (250, 90, 90), 0.4))
    for feature in features:
        feature(canvas, rng, ink)


_smile, _frown = partial(_curve, bend=0.32), partial(_curve, bend=-0.3)
_flat, _wide_eyes = partial(_curve, bend=0.0), partial(_open_eyes, wide=1.35)
_closed_eyes = partial(_arcs, closed_down=True)

_FEATURES: Mapping[str, tuple[Feature, ...]] = {
    "happy face": (_open_eyes, _smile),
    "sad face": (_open_eyes, _worried_brows, _frown),
    "neutral face": (_open_eyes, _flat),
    "angry face": (_open_eyes, _angry_brows, _frown),
    "surprised face": (_wide_eyes, _round_mouth),
    "laughing face": (_arcs, _grin),
    "winking face": (_wink, _smile),
    "sleeping face": (_closed_eyes, _snoring),
    "crying face": (_closed_eyes, _tears, _frown),
    "kissing face": (_arcs, _kiss),
    "skeptical face": (_open_eyes, _raised_brow, _slanted_mouth),
    "dizzy face": (_crossed_eyes, _wave_mouth),
    "face in love with heart eyes": (_heart_eyes, _smile),
    "star-struck face with star eyes": (_star_eyes, _grin),
    "face with sunglasses": (_sunglasses, _smile),
    "face with its tongue out": (_open_eyes, _tongue),
    "face with a medical mask": (_open_eyes, _mask),
    "pirate face with an eye patch": (_eye_patch, _smile),
    "devil face with horns": (_horns, _open_eyes, _angry_brows, _grin),
    "face with a party hat": (_party_hat, _open_eyes, _smile),
}
_SKINS: Mapping[str, Color] = {"devil face with horns": (190, 60, 90)}


FACES = painted(
    "faces",
    ("a cartoon {}.", "a round {}.", "a sticker of a {}."),
    {name: partial(_paint, features, _SKINS.get(name)) for name, features in _FEATURES.items()},
)
