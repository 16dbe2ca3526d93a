"""Land and water as seen from straight above; every picture has its own north."""

from __future__ import annotations

import numpy as np

from everclip.data.drawn.canvas import BLACK, WHITE, Canvas, Color, Span, disk, fractal, mix, near, tone
from everclip.data.drawn.domain import painted

_Rng = np.random.Generator
_ASPHALT: Color = (95, 95, 98)
_REACH = 1.5  # a map must cover [-1.5, 1.5] in its frame, so that the picture is full at any angle


def _land(canvas: Canvas, rng: _Rng, hue: Span = (0.17, 0.33), value: Span = (0.35, 0.6)) -> Color:
    """Mottled ground, then a turned frame in which the picture is about [-1, 1] x [-1, 1]."""
    ground = tone(rng, hue=hue, saturation=(0.2, 0.5), value=value)
    canvas.fill(ground)
    canvas.blend(fractal(rng, 48, (4, 8, 24)) * 0.9 - 0.2, mix(ground, (40, 45, 25), rng.uniform(0.3, 0.6)))
    canvas.place(0.5, 0.5, 0.5, rng.uniform(0, 360))
    return ground


def _water(rng: _Rng) -> Color:
    return tone(rng, hue=(0.5, 0.6), saturation=(0.45, 0.8), value=(0.3, 0.6))


def _blob(rng: _Rng, rough: float = 0.25, count: int = 40) -> np.ndarray:
    """A closed smooth outline around the origin with a radius of about 1."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    radius = 1.0 + sum(rng.uniform(-rough, rough) / k * np.cos(k * angle + rng.uniform(0, 6)) for k in (1, 2, 3, 5))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _bend(rng: _Rng, sway: float) -> np.ndarray:
    """A winding line from left to right through the middle of the frame."""
    x = np.linspace(-_REACH, _REACH, 40)
    y = sway * np.sin(rng.uniform(1.8, 3.2) * x + rng.uniform(0, 6)) + 0.3 * sway * np.sin(5 * x + rng.uniform(0, 6))
    return np.stack([x, y + rng.uniform(-0.2, 0.2)], axis=1)


def _trees(canvas: Canvas, rng: _Rng, count: int, size: Span = (0.05, 0.1)) -> None:
    for x, y in rng.uniform(-_REACH, _REACH, (count, 2)):
        radius, green = rng.uniform(*size), tone(rng, hue=(0.22, 0.36), saturation=(0.35, 0.7), value=(0.22, 0.42))
        canvas.ellipse(x + 0.3 * radius, y + 0.3 * radius, radius, fill=mix(green, BLACK, 0.5))
        canvas.ellipse(x, y, radius, fill=green)


def _cars(canvas: Canvas, rng: _Rng, x: float, y: float, along_x: bool) -> None:
    long, wide = (0.055, 0.03) if along_x else (0.03, 0.055)
    color = tone(rng, saturation=(0, 0.8), value=(0.2, 1.0))
    canvas.box(x - long, y - wide, x + long, y + wide, color)


def _river(canvas: Canvas, rng: _Rng) -> None:
    ground = _land(canvas, rng)
    course, width, water = _bend(rng, rng.uniform(0.25, 0.5)), rng.uniform(0.22, 0.4), _water(rng)
    _trees(canvas, rng, int(rng.integers(5, 40)))
    canvas.stroke(course, mix(ground, (220, 200, 150), 0.6), 1.3 * width)
    canvas.stroke(course, water, width)
    canvas.stroke(course, mix(water, WHITE, 0.12), 0.4 * width)


def _highway(canvas: Canvas, rng: _Rng) -> None:
    _land(canvas, rng)
    _trees(canvas, rng, int(rng.integers(5, 30)))
    y, width = rng.uniform(-0.2, 0.2), rng.uniform(0.2, 0.28)
    asphalt = near(rng, _ASPHALT, 7)
    if rng.random() < 0.5:
        x = rng.uniform(-0.4, 0.4)
        canvas.box(x - 0.13, -_REACH, x + 0.13, _REACH, mix(asphalt, WHITE, 0.15))
    for lane in (-1, 1):
        center = y + 1.15 * lane * width
        canvas.box(-_REACH, center - width, _REACH, center + width, asphalt)
        for x in np.arange(-_REACH, _REACH, 0.25):
            canvas.box(x, center - 0.015, x + 0.12, center + 0.015, (235, 235, 230))
        for x in rng.uniform(-1, 1, rng.integers(2, 6)):
            _cars(canvas, rng, x, center + rng.choice([-0.5, 0.5]) * width, along_x=True)


def _residential(canvas: Canvas, rng: _Rng) -> None:
    _land(canvas, rng)
    road, gap = near(rng, (150, 148, 145), 15), rng.uniform(0.62, 0.8)
    shift = rng.uniform(-0.3, 0.3)
    for street in np.arange(-2, 3) * gap + shift:
        canvas.box(-_REACH, street - 0.07, _REACH, street + 0.07, road)
        for x in np.arange(-_REACH, _REACH, 0.4) + rng.uniform(0, 0.2):
            for side in (-1, 1):
                roof = tone(rng, hue=(-0.02, 0.1), saturation=(0.15, 0.65), value=(0.4, 0.8))
                y, half, deep = street + side * 0.24, rng.uniform(0.1, 0.15), rng.uniform(0.07, 0.1)
                canvas.box(x - half + 0.03, y - deep + 0.03, x + half + 0.03, y + deep + 0.03, (45, 50, 40))
                canvas.box(x - half, y - deep, x + half, y, roof)
                canvas.box(x - half, y, x + half, y + deep, mix(roof, BLACK, 0.25))
    canvas.box(shift - 0.07, -_REACH, shift + 0.07, _REACH, road)
    _trees(canvas, rng, 18, (0.04, 0.07))


def _woodland(canvas: Canvas, rng: _Rng) -> None:
    _land(canvas, rng, hue=(0.24, 0.34), value=(0.2, 0.32))
    _trees(canvas, rng, 95, (0.12, 0.2))


def _crop_circles(canvas: Canvas, rng: _Rng) -> None:
    ground = _land(canvas, rng, hue=(0.07, 0.16), value=(0.55, 0.78))
    side = rng.uniform(0.55, 0.9)
    for x in np.arange(-_REACH, _REACH + side, side) + rng.uniform(-0.4, 0):
        for y in np.arange(-_REACH, _REACH + side, side) + rng.uniform(-0.1, 0):
            green = tone(rng, hue=(0.12, 0.36), saturation=(0.3, 0.7), value=(0.3, 0.65))
            canvas.ellipse(x, y, 0.46 * side, fill=green)
            if rng.random() < 0.4:
                start = rng.uniform(0, 360)
                wedge = disk(0.46 * side, start=start, stop=start + rng.uniform(60, 180), at=(x, y))
                canvas.polygon([(x, y), *wedge], mix(green, ground, 0.6))
            canvas.stroke([(x, y), (x + 0.44 * side * rng.uniform(-1, 1), y)], mix(green, WHITE, 0.3), 0.02)


def _farmland(canvas: Canvas, rng: _Rng) -> None:
    _land(canvas, rng)
    left = -_REACH
    while left < _REACH:
        width, top = rng.uniform(0.45, 0.9), -_REACH
        while top < _REACH:
            height = rng.uniform(0.35, 0.9)
            crop = tone(rng, hue=(0.08, 0.32), saturation=(0.25, 0.65), value=(0.4, 0.8))
            canvas.box(left, top, left + width - 0.04, top + height - 0.04, crop)
            across, furrow = rng.random() < 0.5, mix(crop, (70, 50, 25), rng.uniform(0.1, 0.4))
            for at in np.arange(0.05, (height if across else width) - 0.07, 0.12):
                if across:
                    canvas.box(left, top + at, left + width - 0.04, top + at + 0.03, furrow)
                else:
                    canvas.box(left + at, top, left + at + 0.03, top + height - 0.04, furrow)
            top += height
        left += width


def _boat(canvas: Canvas, rng: _Rng, x: float, y: float, length: float) -> None:
    hull = np.array([(-0.5, -0.17), (0.2, -0.17), (0.5, 0), (0.2, 0.17), (-0.5, 0.17)]) * length + (x, y)
    canvas.polygon(hull, tone(rng, saturation=(0, 0.3), value=(0.85, 1.0)))
    canvas.box(x - 0.3 * length, y - 0.08 * length, x, y + 0.08 * length, tone(rng, value=(0.4, 0.8)))


def _harbor(canvas: Canvas, rng: _Rng) -> None:
    _land(canvas, rng)
    shore = rng.uniform(-0.7, -0.4)
    canvas.box(shore, -_REACH, _REACH, _REACH, _water(rng))
    canvas.box(shore - 0.3, -_REACH, shore, _REACH, near(rng, (165, 160, 152), 12))
    for y in np.arange(-1.4, 1.4, rng.uniform(0.5, 0.65)) + rng.uniform(0, 0.3):
        end = shore + rng.uniform(0.9, 1.2)
        canvas.box(shore, y - 0.035, end, y + 0.035, near(rng, (170, 150, 120), 12))
        for x in np.arange(shore + 0.2, end, 0.28):
            for side in (-0.14, 0.14):
                if rng.random() < 0.75:
                    _boat(canvas, rng, x, y + side, rng.uniform(0.2, 0.28))


def _airport(canvas: Canvas, rng: _Rng) -> None:
    _land(canvas, rng)
    gray, y = near(rng, _ASPHALT, 7), rng.uniform(-0.5, -0.2)
    canvas.box(-_REACH, y + 0.55, _REACH, y + 0.72, mix(gray, WHITE, 0.2))
    for x in rng.uniform(-0.9, 0.9, 2):
        canvas.box(x - 0.08, y, x + 0.08, y + 0.6, mix(gray, WHITE, 0.2))
    canvas.box(-_REACH, y - 0.24, _REACH, y + 0.24, gray)
    for x in np.arange(-_REACH, _REACH, 0.3):
        canvas.box(x, y - 0.025, x + 0.17, y + 0.025, WHITE)
    threshold = rng.uniform(-0.9, -0.6)
    for stripe in np.linspace(-0.19, 0.15, 6):
        canvas.box(threshold, y + stripe, threshold + 0.25, y + stripe + 0.035, WHITE)
    for x, dy in zip(rng.permutation([-0.7, 0.0, 0.7]), (0.0, 0.64, 0.64), strict=True):
        body = np.array([(0.2, 0), (0.16, 0.03), (0.03, 0.03), (-0.07, 0.19), (-0.11, 0.19), (-0.05, 0.03)])
        tail = np.array([(-0.16, 0.03), (-0.2, 0.09), (-0.23, 0.09), (-0.21, 0)])
        half = np.concatenate([body, tail])
        plane = np.concatenate([half, half[::-1] * (1, -1)]) * rng.uniform(1.0, 1.25)
        canvas.polygon(plane + np.array([x, y + dy]), (245, 246, 248))


def _parking(canvas: Canvas, rng: _Rng) -> None:
    _land(canvas, rng)
    lot = near(rng, (110, 110, 112), 8)
    canvas.box(-_REACH, -_REACH, _REACH, _REACH, lot)
    full, shift = rng.uniform(0.5, 0.9), rng.uniform(0, 0.3)
    for y in np.arange(-1.5, 1.5, 0.46) + shift:
        for x in np.arange(-1.5, 1.5, 0.12):
            canvas.box(x - 0.006, y - 0.1, x + 0.006, y + 0.1, (225, 225, 220))
            if rng.random() < full:
                color = tone(rng, saturation=(0, 0.9), value=(0.15, 1.0))
                canvas.box(x + 0.025, y - 0.085, x + 0.095, y + 0.085, color)


def _coast(canvas: Canvas, rng: _Rng) -> None:
    _land(canvas, rng)
    _trees(canvas, rng, 40)
    line, water = _bend(rng, rng.uniform(0.1, 0.25)), _water(rng)
    sand = tone(rng, hue=(0.1, 0.14), saturation=(0.2, 0.4), value=(0.85, 0.98))
    foam = mix(water, WHITE, 0.75)
    beach = rng.uniform(0.2, 0.4)
    for down, color in ((-beach, sand), (0, foam), (0.06, mix(water, WHITE, 0.25)), (0.3, water)):
        edge = line + np.array([0, down])
        canvas.polygon([*edge, (_REACH, _REACH), (-_REACH, _REACH)], color)


def _dunes(canvas: Canvas, rng: _Rng) -> None:
    sand = _land(canvas, rng, hue=(0.07, 0.12), value=(0.75, 0.95))
    phase, wave = rng.uniform(0, 6), rng.uniform(0.06, 0.14)
    x = np.linspace(-_REACH, _REACH, 40)
    gap = rng.uniform(0.2, 0.34)
    for y in np.arange(-1.6, 1.6, gap):
        crest = np.stack([x, y + wave * np.sin(4 * x + phase + 0.6 * y) + rng.uniform(-0.03, 0.03)], axis=1)
        slip = crest[::-1] + np.array([0, 0.5 * gap]) * (0.6 + 0.4 * np.sin(7 * x[::-1, None] + 3 * y))
        canvas.polygon(np.concatenate([crest, slip]), mix(sand, (120, 70, 30), 0.4))
        canvas.stroke(crest, mix(sand, WHITE, 0.4), 0.03)


def _lake(canvas: Canvas, rng: _Rng) -> None:
    ground = _land(canvas, rng)
    _trees(canvas, rng, int(rng.integers(15, 60)))
    shore, water = _blob(rng) * rng.uniform(0.45, 0.68) + rng.uniform(-0.2, 0.2, 2), _water(rng)
    canvas.outlined(shore, water, mix(ground, (215, 200, 155), 0.6), 0.06)
    canvas.polygon((shore - shore.mean(0)) * 0.7 + shore.mean(0), mix(water, BLACK, 0.15))


def _stadium(canvas: Canvas, rng: _Rng) -> None:
    _land(canvas, rng)
    track = tone(rng, hue=(0.0, 0.05), saturation=(0.5, 0.75), value=(0.6, 0.8))
    wide, high = rng.uniform(0.4, 0.5), rng.uniform(0.42, 0.52)
    rim = np.concatenate([disk(start=-90, stop=90) * high + (wide, 0), disk(start=90, stop=270) * high - (wide, 0)])
    canvas.polygon(rim, track)
    for scale in (0.93, 0.86, 0.79):
        canvas.stroke([*(rim * scale), rim[0] * scale], mix(track, WHITE, 0.5), 0.012)
    grass = tone(rng, hue=(0.25, 0.36), saturation=(0.5, 0.8), value=(0.4, 0.65))
    canvas.polygon(rim * 0.72, grass)
    x, y = 0.95 * wide, 0.5 * high
    canvas.stroke([(-x, -y), (x, -y), (x, y), (-x, y), (-x, -y)], WHITE, 0.02)
    canvas.stroke([(0, -y), (0, y)], WHITE, 0.02)
    canvas.stroke(disk(0.12), WHITE, 0.02)


def _roundabout(canvas: Canvas, rng: _Rng) -> None:
    ground = _land(canvas, rng)
    _trees(canvas, rng, 25)
    asphalt, half, radius = near(rng, _ASPHALT, 7), rng.uniform(0.14, 0.2), rng.uniform(0.5, 0.62)
    x, y = rng.uniform(0.42, 0.58, 2)
    canvas.place(x, y, 0.5, rng.uniform(0, 360))
    for angle in np.radians([0, 90, 180, 270][: rng.integers(3, 5)]) + rng.uniform(-0.15, 0.15):
        far = 2 * np.array([np.cos(angle), np.sin(angle)])
        canvas.stroke([(0, 0), tuple(far)], asphalt, 2 * half)
        canvas.stroke([(0, 0), tuple(far)], (230, 230, 225), 0.025)
    canvas.ellipse(0, 0, radius, fill=asphalt)
    canvas.ellipse(0, 0, 0.58 * radius, fill=(205, 203, 198))
    canvas.ellipse(0, 0, 0.52 * radius, fill=mix(ground, (60, 140, 60), 0.5))
    for angle in rng.uniform(0, 2 * np.pi, rng.integers(1, 4)):
        _cars(canvas, rng, 0.78 * radius * np.cos(angle), 0.78 * radius * np.sin(angle), bool(rng.random() < 0.5))


def _solar(canvas: Canvas, rng: _Rng) -> None:
    _land(canvas, rng, hue=(0.08, 0.3), value=(0.5, 0.7))
    panel = tone(rng, hue=(0.58, 0.66), saturation=(0.5, 0.8), value=(0.2, 0.42))
    high, gap, wide = rng.uniform(0.11, 0.16), rng.uniform(0.08, 0.13), rng.uniform(0.7, 1.1)
    for top in np.arange(-_REACH, _REACH, high + gap):
        for left in np.arange(-_REACH - 0.3, _REACH, wide):
            canvas.box(left, top, left + wide - 0.1, top + high, near(rng, panel, 8))
            canvas.box(left, top, left + wide - 0.1, top + 0.02, mix(panel, WHITE, 0.6))
            for x in np.arange(left + 0.12, left + wide - 0.12, 0.2):
                canvas.box(x, top, x + 0.012, top + high, mix(panel, WHITE, 0.4))


def _tennis(canvas: Canvas, rng: _Rng) -> None:
    _land(canvas, rng)
    _trees(canvas, rng, 25)
    apron = tone(rng, hue=(0.25, 0.62), saturation=(0.35, 0.6), value=(0.35, 0.6))
    hue = rng.choice([0.03, 0.36, 0.6])
    court = tone(rng, hue=(hue - 0.02, hue + 0.02), saturation=(0.5, 0.75), value=(0.5, 0.75))
    high = rng.uniform(0.24, 0.34)
    for y in (-1.3 * high, 1.3 * high) if rng.random() < 0.6 else (0.0,):
        canvas.box(-0.95, y - 1.3 * high, 0.95, y + 1.3 * high, apron)
        canvas.box(-0.7, y - 0.9 * high, 0.7, y + 0.9 * high, court)
        for dy in (-0.9, -0.65, 0.65, 0.9):
            canvas.stroke([(-0.7, y + dy * high), (0.7, y + dy * high)], WHITE, 0.022)
        for x, reach in ((-0.7, 0.9), (0.7, 0.9), (-0.36, 0.65), (0.36, 0.65), (0.0, 1.05)):
            canvas.stroke([(x, y - reach * high), (x, y + reach * high)], WHITE, 0.022)
        canvas.stroke([(-0.36, y), (0.36, y)], WHITE, 0.022)


AERIAL = painted(
    "aerial",
    ("a satellite image of {}.", "an aerial view of {}.", "{} seen from above."),
    {
        "a river": _river,
        "a highway": _highway,
        "a residential area": _residential,
        "dense woodland": _woodland,
        "circular crop fields": _crop_circles,
        "farmland": _farmland,
        "a harbor with boats": _harbor,
        "an airport runway": _airport,
        "a parking lot": _parking,
        "a coastline": _coast,
        "desert dunes": _dunes,
        "a lake": _lake,
        "a running track": _stadium,
        "a roundabout": _roundabout,
        "a solar farm": _solar,
        "tennis courts": _tennis,
    },
)
