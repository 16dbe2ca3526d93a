"""Dark silhouettes of everyday things in front of a glowing sky."""

from __future__ import annotations

from functools import partial

import numpy as np

from everclip.data.drawn.canvas import BLACK, Canvas, Color, Points, disk, mix, near, rounded, tone
from everclip.data.drawn.domain import painted

# What a thing is made of, in its frame [-1, 1] x [-1, 1]: ("ink" or "gap", outline) fills an outline with the
# dark color or with the sky behind it; (line width, points) draws a line.
Part = tuple[str | float, Points]


def _round(x: float, y: float, rx: float, ry: float | None = None) -> np.ndarray:
    return disk(rx, ry, at=(x, y))


def _box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _mirrored(*parts: Part) -> list[Part]:
    """The parts, and the same parts with left and right swapped."""
    return [*parts, *((kind, np.asarray(points) * (-1, 1)) for kind, points in parts)]


THINGS: dict[str, list[Part]] = {
    "fish": [
        ("ink", rounded([(-1.1, 0), (-0.5, -0.55), (0.3, -0.4), (0.75, 0), (0.3, 0.4), (-0.5, 0.55)])),
        ("ink", [(0.4, 0), (1, -0.5), (0.85, 0), (1, 0.5)]),
        ("ink", [(-0.35, -0.4), (0.1, -0.75), (0.25, -0.3)]),
        ("gap", _round(-0.6, -0.12, 0.09)),
    ],
    "bird": [
        (
            "ink",
            rounded(
                [
                    (-0.75, -0.2),
                    (-0.1, -0.3),
                    (0.75, 0.5),
                    (1.15, 0.75),
                    (0.2, 0.62),
                    (-0.55, 0.5),
                    (-0.85, 0.1),
                ]
            ),
        ),
        ("ink", _round(-0.55, -0.4, 0.32)),
        ("ink", [(-0.8, -0.55), (-1.15, -0.32), (-0.8, -0.25)]),
        (0.07, [(-0.2, 0.5), (-0.25, 0.95), (-0.45, 0.95)]),
        (0.07, [(0.05, 0.5), (0.0, 0.95), (-0.2, 0.95)]),
        ("gap", _round(-0.62, -0.47, 0.07)),
    ],
    "tree": [
        ("ink", [(-0.12, 0), (0.12, 0), (0.22, 1), (-0.22, 1)]),
        (0.12, [(0, 0.4), (0.4, 0)]),
        *[
            ("ink", _round(x, y, r))
            for x, y, r in [(0, -0.5, 0.5), (-0.5, -0.15, 0.38), (0.5, -0.15, 0.38), (0, 0, 0.4)]
        ],
    ],
    "pine tree": [
        ("ink", _box(-0.1, 0.6, 0.1, 1)),
        *[("ink", [(-w, y + 0.62), (0, y), (w, y + 0.62)]) for y, w in [(-1, 0.42), (-0.55, 0.58), (-0.02, 0.74)]],
    ],
    "house": [
        ("ink", _box(-0.75, -0.1, 0.75, 0.85)),
        ("ink", [(-1, -0.08), (0, -0.9), (1, -0.08)]),
        ("ink", _box(0.4, -0.85, 0.62, -0.3)),
        ("gap", _box(-0.5, 0.1, -0.15, 0.42)),
        ("gap", _box(0.12, 0.2, 0.45, 0.85)),
    ],
    "car": [
        ("ink", [(-1, 0.05), (-0.9, 0), (1, 0.05), (1, 0.45), (-1, 0.45)]),
        ("ink", [(-0.65, 0.05), (-0.4, -0.42), (0.35, -0.42), (0.7, 0.05)]),
        ("gap", [(-0.48, 0), (-0.31, -0.32), (-0.05, -0.32), (-0.05, 0)]),
        ("gap", [(0.07, 0), (0.07, -0.32), (0.29, -0.32), (0.51, 0)]),
        *[("ink", _round(x, 0.45, 0.25)) for x in (-0.55, 0.55)],
        *[("gap", _round(x, 0.45, 0.1)) for x in (-0.55, 0.55)],
    ],
    "sailboat": [
        ("ink", [(-0.95, 0.5), (0.95, 0.5), (0.6, 0.92), (-0.65, 0.92)]),
        (0.07, [(0, -1), (0, 0.5)]),
        ("ink", [(0.1, -0.95), (0.1, 0.38), (0.85, 0.38)]),
        ("ink", [(-0.1, -0.75), (-0.1, 0.38), (-0.7, 0.38)]),
    ],
    "coffee mug": [
        (0.16, disk(0.38, start=-95, stop=95, at=(0.45, 0.15))),
        ("ink", [(-0.75, -0.35), (0.5, -0.35), (0.42, 0.75), (-0.67, 0.75)]),
        *[(0.08, [(x, -0.5), (x + 0.1, -0.65), (x, -0.8), (x + 0.1, -0.95)]) for x in (-0.45, -0.15, 0.15)],
    ],
    "chair": [
        (0.16, [(-0.55, -0.95), (-0.5, 0.95)]),
        (0.16, [(-0.5, 0.15), (0.5, 0.15), (0.55, 0.95)]),
        (0.1, [(-0.3, 0.15), (-0.2, 0.85)]),
        ("ink", _box(-0.55, 0.0, 0.58, 0.2)),
        ("ink", [(-0.62, -0.95), (-0.36, -0.95), (-0.36, -0.3), (-0.6, -0.3)]),
    ],
    "mushroom": [
        ("ink", disk(0.95, 0.95, 180, 360, at=(0, 0.1))),
        ("ink", [(-0.25, 0), (0.25, 0), (0.36, 0.95), (-0.36, 0.95)]),
        *[("gap", _round(x, y, r)) for x, y, r in [(-0.45, -0.2, 0.14), (0.08, -0.5, 0.16), (0.5, -0.12, 0.12)]],
    ],
    "hand": [
        ("ink", rounded([(-0.5, 0), (0.45, 0), (0.45, 0.7), (0.25, 1.05), (-0.3, 1.05), (-0.5, 0.7)], 2)),
        *[(0.2, [(x, 0.2), (1.35 * x, y)]) for x, y in [(-0.38, -0.55), (-0.12, -0.85), (0.14, -0.8), (0.38, -0.5)]],
        (0.22, [(0.3, 0.6), (0.8, 0.1)]),
    ],
    "key": [
        ("ink", _round(-0.6, 0, 0.42)),
        ("gap", _round(-0.68, 0, 0.17)),
        ("ink", _box(-0.3, -0.1, 1, 0.1)),
        ("ink", _box(0.5, 0, 0.62, 0.38)),
        ("ink", _box(0.76, 0, 0.98, 0.45)),
    ],
    "table lamp": [
        ("ink", [(-0.4, -0.9), (0.4, -0.9), (0.75, -0.05), (-0.75, -0.05)]),
        (0.12, [(0, -0.1), (0, 0.8)]),
        ("ink", disk(0.5, 0.28, 180, 360, at=(0, 0.92))),
        (0.05, [(0.45, -0.1), (0.45, 0.25)]),
    ],
    "bottle": [
        ("ink", [(-0.38, -0.1), (0.38, -0.1), (0.38, 1), (-0.38, 1)]),
        (
            "ink",
            rounded([(-0.38, 0.3), (-0.38, -0.3), (-0.1, -0.5), (0.1, -0.5), (0.38, -0.3), (0.38, 0.3)], 2),
        ),
        ("ink", _box(-0.13, -0.85, 0.13, -0.3)),
        ("ink", _box(-0.18, -1, 0.18, -0.85)),
        ("gap", _box(-0.26, 0.25, 0.26, 0.65)),
    ],
    "umbrella": [
        ("ink", disk(1, 1, 180, 360, at=(0, 0.1))),
        *[("gap", _round(x, 0.12, 0.25, 0.13)) for x in (-0.75, -0.25, 0.25, 0.75)],
        (0.1, [(0, -1), (0, 0.75), *(disk(0.15, start=180, stop=0) * (1, -1) + (0.15, 0.75))]),
    ],
    "cat": [
        ("ink", rounded([(-0.3, -0.3), (0.3, -0.3), (0.65, 0.7), (0.5, 1.05), (-0.5, 1.05), (-0.65, 0.7)])),
        ("ink", _round(0, -0.42, 0.4, 0.35)),
        *_mirrored(("ink", [(-0.4, -0.45), (-0.36, -1), (-0.02, -0.7)]), ("gap", _round(-0.15, -0.47, 0.07))),
        (0.14, rounded([(0.45, 0.9), (1, 0.85), (0.95, 0.35), (0.8, 0.2)], 2)[1:11]),
    ],
    "rabbit": [
        ("ink", _round(0, 0.55, 0.48, 0.45)),
        ("ink", _round(0, -0.05, 0.36)),
        *_mirrored(("ink", _round(-0.2, -0.62, 0.13, 0.42)), ("gap", _round(-0.14, -0.1, 0.06))),
        *_mirrored(("ink", _round(-0.35, 0.92, 0.22, 0.12))),
    ],
    "butterfly": [
        *_mirrored(
            ("ink", rounded([(0, 0), (-0.5, -0.85), (-1.1, -0.75), (-0.85, 0.1)])),
            ("ink", rounded([(0, 0), (-0.9, 0.05), (-0.75, 0.85), (-0.2, 0.7)])),
            ("gap", _round(-0.65, -0.42, 0.14)),
            (0.05, [(0, -0.3), (-0.25, -0.9)]),
        ),
        ("ink", _round(0, 0.05, 0.1, 0.55)),
    ],
    "airplane": [
        ("ink", _round(0, 0, 0.15, 1)),
        *_mirrored(("ink", [(0, -0.3), (-1, 0.25), (-1, 0.42), (0, 0.2)])),
        *_mirrored(("ink", [(0, 0.6), (-0.4, 0.85), (-0.4, 0.98), (0, 0.88)])),
    ],
    "rocket": [
        ("ink", rounded([(0, -1.35), (0.4, -0.5), (0.32, 0.65), (-0.32, 0.65), (-0.4, -0.5)])),
        *_mirrored(("ink", [(-0.25, 0), (-0.7, 0.65), (-0.25, 0.5)])),
        ("gap", _round(0, -0.35, 0.14)),
        ("ink", [(-0.18, 0.65), (0.18, 0.65), (0.08, 0.85), (0, 1.05), (-0.08, 0.85)]),
    ],
    "hammer": [
        (0.17, [(0, -0.6), (0, 1)]),
        ("ink", _box(-0.35, -0.88, 0.4, -0.55)),
        ("ink", _box(0.4, -0.96, 0.68, -0.46)),
        ("ink", [(-0.3, -0.88), (-0.75, -0.78), (-1, -0.35), (-0.65, -0.58), (-0.3, -0.55)]),
    ],
    "guitar": [
        ("ink", _round(0, 0.62, 0.45, 0.4)),
        ("ink", _round(0, 0.15, 0.33)),
        ("ink", _box(-0.07, -0.8, 0.07, 0.2)),
        ("ink", _box(-0.14, -1, 0.14, -0.72)),
        ("gap", _round(0, 0.28, 0.12)),
        ("gap", _box(-0.16, 0.66, 0.16, 0.73)),
    ],
    "apple": [
        *_mirrored(("ink", _round(-0.28, 0.15, 0.52, 0.62))),
        ("ink", _round(0, 0.55, 0.4, 0.3)),
        (0.09, [(0, -0.3), (0.06, -0.75)]),
        ("ink", rounded([(0.05, -0.5), (0.25, -0.95), (0.75, -0.9), (0.45, -0.5)])),
    ],
    "pair of glasses": [
        *_mirrored((0.13, _round(-0.5, 0.05, 0.38, 0.34)), (0.1, [(-0.85, -0.05), (-1, -0.25)])),
        (0.12, [(-0.12, 0), (0, -0.08), (0.12, 0)]),
    ],
    "ladder": [
        *_mirrored((0.12, [(-0.35, -1), (-0.45, 1)])),
        *[(0.1, [(-0.4, y), (0.4, y)]) for y in (-0.75, -0.4, -0.05, 0.3, 0.65)],
    ],
    "pair of scissors": [
        *_mirrored((0.14, [(-0.45, -0.95), (0.3, 0.5)]), (0.13, _round(-0.42, 0.68, 0.24, 0.28))),
        ("gap", _round(0, -0.05, 0.05)),
    ],
    "teapot": [
        ("ink", _round(0, 0.25, 0.6, 0.52)),
        ("ink", [(-0.4, 0.35), (-1, -0.2), (-0.82, -0.25), (-0.35, 0.05)]),
        (0.12, disk(0.3, 0.32, -100, 100, at=(0.6, 0.2))),
        ("ink", disk(0.35, 0.2, 180, 360, at=(0, -0.25))),
        ("ink", _round(0, -0.5, 0.1)),
    ],
    "crown": [
        ("ink", [(-0.9, 0.65), (-1, -0.5), (-0.45, 0), (0, -0.75), (0.45, 0), (1, -0.5), (0.9, 0.65)]),
        *[("ink", _round(x, y, 0.12)) for x, y in [(-1, -0.55), (0, -0.8), (1, -0.55)]],
        ("gap", _box(-0.8, 0.35, 0.8, 0.45)),
    ],
}


def _sky(canvas: Canvas, rng: np.random.Generator) -> Color:
    """A glowing background with a dark band of ground on some pictures; returns its middle color."""
    low = tone(rng, saturation=(0.3, 0.8), value=(0.85, 1.0))
    high = mix(tone(rng, saturation=(0.4, 0.9), value=(0.55, 0.9)), low, rng.uniform(0, 0.6))
    canvas.gradient(high, low)
    if rng.random() < 0.4:
        x, y = rng.random(2)
        canvas.ellipse(x, y, rng.uniform(0.12, 0.3), fill=mix(low, (255, 255, 235), 0.7))
    canvas.clouds(rng, near(rng, low, 40), cells=4, strength=0.6)
    canvas.clutter(rng, mix(low, high, 0.8), most=4)
    return mix(low, high, 0.4)


def _paint(parts: list[Part], canvas: Canvas, rng: np.random.Generator) -> None:
    sky = _sky(canvas, rng)
    ink = mix(tone(rng, saturation=(0.2, 0.8), value=(0.1, 0.25)), BLACK, rng.uniform(0, 0.7))
    canvas.place_freely(rng, scale=(0.3, 0.44), tilt=14, mirror=True)
    sway, phase = rng.uniform(-0.1, 0.1, 2), rng.uniform(0, 2 * np.pi, 2)
    for kind, outline in parts:
        # A slow wave across the other axis bends every copy of a thing in its own way.
        points = np.asarray(outline) + sway * np.sin(1.6 * np.asarray(outline)[:, ::-1] + phase)
        if isinstance(kind, str):
            canvas.polygon(points, ink if kind == "ink" else sky)
        else:
            canvas.stroke(points, ink, kind * rng.uniform(0.9, 1.15))


SILHOUETTES = painted(
    "silhouettes",
    ("a dark {} against the sky.", "a black {} silhouette.", "the silhouette of one {}."),
    {name: partial(_paint, parts) for name, parts in THINGS.items()},
)
