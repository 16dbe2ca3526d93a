"""What the outdoor scenes are made of: sky, hills, water, trees and towers, in unit coordinates."""

from __future__ import annotations

import numpy as np

from everclip.data.drawn.canvas import WHITE, Canvas, Color, Span, mix, near, tone


def sky(canvas: Canvas, rng: np.random.Generator, horizon: float, clouds: bool = True) -> Color:
    """A day sky down to y = `horizon`; returns the color of the haze above it."""
    top = tone(rng, hue=(0.53, 0.62), saturation=(0.3, 0.75), value=(0.7, 1.0))
    haze = mix(top, tone(rng, hue=(0.05, 0.6), saturation=(0, 0.3), value=(0.9, 1.0)), rng.uniform(0.5, 0.8))
    canvas.gradient(top, haze, 0, horizon)
    if rng.random() < 0.4:
        canvas.ellipse(rng.random(), rng.uniform(0.06, 0.3), rng.uniform(0.05, 0.09), fill=(255, 244, 190))
    for _ in range(rng.integers(0, 4) if clouds else 0):
        x, y, wide = rng.random(), rng.uniform(0.05, 0.6 * horizon), rng.uniform(0.06, 0.12)
        for dx in (-0.9, 0, 0.8):
            canvas.ellipse(x + dx * wide, y, wide, 0.45 * wide, fill=near(rng, mix(haze, WHITE, 0.8), 5))
    return haze


def ridge(
    canvas: Canvas, rng: np.random.Generator, base: float, height: float, color: Color, jags: int = 9
) -> np.ndarray:
    """A jagged outline from left to right, filled below; returns its crest (K, 2)."""
    crest = base - height * rng.random(jags) * np.where(np.arange(jags) % 2, 1.0, 0.45)
    points = np.stack([np.linspace(-0.05, 1.05, jags), crest], axis=1)
    canvas.polygon(np.concatenate([points, [(1.05, 1.05), (-0.05, 1.05)]]), color)
    return points


def hill(canvas: Canvas, rng: np.random.Generator, base: float, height: float, color: Color) -> None:
    """A smooth rolling horizon, filled below."""
    x = np.linspace(0, 1, 24)
    y = base - height * (0.5 + 0.5 * np.sin(rng.uniform(2, 5) * x + rng.uniform(0, 6)))
    canvas.polygon(np.concatenate([np.stack([x, y], axis=1), [(1, 1.05), (0, 1.05)]]), color)


def grass(rng: np.random.Generator, value: Span = (0.4, 0.75)) -> Color:
    """A random green of plants."""
    return tone(rng, hue=(0.2, 0.36), saturation=(0.4, 0.8), value=value)


def ripples(canvas: Canvas, rng: np.random.Generator, top: float, bottom: float, color: Color, count: int = 14) -> None:
    """Short level lines on water, anywhere between y = `top` and y = `bottom`."""
    for _ in range(count):
        x, y, wide = rng.random(), rng.uniform(top, bottom), rng.uniform(0.04, 0.15)
        canvas.stroke([(x - wide, y), (x + wide, y)], color, 0.008)


def pine(canvas: Canvas, x: float, foot: float, height: float, color: Color) -> None:
    """A conifer of the given height whose trunk stands at (x, foot)."""
    canvas.box(x - 0.04 * height, foot - 0.2 * height, x + 0.04 * height, foot, (80, 50, 30))
    for level in range(3):
        low, half = foot - (0.12 + 0.25 * level) * height, (0.3 - 0.07 * level) * height
        canvas.polygon([(x - half, low), (x, low - 0.45 * height), (x + half, low)], mix(color, WHITE, 0.06 * level))


def palm(canvas: Canvas, rng: np.random.Generator, x: float, foot: float, height: float) -> None:
    """A leaning palm of the given height whose trunk stands at (x, foot)."""
    lean = rng.uniform(-0.3, 0.3) * height
    crown = np.array([x + lean, foot - height])
    canvas.stroke([(x, foot), (x + 0.3 * lean, foot - 0.6 * height), tuple(crown)], (110, 75, 40), 0.09 * height)
    for angle in np.radians(np.arange(150, 400, 42) + rng.uniform(-10, 10)):
        tip = crown + height * np.array([0.45 * np.cos(angle), 0.3 * np.sin(angle) + 0.1])
        bend = crown + height * np.array([0.25 * np.cos(angle), 0.3 * np.sin(angle) - 0.05])
        canvas.stroke([tuple(crown), tuple(bend), tuple(tip)], grass(rng, (0.35, 0.55)), 0.08 * height)


def buildings(
    canvas: Canvas, rng: np.random.Generator, base: float, wall: Color, lit: Span, window: Color, dark: Color
) -> None:
    """A row of towers with windows; of the windows, a share drawn from `lit` is `window`, the rest `dark`."""
    left = rng.uniform(-0.1, 0.0)
    while left < 1:
        width, top = rng.uniform(0.11, 0.2), base - rng.uniform(0.2, 0.6)
        canvas.box(left, top, left + width, base, near(rng, wall, 25))
        share = rng.uniform(*lit)
        for x in np.arange(left + 0.02, left + width - 0.03, 0.042):
            for y in np.arange(top + 0.03, base - 0.03, 0.055):
                canvas.box(x, y, x + 0.022, y + 0.03, window if rng.random() < share else dark)
        left += width + rng.uniform(-0.01, 0.03)
