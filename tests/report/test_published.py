"""The published rows, alone and beside runs of ours."""

from __future__ import annotations

import csv
import io
import statistics
from pathlib import Path

import pytest
from rich.console import Console

from everclip.errors import InputError
from everclip.report import compare
from everclip.report.published import Benchmark, benchmarks, overview, read_benchmark
from everclip.report.table import HEADLINE
from everclip.streams import GROUPS, PUBLISHED_STREAMS

from .invented import build

TASKS = GROUPS["mtil"]
PUBLISHED = {
    "stream": "mtil-1", "backbone": "ViT-B-16/openai", "validation": 0.0, "evaluate_on": "test", "routing": "batch",
    "templates": "ensemble", "splits": "torchvision", "resolution": None, "names": TASKS,
}  # fmt: skip
"""What `make_run` is given for a run under the protocol of mtil-1; its test images are invented."""


def printed(renderable: object, width: int = 200) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


@pytest.mark.parametrize("benchmark", benchmarks().values(), ids=lambda benchmark: benchmark.name)
def test_what_is_on_record_is_in_order(benchmark: Benchmark):
    assert benchmark.protocol["stream"] in PUBLISHED_STREAMS
    last = [row.values["last"] or 0 for row in benchmark.rows]
    assert last == sorted(last, reverse=True)
    tasks = len(TASKS)
    for row in benchmark.rows:
        assert all(value is None or 0 < value < 100 for value in row.values.values())
        assert all(len(figures) == tasks for figures in row.per_dataset.values())
        for name, figures in row.per_dataset.items():
            known = [figure for figure in figures if figure is not None]
            assert statistics.fmean(known) == pytest.approx(row.values[name], abs=0.1)
    text = printed(benchmark.table())
    assert all(row.method in text for row in benchmark.rows)
    assert ("transfer" in text) == (not benchmark.protocol["stream"].startswith(("cifar", "tiny")))
    assert benchmark.name in printed(overview())


@pytest.mark.parametrize("order", ["1", "2"])
def test_figures_per_dataset_are_those_of_the_published_matrices(order: str):
    theirs = {"continual_ft": "finetune", "zscl_star": "zscl*"}
    rows = {row.method: row for row in read_benchmark(f"mtil-{order}").rows if row.per_dataset}
    checked = set()
    with (Path(__file__).parents[1] / "golden" / "metrics_summary.csv").open() as file:
        for line in csv.DictReader(file):
            method = theirs.get(line["method"], line["method"].replace("_", "-"))
            if line["order"] != order or method not in rows:
                continue
            metric = {"avg": "average"}.get(line["metric"], line["metric"])
            figures = [line[f"position{place}"] for place in range(1, 12)]
            expected = [round(float(figure), 1) if figure else None for figure in figures]
            assert rows[method].per_dataset[metric] == expected
            assert rows[method].values[metric] == pytest.approx(float(line["mean"]), abs=0.06)
            checked.add((method, metric))
    assert len(checked) == 3 * len(rows) == 24


def test_an_unknown_benchmark_lists_those_there_are():
    with pytest.raises(InputError, match=r"'xtail'; choose one of mtil-1, mtil-2, .*xtail-1"):
        read_benchmark("xtail")


def test_runs_stand_among_the_published_rows(make_run):
    runs = [make_run(f"run{seed}", method="zscl", seed=seed, **PUBLISHED) for seed in range(2)]
    upper = make_run("joint", method="joint", upper_bound=True, **PUBLISHED)
    comparison = compare([*runs, upper], published="mtil-1")
    labels = [row.label for row in comparison.rows]
    assert labels[-1] == "joint"
    assert {"zscl", "zscl, published", "moe-adapters, published"} < set(labels)
    last = [row.values["last"].mean for row in comparison.rows[:-1]]
    assert last == sorted(last, reverse=True)
    (best,) = comparison.best("last")
    assert best.label == "dpw, published"
    ours = next(row for row in comparison.rows if row.label == "zscl")
    figures = [build(method="zscl", seed=seed, names=TASKS)["per_dataset"]["dtd"]["last"] for seed in range(2)]
    assert ours.by_dataset["last"]["dtd"].mean == pytest.approx(statistics.fmean(figures))
    assert ours.by_dataset["last"]["dtd"].std == pytest.approx(statistics.stdev(figures))
    assert ours.by_dataset["transfer"]["aircraft"] is None


def test_what_published_rows_cost_is_not_known(make_run):
    comparison = compare([make_run("a", method="zscl", **PUBLISHED)], published="mtil-1", costs=True)
    rows = list(csv.reader(io.StringIO(comparison.csv())))
    assert len({len(row) for row in rows}) == 1
    trained = rows[0].index("trained_per_task")
    assert {row[0] for row in rows[1:] if row[trained]} == {"zscl"}
    assert "published" not in printed(comparison.table_of_costs())


def test_the_layout_of_the_field(make_run):
    comparison = compare([make_run("a", method="zscl", **PUBLISHED)], published="mtil-1")
    tables = comparison.tables_by_dataset()
    assert [table.title for table in tables] == ["Transfer", "Average", "Last"]
    for table in tables:
        text = printed(table)
        assert all(name in text for name in ("eurosat", "sun397", "zscl, published", "mean"))
        assert "dpw" not in text, "never published by dataset"
    assert "81.1" in next(line for line in printed(tables[2]).splitlines() if "finetune, published" in line)
    rows = list(csv.DictReader(io.StringIO(comparison.csv())))
    assert not [name for name in rows[0] if "above_chance" in name]
    (zscl,) = (row for row in rows if row["method"] == "zscl, published")
    assert (zscl["transfer"], zscl["seeds"], zscl["last_low"]) == ("68.1", "", "")
    latex = comparison.latex()
    assert r"Method & Seeds & Transfer & Average & Last \\" in latex
    assert r"icarl, published &  & 50.4 & 65.7 & 80.1 \\" in latex
    assert "dpw, published" in [label.get_text() for label in comparison.plot().axes[0].get_yticklabels()]


def test_without_published_rows_nothing_is_laid_out_by_dataset(make_run):
    assert compare([make_run("a")]).tables_by_dataset() == []


def test_departures_from_the_published_protocol_are_a_line_each(make_run):
    one = make_run("one", method="moe-adapters", **PUBLISHED)
    notes = compare([one], published="mtil-1").notes
    own = sum(120 + 10 * place for place in range(len(TASKS)))
    assert notes[0] == f"test images: {own} here, 97209 in the published rows"
    assert len(notes) == 2
    assert notes[1].startswith("sun397 is split")
    other = make_run("other", method="moe-adapters", **PUBLISHED | {"routing": "sample", "shots": 5})
    text = printed(compare([one, other], mix=True, published="mtil-1").table())
    assert "shots: 5 here, null in the published rows" in text
    assert "routing: sample here, batch in the published rows" in text
    plain = make_run("plain", method="finetune", routed=False, **PUBLISHED | {"routing": "sample"})
    assert not any(note.startswith("routing") for note in compare([plain], published="mtil-1").notes)


def test_the_candidates_are_the_benchmark_s_unless_others_are_asked_for(make_run):
    run = make_run("a", method="zscl", **PUBLISHED)
    by_candidates = build(method="zscl", names=TASKS)["by_candidates"]
    seen = compare([run], published="mtil-1-seen")
    assert next(row for row in seen.rows if row.label == "zscl").values["last"].mean == by_candidates["seen"]["last"]
    assert not any(note.startswith("candidates") for note in seen.notes)
    asked = compare([run], "all", published="mtil-1-seen")
    assert "candidates: all here, seen in the published rows" in asked.notes


def test_class_incremental_rows_have_no_transfer(make_run):
    run = make_run(
        "a", method="zscl", routed=False, scenario="class-incremental", **PUBLISHED | {"stream": "cifar100-10"}
    )
    comparison = compare([run], published="cifar100-10")
    assert comparison.columns == ("average", "last") == tuple(HEADLINE[1:])
    assert comparison.tables_by_dataset() == []
    assert "Transfer" not in printed(comparison.table())
    assert comparison.rows[0].label == "ranpac (LAION-400M weights), published"


def test_a_run_of_another_stream_is_refused(make_run):
    with pytest.raises(
        InputError, match="'finetune' was run on stream 'drawn', but the rows of mtil-1 are of 'mtil-1'"
    ):
        compare([make_run("a")], published="mtil-1")
