"""Colors and materials: one shaded ball on a floor, named by its finish and its color."""

from __future__ import annotations

from functools import partial

import numpy as np
from PIL import Image

from everclip.data.drawn.canvas import BLACK, Canvas, Color, mix, near, tone
from everclip.data.drawn.domain import painted

_COLORS = {
    "red": (205, 25, 30),
    "orange": (245, 130, 15),
    "yellow": (245, 220, 30),
    "green": (35, 150, 50),
    "turquoise": (40, 200, 195),
    "blue": (30, 65, 205),
    "purple": (120, 35, 165),
    "pink": (250, 130, 180),
}


def _shade(finish: str, color: Color, normal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pixels (S, S, 3) of a ball in [0, 255] floats, lit from above, for its unit normals (3, S, S)."""
    light = np.array([rng.uniform(-0.6, 0.6), -rng.uniform(0.5, 0.8), rng.uniform(0.5, 0.9)], dtype=np.float32)
    light /= np.linalg.norm(light)
    facing = np.tensordot(light, normal, 1)
    # The mirrored light as seen from the front: the z part of 2 (n.l) n - l.
    gleam = np.clip(2 * facing * normal[2] - light[2], 0, 1)
    bright, white = 0.4 + 0.65 * np.clip(facing, 0, 1), np.zeros_like(facing)
    paint = np.broadcast_to(np.array(color, dtype=np.float32), (*facing.shape, 3))
    if finish == "glossy":
        white = gleam ** rng.uniform(18, 45)
    elif finish == "metallic":
        # A mirror between a bright sky and a dark floor: a point shows what lies where it reflects to.
        up = -2 * normal[2] * normal[1]
        horizon = rng.uniform(-0.15, 0.1)
        bright = np.interp(up, [-1, horizon - 0.15, horizon + 0.15, 0.6, 1], [0.85, 0.2, 0.7, 1.25, 0.7])
        white = 0.6 * np.clip(up - 0.45, 0, 1) + gleam**50
    elif finish == "striped":
        axis = rng.normal(size=3).astype(np.float32)
        turn = np.tensordot(axis / np.linalg.norm(axis), normal, 1)
        stripe = np.sin(turn * rng.uniform(7, 12) + rng.uniform(0, 6)) > 0
        paint = np.where(stripe[..., None], np.float32(250), paint)
    lit: np.ndarray = bright[..., None] * paint + 255 * white[..., None]
    return lit


def _paint(finish: str, name: str, canvas: Canvas, rng: np.random.Generator) -> None:
    wall, floor = (tone(rng, saturation=(0.0, 0.35), value=(0.35, 0.95)) for _ in range(2))
    edge = rng.uniform(0.45, 0.7)
    canvas.gradient(wall, near(rng, wall, 40), 0, edge)
    canvas.gradient(mix(floor, BLACK, 0.25), floor, edge, 1)
    radius = rng.uniform(0.2, 0.34)
    x, y = rng.uniform(radius + 0.02, 0.98 - radius), rng.uniform(0.97 - 1.2 * radius, 0.98 - 1.1 * radius)
    lean = rng.uniform(-0.3, 0.3) * radius
    for step in range(4):
        spread = 1.0 - 0.12 * step
        shadow = mix(floor, BLACK, 0.2 + 0.15 * step)
        canvas.ellipse(x + lean, y + 0.92 * radius, spread * radius, 0.24 * spread * radius, fill=shadow)
    pixels = round(2 * radius * canvas.side)
    across = np.linspace(-1, 1, pixels, dtype=np.float32)
    nx, ny = np.meshgrid(across, across)
    off_axis = nx**2 + ny**2
    normal = np.stack([nx, ny, np.sqrt(np.clip(1 - off_axis, 0, 1))])
    shaded = _shade(finish, near(rng, _COLORS[name], 14), normal, rng)
    ball = Image.fromarray(np.clip(shaded, 0, 255).astype(np.uint8))
    corner = (round((x - radius) * canvas.side), round((y - radius) * canvas.side))
    canvas.image.paste(ball, corner, Image.fromarray(np.where(off_axis < 1, 255, 0).astype(np.uint8)))


BALLS = painted(
    "balls",
    ("a picture of a {}.", "a {} on the floor.", "a rendering of a {}."),
    {
        f"{finish} {color} ball": partial(_paint, finish, color)
        for finish in ("matte", "glossy", "metallic", "striped")
        for color in _COLORS
    },
    light=0.12,
)
