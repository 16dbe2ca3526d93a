"""Domains about numbers: a few equal things on notebook paper, and the hour on a clock."""

from __future__ import annotations

from functools import partial

import numpy as np

from everclip.data.drawn.canvas import WHITE, Canvas, disk, mix, near, regular, tone
from everclip.data.drawn.domain import painted
from everclip.data.drawn.shapes import OUTLINES

_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_THINGS = {"dot": "circle", "star": "star", "heart": "heart", "triangle": "triangle"}


def _notebook(canvas: Canvas, rng: np.random.Generator) -> None:
    paper = tone(rng, saturation=(0.0, 0.1), value=(0.92, 1.0))
    canvas.fill(paper)
    rule = mix(paper, tone(rng, hue=(0.5, 0.7)), rng.uniform(0.25, 0.45))
    gap, start = rng.uniform(0.08, 0.14), rng.uniform(0, 0.08)
    squared = rng.random() < 0.5
    for at in np.arange(start, 1, gap):
        canvas.stroke([(0, at), (1, at)], rule, 0.006)
        if squared:
            canvas.stroke([(at, 0), (at, 1)], rule, 0.006)
    if not squared:
        canvas.stroke([(0.1, 0), (0.1, 1)], mix(paper, (230, 60, 60), 0.5), 0.008)


def _paint_count(count: int, outline: np.ndarray, canvas: Canvas, rng: np.random.Generator) -> None:
    _notebook(canvas, rng)
    shared = tone(rng, value=(0.45, 0.85))
    one_color, turn = rng.random() < 0.5, rng.uniform(-10, 10)
    size = rng.uniform(0.09, 0.14)
    for cell in rng.permutation(9)[:count]:
        # One cell of a 3 x 3 grid per thing, so that things never touch and each can be counted.
        x, y = (np.array([cell % 3, cell // 3]) + 0.5) / 3 + rng.uniform(-0.025, 0.025, 2)
        color = near(rng, shared, 20) if one_color else tone(rng, value=(0.45, 0.85))
        canvas.place(x, y, size * rng.uniform(0.85, 1.1), turn + rng.uniform(-14, 14))
        if rng.random() < 0.25:
            canvas.outlined(outline, mix(color, WHITE, 0.55), color, 0.22)
        else:
            canvas.polygon(outline, color)


COUNTS = painted(
    "counts",
    ("a drawing of {}.", "{} on a page.", "a notebook with {}."),
    {
        f"{word} {thing}{'s' if count > 1 else ''}": partial(_paint_count, count, OUTLINES[shape])
        for thing, shape in _THINGS.items()
        for count, word in enumerate(_WORDS[:5], start=1)
    },
    light=0.12,
)


def _paint_clock(hour: int, canvas: Canvas, rng: np.random.Generator) -> None:
    wall = tone(rng, saturation=(0.1, 0.55), value=(0.3, 0.8))
    canvas.fill(wall)
    canvas.clouds(rng, near(rng, wall, 40))
    canvas.place_freely(rng, scale=(0.36, 0.46), tilt=6)
    pale, deep = tone(rng, saturation=(0.0, 0.2), value=(0.88, 1.0)), tone(rng, value=(0.08, 0.3))
    face, ink = (pale, deep) if rng.random() < 0.8 else (deep, pale)
    frame = tone(rng, saturation=(0.2, 0.9), value=(0.2, 0.9))
    square = rng.random() < 0.25
    for color, scale in ((frame, 1.0), (face, rng.uniform(0.84, 0.92))):
        canvas.polygon((OUTLINES["square"] * 1.2 if square else disk()) * scale, color)
    every, marks = (3 if rng.random() < 0.3 else 1), rng.uniform(0.05, 0.09)
    dots = rng.random() < 0.4
    for x, y in regular(12, 0.74)[::every]:
        if dots:
            canvas.ellipse(x, y, marks, fill=ink)
        else:
            canvas.stroke([(0.86 * x, 0.86 * y), (1.05 * x, 1.05 * y)], ink, marks)
    hands = ink if rng.random() < 0.7 else tone(rng, value=(0.4, 0.7))
    short = regular(12, rng.uniform(0.42, 0.52))[hour % 12]
    canvas.stroke([(0, rng.uniform(0, 0.12)), (0, -rng.uniform(0.7, 0.8))], hands, rng.uniform(0.05, 0.08))
    canvas.stroke([(0, 0), tuple(short)], hands, rng.uniform(0.12, 0.17))
    if rng.random() < 0.3:
        canvas.stroke([(0, 0), tuple(regular(60, 0.75)[rng.integers(60)])], (210, 40, 40), 0.02)
    canvas.ellipse(0, 0, 0.08, fill=hands)


CLOCKS = painted(
    "clocks",
    ("a clock showing {}.", "a clock face at {}.", "the time is {}."),
    {f"{word} o'clock": partial(_paint_clock, hour) for hour, word in enumerate(_WORDS, start=1)},
)
