from __future__ import annotations

import json

import numpy as np
import pytest

from everclip.errors import InputError
from everclip.functional import metrics
from everclip.report import load_run, summarize

from .invented import build


def one_task(**changes):
    arrays = {"task": [[np.array([True, False, True, True])]]}
    return summarize(
        header={
            "everclip": "0.1.0",
            "method": "finetune",
            "backbone": {"name": "embedded", "digest": "0"},
            "stream": "drawn",
            "scenario": "multi-domain",
            "protocol": {"candidates": "task", "seed": 0},
            "training": {},
            "settings": {},
            "trained_parameters": {"per_task": [1], "total": 1},
        },
        datasets=[{"name": "shapes", "classes": 4, "train": 1, "validation": 0, "test": 4, "skipped": 0}],
        correct=arrays,
        by_name=arrays,
        zero_shot={"task": [np.array([True, False, False, False])]},
        **changes,
    )


def test_figures_are_those_of_the_matrix(results):
    for figures in results["by_candidates"].values():
        A = np.array(figures["matrix"])
        known = np.array([name in figures["above_chance"]["datasets"] for name in figures["per_dataset"]])
        assert known.tolist() == [False, True, True]
        for name in ("transfer", "average", "last"):
            metric = getattr(metrics, name)
            assert figures[name] == pytest.approx(metric(A))
            assert figures["above_chance"][name] == pytest.approx(metric(A, known))
            assert figures["ci95"][name][0] < figures[name] < figures["ci95"][name][1]
            column = [values[name] for values in figures["per_dataset"].values()]
            assert np.mean([value for value in column if value is not None]) == pytest.approx(figures[name])
        sizes = [dataset["test"] for dataset in results["datasets"]]
        assert figures["incremental"]["steps"] == pytest.approx(metrics.incremental(A, sizes).tolist())
        assert figures["forgetting"] == pytest.approx(metrics.forgetting(A))


def test_the_figures_at_the_top_are_those_of_the_protocol():
    for candidates in ("task", "all"):
        results = build(candidates=candidates)
        for name in ("transfer", "average", "last", "forgetting", "ci95", "per_dataset", "above_chance"):
            assert results[name] == results["by_candidates"][candidates][name]
    assert results["transfer"] != results["by_candidates"]["task"]["transfer"]


def test_undefined_figures_are_null():
    results = json.loads(json.dumps(build(upper_bound=True), allow_nan=False))
    assert results["transfer"] is results["average"] is results["forgetting"] is None
    assert results["ci95"]["transfer"] is None
    assert results["by_candidates"]["all"]["matrix"][0] == [None, None, None]
    assert results["last"] == pytest.approx(np.mean(results["by_candidates"]["task"]["matrix"][-1]))
    assert results["upper_bound"] is True


def test_one_task_is_a_stream():
    results = one_task()
    assert (results["transfer"], results["average"], results["last"]) == (None, 75, 75)
    assert results["per_dataset"]["shapes"]["zero_shot"] == results["datasets"][0]["chance"] == 25
    # No dataset is above twice chance, so the figures over those do not exist.
    assert results["above_chance"]["datasets"] == []
    assert results["above_chance"]["last"] is results["above_chance"]["ci95"]["last"] is None


def test_class_incremental_figures_are_over_all_images_of_the_classes_learned_so_far():
    apart, growing = build(), build(scenario="class-incremental")
    assert growing["transfer"] == apart["transfer"]
    assert growing["by_candidates"]["seen"]["matrix"] == apart["by_candidates"]["seen"]["matrix"]
    for figures in growing["by_candidates"].values():
        matrix, sizes = np.array(figures["matrix"]), np.array([120, 130, 140])
        steps = [(matrix[i, : i + 1] * sizes[: i + 1]).sum() / sizes[: i + 1].sum() for i in range(3)]
        assert figures["average"] == pytest.approx(np.mean(steps))
        assert figures["last"] == pytest.approx(steps[-1])
        assert figures["ci95"]["last"][0] < figures["last"] < figures["ci95"]["last"][1]
        known = [(matrix[i, 1 : i + 1] * sizes[1 : i + 1]).sum() / sizes[1 : i + 1].sum() for i in (1, 2)]
        assert figures["above_chance"]["datasets"] == ["digits", "flags"]
        assert figures["above_chance"]["average"] == pytest.approx(np.mean(known)), "from the first step that has any"
    bound = build(scenario="class-incremental", upper_bound=True)
    assert bound["average"] is None
    assert bound["last"] == pytest.approx(bound["by_candidates"]["task"]["incremental"]["last"])


def test_numpy_counts_become_numbers():
    routing = {"columns": ["shapes", "zero-shot"], "after": np.array([[[3, 1]]])}
    assert json.loads(json.dumps(one_task(routing=routing)))["routing"]["after"] == [[[3, 1]]]


def test_a_run_is_read_back_as_written(make_run):
    assert load_run(make_run("a")) == json.loads(json.dumps(build()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not finished"),
        (b"{", "damaged"),
        (b"\xff\xfe", "damaged"),
        (b'{"format": 99}', "format 99"),
        (b"[]", "format None"),
        (b'{"format": 1, "everclip": "0.1.0"}', "lacks the field 'method'"),
    ],
)
def test_what_is_not_a_finished_run_is_refused_by_name(tmp_path, content, message):
    if content is not None:
        (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        load_run(tmp_path)
    assert str(tmp_path) in str(raised.value)


def test_a_file_is_not_a_run_directory(tmp_path):
    file = tmp_path / "run"
    file.touch()
    with pytest.raises(InputError, match="not a run directory"):
        load_run(file)
