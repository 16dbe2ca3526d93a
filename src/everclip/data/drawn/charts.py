"""Charts and diagrams without any text, in light and dark themes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from everclip.data.drawn.canvas import BLACK, WHITE, Canvas, Color, disk, ground_and_ink, mix, near, regular, tone
from everclip.data.drawn.domain import painted


@dataclass(frozen=True)
class _Sheet:
    """An empty chart: its paper, the color of axes and lines, and colors of the data that go together."""

    paper: Color
    ink: Color
    colors: tuple[Color, ...]


def _sheet(canvas: Canvas, rng: np.random.Generator) -> _Sheet:
    """Start a chart; from here on the plotting area is [-1, 1] x [-1, 1]."""
    paper, ink = ground_and_ink(rng)
    paper = mix(paper, WHITE if sum(paper) > sum(ink) else BLACK, 0.5)
    canvas.fill(paper)
    start, step = rng.random(), rng.choice([0.06, 0.21, 0.38])
    saturation, value = rng.uniform(0.5, 0.95), rng.uniform(0.65, 0.95)
    hues = start + step * np.arange(6)
    colors = tuple(tone(rng, (hue, hue), (saturation, saturation), (value, value)) for hue in hues)
    x, y = rng.uniform(0.46, 0.54, 2)
    canvas.place(x, y, rng.uniform(0.36, 0.43), rng.uniform(-3, 3), rng.uniform(0.88, 1.14))
    return _Sheet(paper, ink, colors)


def _axes(canvas: Canvas, rng: np.random.Generator, sheet: _Sheet) -> None:
    if rng.random() < 0.5:
        for at in np.linspace(-1, 1, int(rng.integers(4, 7)))[:-1]:
            canvas.stroke([(-1, at), (1, at)], mix(sheet.paper, sheet.ink, 0.2), 0.02)
    width = rng.uniform(0.04, 0.07)
    canvas.stroke([(-1, -1), (-1, 1), (1, 1)], sheet.ink, width)
    if rng.random() < 0.5:
        for at in np.linspace(-0.8, 0.8, 5):
            canvas.stroke([(-1.08, at), (-1, at)], sheet.ink, 0.03)
            canvas.stroke([(at, 1), (at, 1.08)], sheet.ink, 0.03)


def _walk(rng: np.random.Generator, count: int, low: float = -0.85, high: float = 0.85) -> np.ndarray:
    """Points (count, 2) from left to right whose heights wander and fill [low, high]."""
    y = np.cumsum(rng.normal(size=count))
    y = low + (y - y.min()) / (np.ptp(y) + 1e-9) * (high - low)
    return np.stack([np.linspace(-0.92, 0.95, count), y], axis=1)


def _bars(canvas: Canvas, rng: np.random.Generator, horizontal: bool = False, layers: int = 1) -> None:
    sheet = _sheet(canvas, rng)
    _axes(canvas, rng, sheet)
    count = int(rng.integers(3, 7))
    wide = 1.8 / count
    varied = rng.random() < 0.5
    for bar in range(count):
        left, right = -0.9 + bar * wide, -0.9 + (bar + rng.uniform(0.6, 0.72)) * wide
        ends = 1 - np.cumsum([0, *rng.uniform(0.3, 1.85, layers) / layers * rng.uniform(0.7, 1)])
        for layer in range(layers):
            color = sheet.colors[2 * layer if layers > 1 else bar * varied]
            if horizontal:
                canvas.box(-ends[layer], left, -ends[layer + 1], right, color)
            else:
                canvas.box(left, ends[layer + 1], right, ends[layer], color)


def _bar_chart(canvas: Canvas, rng: np.random.Generator) -> None:
    _bars(canvas, rng)


def _horizontal_bars(canvas: Canvas, rng: np.random.Generator) -> None:
    _bars(canvas, rng, horizontal=True)


def _stacked_bars(canvas: Canvas, rng: np.random.Generator) -> None:
    _bars(canvas, rng, layers=3)


def _histogram(canvas: Canvas, rng: np.random.Generator) -> None:
    sheet = _sheet(canvas, rng)
    _axes(canvas, rng, sheet)
    edges = np.linspace(-0.95, 0.95, int(rng.integers(11, 18)))
    center, spread = rng.uniform(-0.3, 0.3), rng.uniform(0.3, 0.5)
    for left, right in pairwise(edges):
        height = 1.8 * np.exp(-(((left + right) / 2 - center) ** 2) / (2 * spread**2)) * rng.uniform(0.82, 1)
        canvas.box(left, 1 - height, right - 0.015, 1, sheet.colors[0])


def _slices(canvas: Canvas, rng: np.random.Generator) -> _Sheet:
    sheet = _sheet(canvas, rng)
    shares = rng.uniform(0.4, 1.6, int(rng.integers(3, 7)))
    ends = rng.uniform(0, 360) + 360 * np.cumsum([0, *shares]) / shares.sum()
    border = rng.random() < 0.5
    for start, stop, color in zip(ends, ends[1:], sheet.colors, strict=False):
        canvas.polygon([(0, 0), *disk(0.98, start=start, stop=stop)], color)
        if border:
            canvas.stroke([(0, 0), tuple(disk(0.98, start=start, stop=stop)[0])], sheet.paper, 0.05)
    return sheet


def _pie(canvas: Canvas, rng: np.random.Generator) -> None:
    _slices(canvas, rng)


def _donut(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.ellipse(0, 0, rng.uniform(0.45, 0.62), fill=_slices(canvas, rng).paper)


def _line_chart(canvas: Canvas, rng: np.random.Generator) -> None:
    sheet = _sheet(canvas, rng)
    _axes(canvas, rng, sheet)
    marked, width = rng.random() < 0.5, rng.uniform(0.05, 0.09)
    for color in sheet.colors[: rng.integers(1, 4)]:
        points = _walk(rng, int(rng.integers(6, 12)), *np.sort(rng.uniform(-0.9, 0.9, 2)))
        canvas.stroke(points, color, width)
        for x, y in points if marked else ():
            canvas.ellipse(x, y, 0.08, fill=color)


def _area_chart(canvas: Canvas, rng: np.random.Generator) -> None:
    sheet = _sheet(canvas, rng)
    _axes(canvas, rng, sheet)
    for layer, top in enumerate((-0.9, -0.1)[: rng.integers(1, 3)]):
        crest = _walk(rng, int(rng.integers(6, 12)), top, 0.35 + 0.4 * layer)
        canvas.polygon([*crest, (0.95, 1), (-0.95, 1)], mix(sheet.colors[2 * layer], sheet.paper, 0.2))
        canvas.stroke(crest, sheet.colors[2 * layer], 0.05)


def _scatter(canvas: Canvas, rng: np.random.Generator) -> None:
    sheet = _sheet(canvas, rng)
    _axes(canvas, rng, sheet)
    slope, spread = rng.uniform(-0.8, 0.8), rng.uniform(0.12, 0.3)
    groups = rng.integers(1, 4)
    for index, x in enumerate(rng.uniform(-0.85, 0.9, int(rng.integers(25, 45)))):
        y = np.clip(slope * x + spread * rng.normal(), -0.95, 0.9)
        canvas.ellipse(x, y, 0.065, fill=sheet.colors[index % groups])


def _bubbles(canvas: Canvas, rng: np.random.Generator) -> None:
    sheet = _sheet(canvas, rng)
    _axes(canvas, rng, sheet)
    for color in (*sheet.colors, *sheet.colors[: rng.integers(0, 4)]):
        x, y = rng.uniform(-0.7, 0.75, 2)
        radius = rng.uniform(0.1, 0.32)
        canvas.ellipse(x, y, radius, fill=mix(color, sheet.ink, 0.3))
        canvas.ellipse(x, y, 0.88 * radius, fill=mix(color, sheet.paper, 0.25))


def _box_plot(canvas: Canvas, rng: np.random.Generator) -> None:
    sheet = _sheet(canvas, rng)
    _axes(canvas, rng, sheet)
    count = int(rng.integers(3, 6))
    for index, x in enumerate(np.linspace(-0.95, 1, 2 * count + 1)[1::2]):
        low, first, middle, third, high = np.sort(rng.uniform(-0.9, 0.85, 5)) + 0.04 * np.arange(-2, 3)
        half = 0.6 / count
        canvas.stroke([(x, low), (x, high)], sheet.ink, 0.035)
        for y in (low, high):
            canvas.stroke([(x - 0.5 * half, y), (x + 0.5 * half, y)], sheet.ink, 0.035)
        canvas.box(x - half, first - 0.06, x + half, third + 0.06, sheet.colors[index])
        canvas.stroke([(x - half, middle), (x + half, middle)], sheet.ink, 0.055)


def _heat_map(canvas: Canvas, rng: np.random.Generator) -> None:
    sheet = _sheet(canvas, rng)
    count = int(rng.integers(5, 9))
    hue = rng.random()
    cold = tone(rng, (hue, hue), value=(0.2, 0.45))
    hot = tone(rng, (hue + 0.2, hue + 0.5), saturation=(0.2, 0.9), value=(0.9, 1.0))
    side, warm = 2 / count, rng.uniform(0, count, 2)
    for row in range(count):
        for column in range(count):
            heat = 1.2 * np.exp(-np.hypot(row - warm[0], column - warm[1]) / 4) + rng.uniform(-0.25, 0.25)
            left, top, gap = -1 + column * side, -1 + row * side, 0.02
            color = mix(cold, hot, float(np.clip(heat, 0, 1)))
            canvas.box(left, top, left + side - gap, top + side - gap, color)
    if rng.random() < 0.5:
        canvas.stroke([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)], sheet.ink, 0.03)


def _radar(canvas: Canvas, rng: np.random.Generator) -> None:
    sheet = _sheet(canvas, rng)
    corners = int(rng.integers(5, 8))
    rim = regular(corners)
    for scale in (1.0, 0.75, 0.5, 0.25):
        canvas.stroke([*(rim * scale), rim[0] * scale], mix(sheet.paper, sheet.ink, 0.45), 0.025)
    for x, y in rim:
        canvas.stroke([(0, 0), (x, y)], mix(sheet.paper, sheet.ink, 0.45), 0.025)
    data = rim * rng.uniform(0.35, 0.95, (corners, 1))
    canvas.polygon(data, mix(sheet.colors[0], sheet.paper, 0.25))
    canvas.stroke([*data, data[0]], sheet.colors[0], 0.07)


def _candles(canvas: Canvas, rng: np.random.Generator) -> None:
    sheet = _sheet(canvas, rng)
    _axes(canvas, rng, sheet)
    path = _walk(rng, int(rng.integers(9, 14)), -0.7, 0.7)
    half = 0.62 / len(path)
    for (x, start), (_, stop) in pairwise(path):
        color = near(rng, (30, 160, 80) if stop < start else (215, 50, 50), 12)
        low, high = min(start, stop) - rng.uniform(0.08, 0.22), max(start, stop) + rng.uniform(0.08, 0.22)
        canvas.stroke([(x, low), (x, high)], color, 0.03)
        canvas.box(x - half, min(start, stop) - 0.03, x + half, max(start, stop) + 0.03, color)


def _venn(canvas: Canvas, rng: np.random.Generator) -> None:
    sheet = _sheet(canvas, rng)
    count = int(rng.integers(2, 4))
    centers = regular(3, 0.42) if count == 3 else np.array([(-0.36, 0.0), (0.36, 0.0)])
    radius = rng.uniform(0.54, 0.62)
    first, second, third = (mix(color, sheet.paper, 0.3) for color in sheet.colors[:3])
    for (x, y), color in zip(centers, (first, second, third), strict=False):
        canvas.ellipse(x, y, radius, fill=color)
    for one in range(count):
        for other in range(one):
            # Two circles overlap in a lens, whose tips lie halfway between the centers.
            apart = centers[one] - centers[other]
            half, tilt = np.degrees(np.arccos(np.hypot(*apart) / 2 / radius)), np.degrees(np.arctan2(*apart[::-1]))
            right = disk(radius, start=tilt - half, stop=tilt + half, at=tuple(centers[other]))
            left = disk(radius, start=tilt + 180 - half, stop=tilt + 180 + half, at=tuple(centers[one]))
            canvas.polygon(np.concatenate([right, left]), mix(sheet.colors[one], sheet.colors[other], 0.5))
    for x, y in centers[:count]:
        canvas.stroke(disk(radius, at=(x, y)), sheet.ink, 0.03)


def _network(canvas: Canvas, rng: np.random.Generator) -> None:
    sheet = _sheet(canvas, rng)
    count = int(rng.integers(7, 11))
    cells = rng.permutation(12)[:count]
    nodes = np.stack([cells % 4 / 1.5 - 1, cells // 4 - 1.0], axis=1) * 0.85 + rng.uniform(-0.14, 0.14, (count, 2))
    for index in range(1, count):
        gaps = np.linalg.norm(nodes[:index] - nodes[index], axis=1)
        for other in np.argsort(gaps)[: rng.integers(1, 4)]:
            canvas.stroke([nodes[index], nodes[other]], mix(sheet.paper, sheet.ink, 0.6), 0.035)
    for index, (x, y) in enumerate(nodes):
        canvas.ellipse(x, y, rng.uniform(0.11, 0.2), fill=sheet.colors[index % 3])


def _tree_diagram(canvas: Canvas, rng: np.random.Generator) -> None:
    sheet = _sheet(canvas, rng)
    branches, boxes = int(rng.integers(2, 4)), rng.random() < 0.6
    middle = [(x, 0.0) for x in np.linspace(-0.65, 0.65, branches)]
    leaves = [(x + dx, 0.82) for x, _ in middle for dx in np.array([-0.5, 0.5]) * 1.15 / branches]
    line = mix(sheet.paper, sheet.ink, 0.7)
    for child, parent in [
        *((m, (0.0, -0.82)) for m in middle),
        *((leaf, middle[i // 2]) for i, leaf in enumerate(leaves)),
    ]:
        halfway = (child[1] + parent[1]) / 2
        canvas.stroke(
            [parent, (parent[0], halfway), (child[0], halfway), child] if boxes else [parent, child], line, 0.04
        )
    for level, points in enumerate(([(0.0, -0.82)], middle, leaves)):
        for x, y in points:
            half = 0.25 / branches if level == 2 else 0.16
            if boxes:
                canvas.box(x - half, y - 0.13, x + half, y + 0.13, sheet.colors[level])
            else:
                canvas.ellipse(x, y, half, fill=sheet.colors[level])


CHARTS = painted(
    "charts",
    ("a slide with a {}.", "a simple {}.", "a picture of a {}."),
    {
        "bar chart": _bar_chart,
        "horizontal bar chart": _horizontal_bars,
        "stacked bar chart": _stacked_bars,
        "histogram": _histogram,
        "pie chart": _pie,
        "donut chart": _donut,
        "line chart": _line_chart,
        "area chart": _area_chart,
        "scatter plot": _scatter,
        "bubble chart": _bubbles,
        "box plot": _box_plot,
        "heat map": _heat_map,
        "radar chart": _radar,
        "candlestick chart": _candles,
        "Venn diagram": _venn,
        "network graph": _network,
        "tree diagram": _tree_diagram,
    },
    noise=5.0,
    light=0.12,
)
