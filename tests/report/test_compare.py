from __future__ import annotations

import csv
import io
import re
import statistics

import pytest
from rich.console import Console

from everclip.errors import InputError
from everclip.report import compare

from .invented import build


def test_runs_become_rows_in_their_order_with_upper_bounds_last(make_run):
    rows = compare(
        [make_run("j", method="joint", upper_bound=True), make_run("b", method="b"), make_run("a", method="a")]
    ).rows
    assert [(row.label, row.upper_bound) for row in rows] == [("b", False), ("a", False), ("joint", True)]
    results = build(method="a")
    assert rows[1].values["average"].mean == results["average"]
    assert rows[1].values["average"].interval == tuple(results["ci95"]["average"])
    assert rows[1].values["last_above_chance"].mean == results["above_chance"]["last"]
    assert rows[2].values["transfer"] is None


def test_seeds_become_one_row(make_run):
    (row,) = compare([make_run(f"run{seed}", seed=seed) for seed in (2, 0, 1)]).rows
    figures = [build(seed=seed)["transfer"] for seed in range(3)]
    assert row.seeds == (2, 0, 1)
    assert row.values["transfer"].mean == pytest.approx(statistics.mean(figures))
    assert row.values["transfer"].std == pytest.approx(statistics.stdev(figures))
    assert row.values["transfer"].interval is None


def test_settings_make_rows_of_their_own_and_name_them(make_run):
    rows = compare(
        [make_run("a", settings={"top_k": 1, "experts": 6}), make_run("b", settings={"top_k": 2, "experts": 6})]
    ).rows
    assert [row.label for row in rows] == ["finetune (top_k=1)", "finetune (top_k=2)"]


def test_the_same_run_counts_once(make_run):
    run = make_run("a")
    with pytest.raises(InputError, match="seed 0"):
        compare([run, run])


def test_protocols_that_differ_are_refused_by_field_and_value(make_run):
    runs = [make_run("a"), make_run("b", routing="batch", shots=5)]
    with pytest.raises(InputError) as raised:
        compare(runs)
    message = str(raised.value)
    for part in ("routing (sample in", "batch in", "shots (null in", "5 in", str(runs[0]), str(runs[1]), "--mix"):
        assert part in message
    assert "seed" not in message
    assert raised.value.exit_code == 2


def test_a_field_that_one_protocol_lacks_differs(make_run):
    with pytest.raises(InputError, match=r"extra \(null in .*, 1 in"):
        compare([make_run("a"), make_run("b", extra=1)])


def test_other_weights_and_missing_test_images_are_refused(make_run):
    runs = [make_run("a"), make_run("b")]
    file = runs[1] / "results.json"
    text = file.read_text()
    file.write_text(text.replace('"000000000000"', '"f00000000000"'))
    with pytest.raises(InputError, match="backbone digest"):
        compare(runs)
    file.write_text(text.replace('"test": 120', '"test": 119'))
    with pytest.raises(InputError, match=r"test images \(390 in .*, 389 in"):
        compare(runs)


def test_mixing_shows_the_fields_and_ranks_nothing(make_run):
    comparison = compare([make_run("a"), make_run("b", routing="batch")], mix=True)
    assert [row.fields for row in comparison.rows] == [{"routing": "sample"}, {"routing": "batch"}]
    assert "routing" not in comparison.protocol
    assert comparison.best("last") == []
    assert "routing" in comparison.csv().splitlines()[0]
    assert "textbf" not in comparison.latex()


def test_candidates_are_chosen_for_all(make_run):
    runs = [make_run("a", method="a"), make_run("b", method="b", candidates="all")]
    with pytest.raises(InputError, match=r"candidates \(task in .*--candidates"):
        compare(runs)
    comparison = compare(runs, candidates="seen")
    expected = build(method="a")["by_candidates"]["seen"]["last"]
    assert comparison.rows[0].values["last"].mean == expected
    assert comparison.protocol["candidates"] == "seen"
    with pytest.raises(InputError, match="choose one of task, seen, all"):
        compare(runs, candidates="every")


def test_nothing_to_compare():
    with pytest.raises(InputError, match="at least one"):
        compare([])


def test_the_best_figure_is_bold_and_an_upper_bound_never_is(make_run):
    comparison = compare(
        [
            make_run("a", method="a", draw=1),
            make_run("b", method="b", draw=2),
            make_run("c", method="c", draw=2),  # as good as b
            make_run("j", method="joint", upper_bound=True),
        ]
    )
    means = {row.label: round(row.values["last"].mean, 1) for row in comparison.rows if not row.upper_bound}
    winners = {label for label, mean in means.items() if mean == max(means.values())}
    assert {row.label for row in comparison.best("last")} == winners
    for line in comparison.latex().splitlines():
        if line.startswith("joint"):
            assert "textbf" not in line
    assert comparison.latex().count(r"\textbf") == sum(len(comparison.best(name)) for name in comparison.rows[0].values)


def test_csv_has_full_precision(make_run):
    comparison = compare([make_run("a", method='a, "b"'), make_run("j", method="joint", upper_bound=True)])
    first, second = csv.DictReader(io.StringIO(comparison.csv()))
    value = comparison.rows[0].values["average_above_chance"]
    assert first["method"] == 'a, "b"'
    assert float(first["average_above_chance"]) == value.mean
    assert (float(first["average_above_chance_low"]), float(first["average_above_chance_high"])) == value.interval
    assert first["average_std"] == second["transfer"] == second["transfer_low"] == ""
    assert (first["upper_bound"], second["upper_bound"]) == ("false", "true")


def test_latex_is_a_booktabs_table_of_equal_lines(make_run):
    comparison = compare(
        [
            make_run("a", method="[a_b] & 100 % <$x$>", seed=0),
            make_run("a2", method="[a_b] & 100 % <$x$>", seed=1),
            make_run("j", method="joint", upper_bound=True),
        ]
    )
    latex = comparison.latex()
    assert r"{[}a\_b] \& 100 \% \textless{}\$x\$\textgreater{} & 0 1 & " in latex
    value = comparison.rows[0].values["transfer"]
    assert rf"{value.mean:.1f}}} {{\scriptsize $\pm$ {value.std:.1f}}}" in latex
    columns = len(re.search(r"\\begin{tabular}{(\w+)}", latex)[1])
    for line in latex.splitlines():
        if line.endswith(r"\\") and "multicolumn" not in line:
            assert len(re.findall(r"(?<!\\)&", line)) == columns - 1
    # One rule under the heads, one above the upper bound.
    assert latex.count(r"\midrule") == 2
    assert latex.startswith(r"\begin{tabular}")
    assert latex.endswith("\\bottomrule\n\\end{tabular}\n")


def test_the_terminal_table_prints_names_as_they_are(make_run):
    console = Console(width=80, record=True, file=io.StringIO())
    comparison = compare([make_run("a", method="[red]a[/red]"), make_run("j", method="joint", upper_bound=True)])
    console.print(comparison.table())
    printed = console.export_text()
    value = comparison.rows[0].values["last"]
    for part in ("[red]a[/red]", f"{value.mean:.1f}", f"{value.interval[0]:.1f}–{value.interval[1]:.1f}", "–"):
        assert part in printed
    assert "candidates task" in printed


def test_the_plot_has_a_line_per_row(make_run):
    comparison = compare([make_run("j", method="joint", upper_bound=True), make_run("b", method="b")])
    labels = [label.get_text() for label in comparison.plot().axes[0].get_yticklabels()]
    assert labels == ["b", "joint · upper bound"]


def test_the_route_matters_only_to_runs_that_choose_one(make_run) -> None:
    """No routes, or told: both stand beside any selector, and the runs that were told are set apart."""
    chosen = make_run("chosen", method="moe-adapters", selector="gaussian")
    told = make_run("told", method="moe-adapters", selector="oracle", upper_bound=True)
    plain = make_run("plain", method="finetune", selector="prototype", routed=False)
    comparison = compare([told, plain, chosen])
    assert [row.label for row in comparison.rows] == ["finetune", "moe-adapters (gaussian)", "moe-adapters (oracle)"]
    assert comparison.protocol["selector"] == "gaussian"
    other = make_run("other", method="moe-adapters", selector="prototype")
    with pytest.raises(InputError, match=r"selector \(gaussian in .*chosen, prototype in .*other\)"):
        compare([plain, chosen, other])
