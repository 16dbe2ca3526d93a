"""Textures and patterns that fill the whole picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from everclip.data.drawn.canvas import (
    BLACK,
    Canvas,
    Span,
    fractal,
    ground_and_ink,
    mix,
    near,
    regular,
    tone,
)
from everclip.data.drawn.domain import Painter, painted

Field = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def _wrapped(x: np.ndarray) -> np.ndarray:
    rest: np.ndarray = x - np.floor(x)
    return rest


def _patterned(field: Field, cycles: Span, canvas: Canvas, rng: np.random.Generator) -> None:
    """Two colors mixed by a field of (u, v), in periods: `cycles` of them fit along a side."""
    side = canvas.side
    axis = np.linspace(-0.5, 0.5, side, dtype=np.float32) * rng.uniform(*cycles)
    turn, (du, dv) = np.radians(rng.uniform(-7, 7)), rng.uniform(0, 8, 2)
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    u, v = c * axis[None, :] - s * axis[:, None], s * axis[None, :] + c * axis[:, None]
    ground, ink = ground_and_ink(rng)
    canvas.fill(ground)
    canvas.clouds(rng, near(rng, ground, 50))
    canvas.blend(field(u + np.float32(du), v + np.float32(dv), rng), ink)


def _stripes(along_u: float, along_v: float, u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    flip = 1 if rng.random() < 0.5 else -1
    return _wrapped(along_u * u + flip * along_v * v) < rng.uniform(0.3, 0.65)


def _checkers(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    odd: np.ndarray = (np.floor(u) + np.floor(v)) % 2
    return odd


def _dots(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shifted = u + 0.5 * (np.floor(v) % 2)
    return (_wrapped(shifted) - 0.5) ** 2 + (_wrapped(v) - 0.5) ** 2 < rng.uniform(0.2, 0.36) ** 2


def _waves(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height = rng.uniform(0.3, 0.5)
    return _wrapped(v + height * np.sin(rng.uniform(2.5, 4.5) * u)) < rng.uniform(0.35, 0.6)


def _zigzag(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _wrapped(v + rng.uniform(0.8, 1.3) * np.abs(_wrapped(u) - 0.5)) < rng.uniform(0.35, 0.6)


def _honeycomb(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # A hexagon is what is nearest to one point of a triangular lattice: two rectangular lattices, interleaved.
    high = np.float32(np.sqrt(3))
    near_a = np.abs(_wrapped(u) - 0.5), np.abs(_wrapped(v / high) - 0.5) * high
    near_b = np.abs(_wrapped(u + 0.5) - 0.5), np.abs(_wrapped(v / high + 0.5) - 0.5) * high
    edge_a, edge_b = (np.maximum(x, 0.5 * x + 0.5 * high * y) for x, y in (near_a, near_b))
    edge: np.ndarray = np.minimum(edge_a, edge_b)
    return edge > rng.uniform(0.38, 0.44)


def _grid(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    width = rng.uniform(0.12, 0.25)
    edge: np.ndarray = np.minimum(_wrapped(u), _wrapped(v))
    return edge < width


def _plaid(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    wide, thin = rng.uniform(0.35, 0.55), rng.uniform(0.06, 0.12)
    bands = [0.42 * (_wrapped(x) < wide) + 0.35 * (np.abs(_wrapped(x) - 0.8) < thin) for x in (u, v)]
    woven: np.ndarray = np.minimum(bands[0] + bands[1], 1)
    return woven


def _circles(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    x, y = (axis - axis.mean() + rng.uniform(-1, 1) for axis in (u, v))
    return _wrapped(np.hypot(x, y)) < rng.uniform(0.35, 0.6)


def _sunburst(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    x, y = (axis - axis.mean() + rng.uniform(-1.2, 1.2) for axis in (u, v))
    return _wrapped(np.arctan2(y, x) / (2 * np.pi) * rng.integers(8, 17) + rng.random()) < 0.5


def _basket(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    across = (np.floor(u) + np.floor(v)) % 2 == 0
    strands = _wrapped(np.where(across, u, v) * 3)
    rim = np.minimum(_wrapped(u), _wrapped(v)) < 0.07
    return np.where((strands < 0.3) | rim, 1.0, 0.35 * np.abs(np.where(across, _wrapped(v), _wrapped(u)) - 0.5))


def _static(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(tone(rng, saturation=(0.0, 0.2), value=(0.85, 1.0)))
    grain = Image.fromarray(rng.integers(0, 256, (60, 60), dtype=np.uint8))
    speckle = grain.resize(canvas.image.size, Image.Resampling.NEAREST)
    canvas.blend(np.asarray(speckle) > rng.uniform(90, 150), tone(rng, saturation=(0, 0.4), value=(0.0, 0.15)))


def _bricks(canvas: Canvas, rng: np.random.Generator) -> None:
    mortar = tone(rng, saturation=(0.0, 0.15), value=(0.55, 0.95))
    brick = tone(rng, hue=(-0.03, 0.08), saturation=(0.4, 0.8), value=(0.35, 0.8))
    canvas.fill(mortar)
    rows = rng.uniform(5, 10)
    height, width, gap = 1 / rows, rng.uniform(1.8, 2.6) / rows, rng.uniform(0.008, 0.018)
    shift = rng.uniform(-1, 0)
    for row in range(int(rows) + 2):
        top = (row + shift) * height
        for column in range(int(1 / width) + 3):
            left = (column + shift - 0.5 * (row % 2)) * width
            canvas.box(left, top, left + width - gap, top + height - gap, near(rng, brick, 18))


def _wood(canvas: Canvas, rng: np.random.Generator) -> None:
    wood = tone(rng, hue=(0.04, 0.11), saturation=(0.4, 0.75), value=(0.5, 0.9))
    canvas.fill(wood)
    warp = fractal(rng, 96, (2, 4))
    across = np.linspace(0, 1, 96, dtype=np.float32)[:, None] * rng.uniform(3, 6)
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * (across + rng.uniform(1.5, 4) * warp))
    fibers = np.repeat(rng.random((96, 12), dtype=np.float32), 8, axis=1)
    field = 0.75 * rings**2 + 0.25 * fibers
    canvas.blend(field if rng.random() < 0.6 else field.T, mix(wood, (40, 18, 5), rng.uniform(0.4, 0.7)))


def _marble(canvas: Canvas, rng: np.random.Generator) -> None:
    stone = tone(rng, saturation=(0.0, 0.12), value=(0.86, 1.0))
    vein = tone(rng, saturation=(0.0, 0.35), value=(0.15, 0.5))
    if rng.random() < 0.3:
        stone, vein = mix(vein, BLACK, 0.3), stone
    canvas.fill(stone)
    side = 96
    slope = np.linspace(0, rng.uniform(1, 2), side, dtype=np.float32)
    for strength in (0.35, 0.85):
        warp = slope[None, :] + rng.uniform(-1, 1) * slope[:, None] + 3 * fractal(rng, side, (3, 6, 12, 24))
        canvas.blend(strength * np.exp(-np.abs(_wrapped(warp) - 0.5) * rng.uniform(10, 18)), vein)


def _scales(canvas: Canvas, rng: np.random.Generator) -> None:
    base = tone(rng, saturation=(0.4, 0.9), value=(0.5, 0.9))
    edge = mix(base, BLACK, rng.uniform(0.45, 0.75))
    radius = rng.uniform(0.09, 0.14)
    left, top = rng.uniform(-1, 0, 2) * radius
    canvas.fill(base)
    for row in range(int(1.2 / radius) + 2, -1, -1):  # from the bottom: a scale covers the one below it
        for column in range(int(0.5 / radius) + 3):
            x = left + radius * (2 * column - row % 2)
            y = top + radius * (row - 1) * 0.95
            canvas.ellipse(x, y, radius, fill=edge)
            canvas.ellipse(x, y - 0.12 * radius, 0.88 * radius, fill=near(rng, base, 14))


def _leopard(canvas: Canvas, rng: np.random.Generator) -> None:
    coat = tone(rng, hue=(0.07, 0.13), saturation=(0.35, 0.75), value=(0.75, 0.98))
    canvas.fill(coat)
    canvas.clouds(rng, mix(coat, (255, 245, 220), 0.6))
    patch, gap = mix(coat, (120, 70, 20), 0.45), mix(coat, (120, 70, 20), 0.2)
    count = int(rng.integers(4, 7))
    for cell in range((count + 1) ** 2):
        x, y = (np.array([cell % (count + 1), cell // (count + 1)]) + rng.uniform(-0.32, 0.32, 2)) / count
        canvas.place(x, y, rng.uniform(0.32, 0.44) / count, rng.uniform(0, 360), rng.uniform(0.7, 1.4))
        canvas.polygon(rng.uniform(0.75, 1.05, (11, 1)) * regular(11), (45, 28, 15))
        x, y = rng.uniform(-0.25, 0.25, 2)
        canvas.ellipse(x, y, 0.5, fill=patch)
        canvas.stroke([(0, 0), (1.2, rng.uniform(-0.3, 0.3))], gap, 0.35)


def _cracks(canvas: Canvas, rng: np.random.Generator) -> None:
    earth = tone(rng, hue=(0.04, 0.12), saturation=(0.2, 0.55), value=(0.55, 0.85))
    canvas.fill(earth)
    canvas.clouds(rng, near(rng, earth, 40), cells=6)
    side, count = 96, int(rng.integers(18, 34))
    centers = rng.uniform(-0.1, 1.1, (count, 2, 1)).astype(np.float32)
    axis = np.linspace(0, 1, side, dtype=np.float32)
    # Squared distances to every center, separable in x and y; cracks run where the two nearest centers tie.
    distance = (axis - centers[:, 0])[:, None, :] ** 2 + (axis - centers[:, 1])[:, :, None] ** 2
    nearest = np.sqrt(np.partition(distance, 1, axis=0)[:2])
    canvas.blend(1.4 - (nearest[1] - nearest[0]) * rng.uniform(35, 60), mix(earth, BLACK, rng.uniform(0.6, 0.85)))


def _camouflage(canvas: Canvas, rng: np.random.Generator) -> None:
    hue = rng.choice([0.09, 0.25, 0.3, 0.58])
    canvas.fill(tone(rng, hue=(hue, hue + 0.05), saturation=(0.2, 0.4), value=(0.55, 0.75)))
    for value in (0.45, 0.3, 0.15):
        color = tone(rng, hue=(hue - 0.06, hue + 0.06), saturation=(0.3, 0.6), value=(value, value + 0.08))
        canvas.blend((fractal(rng, 96, (5, 9)) - 0.55) * 25, color)


def _confetti(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.fill(ground_and_ink(rng)[0])
    size = rng.uniform(0.02, 0.035)
    for x, y in rng.random((int(rng.integers(70, 120)), 2)):
        canvas.place(x, y, size, rng.uniform(0, 180), rng.uniform(1.2, 2.5))
        canvas.box(-1, -1, 1, 1, tone(rng, value=(0.7, 1.0)))


def _pattern(field: Field, cycles: Span) -> Painter:
    return partial(_patterned, field, cycles)


TEXTURES = painted(
    "textures",
    ("a texture of {}.", "a close-up of {}.", "a surface covered with {}."),
    {
        "horizontal stripes": _pattern(partial(_stripes, 0.0, 1.0), (4, 9)),
        "vertical stripes": _pattern(partial(_stripes, 1.0, 0.0), (4, 9)),
        "diagonal stripes": _pattern(partial(_stripes, 0.7, 0.7), (4, 9)),
        "checkerboard squares": _pattern(_checkers, (4, 9)),
        "polka dots": _pattern(_dots, (3.5, 7)),
        "wavy lines": _pattern(_waves, (4, 8)),
        "zigzag lines": _pattern(_zigzag, (4, 7)),
        "honeycomb": _pattern(_honeycomb, (3.5, 7)),
        "grid lines": _pattern(_grid, (4, 9)),
        "plaid": _pattern(_plaid, (2.5, 4.5)),
        "concentric circles": _pattern(_circles, (6, 10)),
        "sunburst rays": _pattern(_sunburst, (6, 8)),
        "basket weave": _pattern(_basket, (4, 7)),
        "television static": _static,
        "bricks": _bricks,
        "wood grain": _wood,
        "marble": _marble,
        "fish scales": _scales,
        "leopard print": _leopard,
        "cracked earth": _cracks,
        "camouflage": _camouflage,
        "confetti": _confetti,
    },
)
