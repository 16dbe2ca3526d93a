"""Outdoor scenes, painted from the sky down to the foreground."""

from __future__ import annotations

import numpy as np

from everclip.data.drawn.canvas import BLACK, WHITE, Canvas, mix, near, tone
from everclip.data.drawn.domain import painted
from everclip.data.drawn.scenery import buildings, grass, hill, palm, pine, ridge, ripples, sky

_Rng = np.random.Generator


def _beach(canvas: Canvas, rng: _Rng) -> None:
    horizon, shore = rng.uniform(0.3, 0.45), rng.uniform(0.6, 0.75)
    sky(canvas, rng, horizon)
    sea = tone(rng, hue=(0.48, 0.6), saturation=(0.5, 0.9), value=(0.5, 0.85))
    canvas.gradient(mix(sea, BLACK, 0.25), mix(sea, WHITE, 0.3), horizon, 1)
    ripples(canvas, rng, horizon + 0.02, shore - 0.1, mix(sea, WHITE, 0.5), 8)
    sand = tone(rng, hue=(0.1, 0.14), saturation=(0.2, 0.45), value=(0.85, 1.0))
    slope = rng.uniform(-0.12, 0.12)
    for dy, color in ((0.0, WHITE), (0.03, mix(sand, BLACK, 0.12)), (0.07, sand)):
        hill(canvas, rng, shore + dy + 0.03, 0.05, color)
        canvas.polygon([(0, shore + dy - slope), (1, shore + dy + slope), (1, 1), (0, 1)], color)
    if rng.random() < 0.5:
        x, y = rng.uniform(0.2, 0.8), rng.uniform(0.72, 0.85)
        canvas.place(x, y, rng.uniform(0.1, 0.15), rng.uniform(-20, 20))
        canvas.stroke([(0, 0), (0, 1.2)], (90, 70, 60), 0.1)
        color = tone(rng, value=(0.8, 1.0))
        canvas.polygon([(-1, 0.1), (-0.6, -0.5), (0, -0.7), (0.6, -0.5), (1, 0.1)], color)
        canvas.polygon([(-0.3, 0.1), (0, -0.7), (0.3, 0.1)], mix(color, WHITE, 0.7))
    elif rng.random() < 0.6:
        palm(canvas, rng, rng.choice([0.15, 0.85]), rng.uniform(0.85, 0.95), rng.uniform(0.45, 0.6))


def _mountains(canvas: Canvas, rng: _Rng) -> None:
    haze = sky(canvas, rng, 0.8)
    rock = tone(rng, hue=(0.55, 0.75), saturation=(0.1, 0.35), value=(0.35, 0.6))
    ridge(canvas, rng, 0.62, 0.3, mix(rock, haze, 0.55), 11)
    base = rng.uniform(0.75, 0.85)
    for center in rng.permutation([0.15, 0.5, 0.85]) + rng.uniform(-0.1, 0.1, 3):
        peak, half = rng.uniform(0.12, 0.35), rng.uniform(0.3, 0.42)
        top, shade = (center, peak), rng.uniform(-0.1, 0.1)
        canvas.polygon([(center - half, base), top, (center + half, base)], rock)
        canvas.polygon([(center + shade, base), top, (center + half, base)], mix(rock, BLACK, 0.3))
        cap = 0.33 * (base - peak)
        x = half / (base - peak) * cap
        snow = [(center - x, peak + cap), (center - 0.3 * x, peak + 0.75 * cap), (center, peak + 1.1 * cap)]
        canvas.polygon([*snow, (center + 0.4 * x, peak + 0.7 * cap), (center + x, peak + cap), top], (245, 248, 255))
    hill(canvas, rng, base + 0.03, 0.06, grass(rng, (0.3, 0.55)))


def _city_night(canvas: Canvas, rng: _Rng) -> None:
    night = tone(rng, hue=(0.6, 0.75), saturation=(0.5, 0.9), value=(0.08, 0.25))
    canvas.gradient(night, mix(night, (190, 110, 120), rng.uniform(0.1, 0.4)))
    if rng.random() < 0.5:
        canvas.ellipse(rng.random(), rng.uniform(0.08, 0.25), rng.uniform(0.04, 0.07), fill=(245, 240, 215))
    wall = tone(rng, hue=(0.6, 0.75), saturation=(0.2, 0.5), value=(0.12, 0.22))
    lamp = tone(rng, hue=(0.1, 0.16), saturation=(0.3, 0.7), value=(0.95, 1.0))
    buildings(canvas, rng, rng.uniform(0.88, 1.0), wall, (0.3, 0.7), lamp, mix(wall, BLACK, 0.3))


def _skyline(canvas: Canvas, rng: _Rng) -> None:
    base = rng.uniform(0.82, 0.95)
    sky(canvas, rng, base)
    wall = tone(rng, saturation=(0.05, 0.3), value=(0.45, 0.8))
    buildings(canvas, rng, base, wall, (0.0, 0.3), mix(wall, WHITE, 0.6), mix(wall, (40, 60, 90), 0.6))
    canvas.box(0, base, 1, 1, tone(rng, saturation=(0, 0.1), value=(0.3, 0.5)))


def _forest(canvas: Canvas, rng: _Rng) -> None:
    sky(canvas, rng, 0.6)
    canvas.gradient(grass(rng, (0.35, 0.5)), grass(rng, (0.4, 0.6)), rng.uniform(0.45, 0.6), 1)
    pines, leaf = rng.random() < 0.6, grass(rng, (0.25, 0.5))
    for foot in np.sort(rng.uniform(0.55, 1.05, 16)):
        height = 0.15 + 0.45 * foot * rng.uniform(0.8, 1.1)
        x, color = rng.uniform(-0.05, 1.05), near(rng, leaf, 14)
        if pines:
            pine(canvas, x, foot, height, color)
            continue
        canvas.box(x - 0.03, foot - 0.5 * height, x + 0.03, foot, (85, 60, 40))
        for _ in range(3):
            dx, dy = rng.uniform(-0.16, 0.16, 2) * height
            canvas.ellipse(x + dx, foot - 0.7 * height + dy, 0.25 * height, fill=near(rng, color, 12))


def _desert(canvas: Canvas, rng: _Rng) -> None:
    horizon = rng.uniform(0.4, 0.6)
    sky(canvas, rng, horizon + 0.1, clouds=False)
    sand = tone(rng, hue=(0.07, 0.12), saturation=(0.4, 0.7), value=(0.75, 0.98))
    for step in range(4):
        hill(canvas, rng, horizon + 0.14 * step, rng.uniform(0.06, 0.12), mix(sand, BLACK, 0.12 * (step % 2)))
    for _ in range(rng.integers(1, 4)):
        canvas.place(rng.uniform(0.1, 0.9), rng.uniform(0.6, 0.85), rng.uniform(0.08, 0.16))
        green = grass(rng, (0.3, 0.5))
        canvas.stroke([(0, 1), (0, -0.9)], green, 0.36)
        canvas.stroke([(0, 0.2), (-0.65, 0.2), (-0.65, -0.4)], green, 0.24)
        canvas.stroke([(0, -0.1), (0.65, -0.1), (0.65, -0.7)], green, 0.24)


def _road(canvas: Canvas, rng: _Rng) -> None:
    horizon, vanish, bottom = rng.uniform(0.4, 0.5), rng.uniform(0.35, 0.65), rng.uniform(0.4, 0.6)
    sky(canvas, rng, horizon)
    hill(canvas, rng, horizon, 0.08, grass(rng))
    canvas.gradient(grass(rng), grass(rng), horizon, 1)
    half, asphalt = rng.uniform(0.3, 0.45), tone(rng, saturation=(0, 0.1), value=(0.25, 0.45))
    for color, width in (((230, 230, 225), 1.0), (asphalt, 0.92)):
        reach = half * width
        canvas.polygon(
            [(vanish - 0.01, horizon), (vanish + 0.01, horizon), (bottom + reach, 1), (bottom - reach, 1)],
            color,
        )
    for near_end in (0.16, 0.34, 0.58, 0.95):
        # Dashes shrink toward the horizon with the distance that they cover.
        far_end = 0.7 * near_end
        points = [(vanish + (bottom - vanish) * d, horizon + (1 - horizon) * d, 0.035 * d) for d in (near_end, far_end)]
        (x0, y0, w0), (x1, y1, w1) = points
        canvas.polygon([(x0 - w0, y0), (x0 + w0, y0), (x1 + w1, y1), (x1 - w1, y1)], (250, 215, 90))


def _sunset(canvas: Canvas, rng: _Rng) -> None:
    horizon, x = rng.uniform(0.5, 0.65), rng.uniform(0.25, 0.75)
    glow = tone(rng, hue=(0.03, 0.1), saturation=(0.6, 0.9), value=(0.95, 1.0))
    canvas.gradient(tone(rng, hue=(0.75, 0.98), saturation=(0.4, 0.7), value=(0.35, 0.7)), glow, 0, horizon)
    radius = rng.uniform(0.1, 0.17)
    canvas.ellipse(x, horizon - rng.uniform(0, 0.6) * radius, radius, fill=(255, 225, 130))
    sea = tone(rng, hue=(0.6, 0.95), saturation=(0.4, 0.7), value=(0.25, 0.45))
    canvas.gradient(mix(sea, glow, 0.55), sea, horizon, 1)
    for y in np.arange(horizon + 0.03, 1, 0.05):
        half = radius * rng.uniform(0.3, 1.1)
        canvas.stroke([(x - half, y), (x + half, y)], mix(glow, (255, 235, 160), 0.6), 0.016)


def _snow(canvas: Canvas, rng: _Rng) -> None:
    sky(canvas, rng, 0.75, clouds=False)
    if rng.random() < 0.6:
        canvas.gradient((150, 165, 185), (215, 222, 230), 0, 0.75)
    for step in range(3):
        base = 0.62 + 0.14 * step
        hill(canvas, rng, base, 0.1, mix((214, 224, 240), WHITE, step / 2))
        for _ in range(rng.integers(1, 4)):
            x, height = rng.random(), rng.uniform(0.14, 0.2) + 0.06 * step
            pine(canvas, x, base + 0.04, height, (50, 85, 75))
            canvas.polygon(
                [
                    (x - 0.07 * height, base - 0.7 * height),
                    (x, base + 0.04 - 1.08 * height),
                    (x + 0.07 * height, base - 0.7 * height),
                ],
                WHITE,
            )
    for x, y in rng.random((rng.integers(10, 45), 2)):
        canvas.ellipse(x, y, 0.011, fill=WHITE)


def _waterfall(canvas: Canvas, rng: _Rng) -> None:
    sky(canvas, rng, 0.4)
    top, pool, x = rng.uniform(0.2, 0.3), rng.uniform(0.72, 0.82), rng.uniform(0.38, 0.62)
    rock = tone(rng, hue=(0.02, 0.15), saturation=(0.1, 0.35), value=(0.3, 0.5))
    ridge(canvas, rng, top + 0.04, 0.1, rock, 13)
    for cx, cy in rng.random((26, 2)) * (1, 0.5) + (0, top + 0.05):
        canvas.place(cx, cy, rng.uniform(0.05, 0.1), rng.uniform(0, 90))
        canvas.box(-1, -0.6, 1, 0.6, near(rng, rock, 22))
    canvas.place(0, 0, 1)
    ridge(canvas, rng, top, 0.08, grass(rng, (0.3, 0.5)), 15)
    half = rng.uniform(0.1, 0.18)
    canvas.polygon(
        [
            (0, top + 0.06),
            (x - half, top + 0.02),
            (x + half, top + 0.02),
            (1, top + 0.06),
            (1, pool),
            (0, pool),
        ],
        rock,
    )
    canvas.polygon(
        [(x - half, top), (x + half, top), (x + 1.25 * half, pool), (x - 1.25 * half, pool)], (225, 238, 248)
    )
    for offset in rng.uniform(-0.95, 0.95, 9):
        start = rng.uniform(top, 0.5)
        canvas.stroke([(x + offset * half, start), (x + 1.2 * offset * half, start + 0.3)], (160, 200, 230), 0.014)
    water = tone(rng, hue=(0.5, 0.58), saturation=(0.4, 0.7), value=(0.45, 0.7))
    canvas.gradient(mix(water, WHITE, 0.4), water, pool, 1)
    for dx in rng.uniform(-1.6, 1.6, 9):
        canvas.ellipse(
            x + dx * half,
            pool + rng.uniform(-0.02, 0.03),
            rng.uniform(0.04, 0.07),
            0.035,
            fill=(240, 246, 250),
        )


def _starry(canvas: Canvas, rng: _Rng) -> None:
    night = tone(rng, hue=(0.58, 0.75), saturation=(0.6, 1.0), value=(0.08, 0.25))
    canvas.gradient(mix(night, BLACK, 0.4), mix(night, (90, 110, 170), 0.4))
    canvas.clouds(rng, mix(night, (120, 100, 190), 0.3), cells=4)
    for x, y in rng.random((int(rng.integers(40, 90)), 2)):
        canvas.ellipse(x, y, rng.uniform(0.005, 0.014), fill=near(rng, (235, 235, 225), 20))
    if rng.random() < 0.6:
        x, y, radius = rng.uniform(0.15, 0.85), rng.uniform(0.15, 0.4), rng.uniform(0.07, 0.12)
        canvas.ellipse(x, y, radius, fill=(250, 245, 215))
        if rng.random() < 0.5:
            canvas.ellipse(x + 0.45 * radius, y - 0.1 * radius, 0.9 * radius, fill=night)
    hill(canvas, rng, rng.uniform(0.85, 0.95), 0.1, mix(night, BLACK, 0.6))


def _farm(canvas: Canvas, rng: _Rng) -> None:
    horizon, vanish = rng.uniform(0.38, 0.5), rng.uniform(0.2, 0.8)
    sky(canvas, rng, horizon)
    hill(canvas, rng, horizon, 0.06, grass(rng, (0.3, 0.5)))
    crop = tone(rng, hue=(0.11, 0.32), saturation=(0.45, 0.8), value=(0.6, 0.9))
    canvas.box(0, horizon, 1, 1, crop)
    rows, soil = int(rng.integers(9, 14)), mix(crop, (95, 60, 30), rng.uniform(0.5, 0.85))
    for row in np.linspace(-1.2, 2.2, 2 * rows):
        canvas.polygon([(vanish + 0.12 * (row - 0.5), horizon), (row + 0.04, 1), (row - 0.04, 1)], soil)
    x = rng.uniform(0.1, 0.75)
    y, wide = horizon + 0.03, rng.uniform(0.13, 0.2)
    canvas.box(x, y - 0.6 * wide, x + wide, y, (165, 40, 35))
    roof = [(-0.02, -0.6), (0.2, -0.95), (0.8, -0.95), (1.02, -0.6)]
    canvas.polygon([(x + wide * dx, y + wide * dy) for dx, dy in roof], (95, 85, 85))
    canvas.box(x + 0.38 * wide, y - 0.4 * wide, x + 0.62 * wide, y, (240, 235, 225))


def _volcano(canvas: Canvas, rng: _Rng) -> None:
    dusk = tone(rng, hue=(0.9, 1.08), saturation=(0.3, 0.7), value=(0.3, 0.75))
    canvas.gradient(mix(dusk, BLACK, 0.4), mix(dusk, (255, 190, 120), 0.5))
    x, top, base = rng.uniform(0.4, 0.6), rng.uniform(0.34, 0.46), rng.uniform(0.85, 0.95)
    for step in range(9):
        puff = x + rng.uniform(-0.03, 0.03) * (step + 1), top - 0.04 * step
        canvas.ellipse(*puff, 0.04 + 0.012 * step, fill=near(rng, (105, 95, 95), 22))
    for dx, dy in rng.uniform(-0.14, 0.14, (10, 2)):
        canvas.ellipse(x + dx, top - 0.1 + dy, 0.012, fill=(255, 170, 50))
    rock = tone(rng, hue=(0.0, 0.08), saturation=(0.1, 0.35), value=(0.2, 0.35))
    half = rng.uniform(0.07, 0.1)
    canvas.polygon([(x - 0.55, base), (x - half, top), (x + half, top), (x + 0.55, base)], rock)
    canvas.polygon([(x + 0.1, base), (x + 0.2 * half, top), (x + half, top), (x + 0.55, base)], mix(rock, BLACK, 0.3))
    lava = tone(rng, hue=(0.02, 0.08), saturation=(0.9, 1.0), value=(0.95, 1.0))
    canvas.ellipse(x, top, half, 0.025, fill=lava)
    for _ in range(rng.integers(2, 5)):
        way = np.cumsum(rng.uniform([-0.06, 0.06], [0.06, 0.13], (4, 2)), axis=0)
        rim = np.array([[x + rng.uniform(-0.6, 0.6) * half, top]])
        canvas.stroke(np.concatenate([rim, rim + way]), lava, 0.035)
    canvas.box(0, base, 1, 1, mix(rock, grass(rng, (0.2, 0.4)), 0.5))


def _island(canvas: Canvas, rng: _Rng) -> None:
    horizon, y = rng.uniform(0.4, 0.52), rng.uniform(0.64, 0.76)
    sky(canvas, rng, horizon)
    sea = tone(rng, hue=(0.48, 0.58), saturation=(0.6, 0.95), value=(0.5, 0.85))
    canvas.gradient(mix(sea, BLACK, 0.2), sea, horizon, 1)
    ripples(canvas, rng, horizon + 0.03, 0.98, mix(sea, WHITE, 0.4))
    x, wide = rng.uniform(0.4, 0.6), rng.uniform(0.25, 0.36)
    canvas.ellipse(x, y + 0.015, 1.12 * wide, 0.1, fill=mix(sea, WHITE, 0.6))
    canvas.ellipse(x, y, wide, 0.085, fill=tone(rng, hue=(0.1, 0.14), saturation=(0.25, 0.5), value=(0.88, 1.0)))
    canvas.ellipse(x, y - 0.03, 0.7 * wide, 0.05, fill=grass(rng))
    for dx in rng.permutation([-0.45, 0.0, 0.45])[: rng.integers(1, 4)]:
        palm(canvas, rng, x + dx * wide, y - 0.02, rng.uniform(0.32, 0.48))


def _rainbow(canvas: Canvas, rng: _Rng) -> None:
    horizon, x = rng.uniform(0.65, 0.78), rng.uniform(0.35, 0.65)
    haze = sky(canvas, rng, horizon + 0.1)
    if rng.random() < 0.4:
        haze = (160, 172, 190)
        canvas.gradient((110, 125, 150), haze, 0, horizon + 0.1)
    radius, band = rng.uniform(0.42, 0.6), rng.uniform(0.028, 0.04)
    for step, hue in enumerate(np.linspace(0, 0.78, 6)):
        color = tone(rng, hue=(hue, hue), saturation=(0.75, 0.9), value=(0.9, 1.0))
        canvas.ellipse(x, horizon, radius - step * band, fill=mix(color, haze, 0.15))
    canvas.ellipse(x, horizon, radius - 6 * band, fill=mix(haze, WHITE, 0.15))
    hill(canvas, rng, horizon + 0.03, 0.1, grass(rng))
    hill(canvas, rng, horizon + 0.15, 0.1, grass(rng))


SCENES = painted(
    "scenes",
    ("a painting of {}.", "a view of {}.", "a landscape with {}."),
    {
        "a beach": _beach,
        "snow-capped mountains": _mountains,
        "a city at night": _city_night,
        "a city by day": _skyline,
        "a forest": _forest,
        "a desert with cacti": _desert,
        "a country road": _road,
        "a sunset over the sea": _sunset,
        "snowy hills": _snow,
        "a waterfall": _waterfall,
        "a starry sky": _starry,
        "a farm field": _farm,
        "an erupting volcano": _volcano,
        "a tropical island": _island,
        "a rainbow": _rainbow,
    },
)
