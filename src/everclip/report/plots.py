"""Plots of runs as matplotlib figures; equal results give equal bytes.

No function touches pyplot's global state. Colors are from the Okabe-Ito palette, which color-blind readers
can tell apart, and no meaning rests on color alone.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from html import escape
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from everclip.report.losses import Losses
from everclip.storage.files import write_whole
from everclip.system.paths import expanded

LEARNED = "#0072B2"
NOT_YET = "#D55E00"
INK = "#1f2328"
# A name is text, never math: a dataset may be called "$x$".
_STYLE: dict[Any, Any] = {  # matplotlib's own type lists all its keys, of one version
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": False,
    "svg.fonttype": "none",
}
_BLUES = LinearSegmentedColormap.from_list("learned", ["#ffffff", LEARNED])
_ORANGES = LinearSegmentedColormap.from_list("not yet", ["#ffffff", "#E69F00"])
_METRICS = {"transfer": "Transfer", "average": "Average", "last": "Last"}
Point = tuple[float, float, float]
"""A figure with the ends of its bar: value, low, high, in percent."""

_Parameters = ParamSpec("_Parameters")


def _styled(draw: Callable[_Parameters, Figure]) -> Callable[_Parameters, Figure]:
    @wraps(draw)
    def styled(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> Figure:
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


@_styled
def heat_map(results: Mapping[str, Any], candidates: str | None = None) -> Figure:
    """The accuracy matrix: rows after which task, columns on which dataset, the untouched CLIP on top.

    Args:
        results: content of `results.json`.
        candidates: candidate set; the protocol's by default.
    """
    names, figures = _chosen(results, candidates)
    matrix = np.array([figures["zero_shot"], *figures["matrix"]], dtype=float)
    tasks = len(names)
    figure = _figure(1.8 + 0.55 * tasks, 1.3 + 0.32 * (tasks + 1))
    axes = figure.add_subplot()
    learned = np.vstack([np.zeros(tasks, dtype=bool), np.tri(tasks, dtype=bool)])
    for mask, colors in ((~learned, _ORANGES), (learned, _BLUES)):
        shown = np.ma.masked_invalid(np.where(mask, matrix, np.nan))
        axes.imshow(shown, cmap=colors, vmin=0, vmax=130, aspect="auto")  # 130: black text stays readable at 100
    for (i, j), value in np.ndenumerate(matrix):
        axes.text(j, i, "–" if np.isnan(value) else f"{value:.1f}", ha="center", va="center", fontsize=8)
    steps = np.arange(tasks + 1)
    axes.step(steps - 0.5, np.append(steps[1:], tasks) - 0.5, where="post", color=INK, linewidth=1.6)
    axes.set_xlim(-0.5, tasks - 0.5)
    axes.axhline(0.5, color=INK, linewidth=0.8)
    axes.set_xticks(range(tasks), [_short(name) for name in names], rotation=40, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(tasks + 1), ["untouched CLIP", *(f"after {_short(name)}" for name in names)])
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    axes.spines[:].set_visible(False)
    return figure


@_styled
def over_time(results: Mapping[str, Any], candidates: str | None = None) -> Figure:
    """Accuracy of each dataset after every task, one small panel per dataset.

    The dotted level is the untouched CLIP, the dot the moment the dataset is learned; before it the line is
    orange, after it blue.

    Args:
        results: content of `results.json`.
        candidates: candidate set; the protocol's by default.
    """
    names, figures = _chosen(results, candidates)
    matrix = np.array(figures["matrix"], dtype=float)
    tasks = len(names)
    columns = min(tasks, 4 if tasks <= 12 else 6)
    rows = -(-tasks // columns)
    # A layout in fixed inches, because matplotlib's own takes seconds for the 50 panels of a long stream.
    width, height = 0.75 + 2.05 * columns, 0.55 + 1.4 * rows
    figure = Figure(figsize=(width, height), facecolor="white")
    figure.subplots_adjust(0.6 / width, 0.5 / height, 1 - 0.15 / width, 1 - 0.25 / height, 0.12, 0.55)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    moments = np.arange(1, tasks + 1)
    for j, (axes, name) in enumerate(zip(panels, names, strict=False)):
        axes.axhline(figures["zero_shot"][j], color=INK, linestyle=":", linewidth=1)
        axes.plot(moments[: j + 1], matrix[: j + 1, j], color=NOT_YET, linewidth=1.4)
        axes.plot(moments[j:], matrix[j:, j], color=LEARNED, linewidth=1.8)
        axes.plot(moments[j], matrix[j, j], "o", color=LEARNED, markersize=4.5)
        if not np.isnan(matrix[-1, j]) and np.isnan(matrix[:-1, j]).all():
            axes.plot(tasks, matrix[-1, j], "s", color=LEARNED, markersize=4.5)  # one row alone makes no line
        axes.set_title(_short(name))
    for axes in panels[tasks:]:
        axes.set_visible(False)
    for axes in panels[tasks - columns : tasks]:  # the lowest one shown in each column
        axes.tick_params(labelbottom=True)
    panels[0].set_ylim(0, 102)
    panels[0].set_yticks([0, 50, 100])
    panels[0].set_xlim(0.8, tasks + 0.2)
    panels[0].set_xticks(sorted({1, (tasks + 1) // 2, tasks}))
    figure.text(0.6 / width, 0.08 / height, "tasks learned →", fontsize=9)
    figure.text(0.08 / width, 1 - 0.25 / height, "accuracy, %", fontsize=9, rotation=90, va="top")
    return figure


@_styled
def loss_curves(losses: Losses) -> Figure:
    """The loss of a stage over its steps, and under it each of its named parts, where there are several.

    A point is the loss of one step; the thick line is the mean over a twentieth of the stage.
    """
    lines = {"loss": losses.total} | (dict(losses.parts) if len(losses.parts) > 1 else {})
    columns = min(len(lines), 4)
    rows = -(-len(lines) // columns)
    width, height = 0.75 + 2.05 * columns, 0.6 + 1.5 * rows
    figure = Figure(figsize=(width, height), facecolor="white")
    figure.subplots_adjust(0.6 / width, 0.55 / height, 1 - 0.15 / width, 1 - 0.25 / height, 0.35, 0.55)
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).flat
    steps = np.array(losses.steps)
    for axes, (name, values) in zip(panels, lines.items(), strict=False):
        curve = np.array(values, dtype=float)
        known = ~np.isnan(curve)
        dot = "." if known.sum() == 1 else None  # one step alone makes no line
        axes.plot(steps[known], curve[known], color=LEARNED, linewidth=0.7, alpha=0.5, marker=dot)
        axes.plot(steps[known], _smoothed(curve[known]), color=LEARNED, linewidth=1.8)
        axes.set_title(_short(name))
        axes.margins(x=0.02)
    for axes in panels[len(lines) :]:
        axes.set_visible(False)
    figure.text(0.6 / width, 0.08 / height, "steps →", fontsize=9)
    return figure


def _smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over a window of a twentieth of the values (n,), narrower at both ends."""
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    means: NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return means


@_styled
def comparison(points: Sequence[tuple[str, Mapping[str, Point | None]]]) -> Figure:
    """Transfer, Average and Last of several runs as points with bars, one line per run.

    Args:
        points: per run its label and, under "transfer", "average" and "last", a `Point` or None.
    """
    figure = _figure(7.5, 0.8 + 0.3 * len(points))
    panels = figure.subplots(1, len(_METRICS), sharey=True)
    heights = -np.arange(len(points))
    for axes, (metric, title) in zip(panels, _METRICS.items(), strict=True):
        for height, (_, values) in zip(heights, points, strict=True):
            point = values[metric]
            if point is not None:
                value, low, high = point
                axes.plot([low, high], [height, height], color=LEARNED, linewidth=4, alpha=0.35, solid_capstyle="butt")
                axes.plot(value, height, "o", color=LEARNED, markersize=5)
                axes.annotate(
                    f"{value:.1f}",
                    (value, height),
                    (0, 5),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
        axes.set_title(f"{title}, %")
        axes.grid(axis="y", color=INK, alpha=0.12)
        axes.set_axisbelow(True)
        axes.margins(x=0.2)
        axes.tick_params(length=0)
        if not axes.lines:
            axes.set_xticks([])
        axes.spines["left"].set_visible(False)
    panels[0].set_ylim(heights[-1] - 0.6, 0.8)
    panels[0].set_yticks(heights, [_short(label, 40) for label, _ in points])
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as the suffix of `path` says (.svg, .pdf, .png); text in SVG stays text.

    Raises:
        ValueError: matplotlib does not know the suffix.
        OSError: the file cannot be written.
    """
    path = expanded(path)
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    suffix = path.suffix.lower()
    content = io.BytesIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": "everclip"}), _any_script():
        figure.savefig(content, dpi=200, metadata=dates.get(suffix), format=suffix.removeprefix(".") or None)
    write_whole(path if suffix else path.with_name(f"{path.name}.png"), content.getvalue())


def inline_svg(figure: Figure, name: str) -> str:
    """A figure as an `<svg>` element for an HTML page: transparent, in the page's text color.

    Args:
        figure: the plot.
        name: alternative text; unique on the page, since it keeps the element's ids apart from other plots'.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}), _any_script():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    width, height = map(float, re.findall(r'(?:width|height)="([\d.]+)pt"', svg)[:2])
    body = svg[svg.index("</metadata>") + len("</metadata>") :].replace(INK, "currentColor")
    body = re.sub(r'<g id="[^"]*">', "<g>", body)  # nothing refers to groups, and plots would share their ids
    return (
        f'<svg role="img" aria-label="{escape(name)}" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width:{1.2 * width:.0f}pt">{body}'
    )


@contextlib.contextmanager
def _any_script() -> Iterator[None]:
    """Names in scripts that matplotlib's font lacks are no cause for alarm: in SVG the browser draws them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def _chosen(results: Mapping[str, Any], candidates: str | None) -> tuple[list[str], Mapping[str, Any]]:
    names = [dataset["name"] for dataset in results["datasets"]]
    return names, results["by_candidates"][candidates or results["protocol"]["candidates"]]


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _short(name: str, length: int = 22) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
