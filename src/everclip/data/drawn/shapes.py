"""Flat shapes: one filled geometric figure on a plain or cluttered ground."""

from __future__ import annotations

from functools import partial

import numpy as np

from everclip.data.drawn.canvas import BLACK, Canvas, disk, ground_and_ink, mix, near, regular, rounded
from everclip.data.drawn.domain import painted


def _ring() -> np.ndarray:
    # Outer edge, then inner edge backward: one polygon whose seam has no width.
    return np.concatenate([disk(), disk(0.55)[::-1]])


def _crescent() -> np.ndarray:
    return np.concatenate([disk(1.0, start=60, stop=300), disk(0.86, start=73, stop=287, at=(0.25, 0))[::-1]])


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 40)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y - 2.5], axis=1) / 16


def _cross() -> np.ndarray:
    arm, turn = np.array([(-0.34, -1), (0.34, -1), (0.34, -0.34)]), np.array([(0, 1), (-1, 0)])
    return np.concatenate([arm @ np.linalg.matrix_power(turn, quarter) for quarter in range(4)])


def _clover() -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 80)
    radius = 0.25 + 0.75 * np.abs(np.sin(2 * angle)) ** 0.6
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _gear() -> np.ndarray:
    step = np.arange(40)
    radius = np.where(step % 4 < 2, 1.0, 0.74)
    outer = np.stack([radius * np.cos(step * np.pi / 20), radius * np.sin(step * np.pi / 20)], axis=1)
    return np.concatenate([outer, outer[:1], disk(0.34)[::-1]])


def _spiral() -> np.ndarray:
    angle = np.linspace(0, 5 * np.pi, 90)
    inner, outer = (angle / (5 * np.pi) * 0.86, angle / (5 * np.pi) * 0.86 + 0.14)
    turn = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([outer[:, None] * turn, (inner[:, None] * turn)[::-1]])


OUTLINES: dict[str, np.ndarray] = {
    "circle": disk(),
    "oval": disk(1.0, 0.55),
    "square": np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]),
    "rectangle": np.array([(-1, -0.45), (1, -0.45), (1, 0.45), (-1, 0.45)]),
    "triangle": regular(3),
    "diamond": np.array([(0, -1), (0.6, 0), (0, 1), (-0.6, 0)]),
    "pentagon": regular(5),
    "hexagon": regular(6),
    "star": regular(5, inner=0.42),
    "ring": _ring(),
    "crescent": _crescent(),
    "heart": _heart(),
    "arrow": np.array([(-1, -0.22), (0.2, -0.22), (0.2, -0.65), (1, 0), (0.2, 0.65), (0.2, 0.22), (-1, 0.22)]),
    "cross": _cross(),
    "semicircle": disk(start=180, stop=360, at=(0, 0.45)),
    "teardrop": rounded([(0, -1.3), (0.08, -0.8), (0.85, 0.25), (0.6, 1.1), (-0.6, 1.1), (-0.85, 0.25), (-0.08, -0.8)]),
    "lightning bolt": np.array([(0.25, -1), (-0.6, 0.15), (-0.08, 0.15), (-0.3, 1), (0.6, -0.25), (0.08, -0.25)]),
    "four-leaf clover": _clover(),
    "gear": _gear(),
    "spiral": _spiral(),
}
"""Outlines (K, 2) inside about [-1, 1] x [-1, 1]."""


def _paint(outline: np.ndarray, canvas: Canvas, rng: np.random.Generator) -> None:
    ground, ink = ground_and_ink(rng)
    canvas.fill(ground)
    canvas.clouds(rng, near(rng, ground, 40), strength=0.8)
    canvas.clutter(rng, mix(ground, ink, 0.3))
    canvas.place_freely(rng, tilt=25, mirror=True)
    style = rng.random()
    if style < 0.3:
        canvas.polygon(outline * 1.02 + rng.uniform(0.06, 0.14), mix(ground, BLACK, 0.35))
    elif style > 0.7:
        # The edge goes below the fill, which hides the seam of a figure with a hole.
        edge = mix(ink, ground, 0.5) if style < 0.85 else near(rng, (30, 30, 30))
        canvas.stroke(np.concatenate([outline, outline[:1]]), edge, rng.uniform(0.1, 0.18))
    canvas.polygon(outline, ink)


SHAPES = painted(
    "shapes",
    ("a flat {} shape.", "a colored {}.", "a simple drawn {}."),
    {name: partial(_paint, outline) for name, outline in OUTLINES.items()},
)
