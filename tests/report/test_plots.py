from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest

from everclip.report import plots

from .invented import build

POINTS = [
    ("first", {"transfer": (40.0, 38.0, 42.0), "average": (50.0, 49.0, 51.0), "last": (61.23, 60.0, 63.0)}),
    ("upper bound", {"transfer": None, "average": None, "last": (80.0, 79.0, 81.0)}),
]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.heat_map(build()),
        lambda: plots.heat_map(build(upper_bound=True), "all"),
        lambda: plots.over_time(build(names=("only",))),
        lambda: plots.over_time(build(names=tuple(f"task {i}" for i in range(5)))),
        lambda: plots.comparison(POINTS),
    ],
)
def test_equal_results_give_equal_bytes(draw, tmp_path):
    before = dict(matplotlib.rcParams)
    for name in ("a.svg", "b.svg"):
        plots.save(draw(), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(("suffix", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_the_suffix_chooses_the_format_and_no_date_is_written(suffix, start, tmp_path):
    plots.save(plots.comparison(POINTS), tmp_path / f"plot.{suffix}")
    content = (tmp_path / f"plot.{suffix}").read_bytes()
    assert content.startswith(start)
    assert b"Date" not in content


def texts(figure, path):
    plots.save(figure, path)
    return [element.text for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_the_heat_map_shows_every_accuracy_as_text(tmp_path):
    results = build(names=("$x_1$", "<b>", "flags"))
    shown = texts(plots.heat_map(results), tmp_path / "heat.svg")
    figures = results["by_candidates"]["task"]
    for row in (figures["zero_shot"], *figures["matrix"]):
        assert {f"{value:.1f}" for value in row} <= set(shown)
    assert {"$x_1$", "<b>", "after flags", "untouched CLIP"} <= set(shown)


def test_candidates_choose_the_matrix(tmp_path):
    results = build()
    last = results["by_candidates"]["all"]["matrix"][-1][0]
    assert f"{last:.1f}" in texts(plots.heat_map(results, "all"), tmp_path / "all.svg")


def test_the_line_of_a_dataset_changes_where_it_is_learned():
    results = build()
    for j, axes in enumerate(plots.over_time(results).axes):
        level, before, after, moment = axes.lines[:4]
        assert level.get_linestyle() == ":"
        assert level.get_ydata()[0] == pytest.approx(results["by_candidates"]["task"]["zero_shot"][j])
        assert list(before.get_xdata()) + list(after.get_xdata())[1:] == [1, 2, 3]
        assert list(moment.get_xdata()) == [j + 1]


def test_the_comparison_labels_points_and_leaves_out_undefined_ones(tmp_path):
    figure = plots.comparison(POINTS)
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 4]
    assert {"61.2", "80.0", "first", "upper bound"} <= set(texts(figure, tmp_path / "c.svg"))


def test_long_names_are_shortened(tmp_path):
    shown = texts(plots.heat_map(build(names=("x" * 80, "digits", "flags"))), tmp_path / "long.svg")
    assert "x" * 21 + "…" in shown


def test_an_inline_plot_takes_the_color_of_the_page():
    svg = plots.inline_svg(plots.comparison(POINTS), 'a "name"')
    assert plots.INK not in svg
    assert "currentColor" in svg
    assert 'aria-label="a &quot;name&quot;"' in svg
