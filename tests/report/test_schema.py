"""Results whose figures are not those of their data are refused before a table or a page is made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everclip.errors import InputError
from everclip.report import compare, load_run

Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r["datasets"].pop(), "figures of the candidates 'task'"),
        (lambda r: r["datasets"].clear(), "'datasets'"),
        (lambda r: r["datasets"][0].update(name="other"), "figures of the candidates"),
        (lambda r: r["datasets"][0].update(test=-1), r"'datasets\.0\.test'"),
        (lambda r: r["datasets"][0].update(classes="12"), r"'datasets\.0\.classes'"),
        (lambda r: r["by_candidates"]["task"]["matrix"].pop(), "figures of the candidates 'task'"),
        (lambda r: r["by_candidates"]["all"]["matrix"][0].append(1.0), "figures of the candidates 'all'"),
        (lambda r: r["by_candidates"]["task"].update(average="high"), r"'by_candidates\.task\.average'"),
        (lambda r: r["by_candidates"]["task"].update(average=1e300), r"'by_candidates\.task\.average'"),
        (lambda r: r["by_candidates"]["task"]["ci95"].update(last=None), "'last' and its interval"),
        (lambda r: r["by_candidates"].pop("task"), "no figures for the protocol's candidates"),
        (lambda r: r["routing"]["after"][0].pop(), "the routing is not"),
        (lambda r: r["routing"].update(after=[None, None, None]), "the routing is not"),
        (lambda r: r["routing"]["columns"].pop(), "the routing is not"),
        (lambda r: r["protocol"].update(seed=-1), r"'protocol\.seed'"),
        (lambda r: r["protocol"].pop("tasks"), r"'protocol\.tasks'"),
        (lambda r: r["trained_parameters"].update(per_task=[None]), r"'trained_parameters\.per_task\.0'"),
        (lambda r: r["backbone"].update(former_digests=[[]]), r"'backbone\.former_digests\.0'"),
        (lambda r: r.update(training=[]), "'training'"),
        (lambda r: r.update(upper_bound=1), "'upper_bound'"),
    ],
)
def test_a_wrong_field_is_named(make_run: Callable[..., Path], change: Change, words: str) -> None:
    run = make_run("run")
    results = json.loads((run / "results.json").read_text())
    change(results)
    (run / "results.json").write_text(json.dumps(results))
    for read in (load_run, lambda path: compare([path])):
        with pytest.raises(InputError, match=words) as error:
            read(run)
        assert str(error.value).startswith(f"{run / 'results.json'} is damaged (it is wrong")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", ["", "[" * 5000, '{"format": NaN}', '{"format": 1, "format": 1}', '{"format": ' + "1" * 5000 + "}"]
)
def test_what_is_no_json_is_a_sentence(make_run: Callable[..., Path], content: str) -> None:
    run = make_run("run")
    (run / "results.json").write_text(content)
    with pytest.raises(InputError, match="is damaged"):
        load_run(run)


def test_a_folder_in_the_place_of_results(make_run: Callable[..., Path]) -> None:
    run = make_run("run")
    (run / "results.json").unlink()
    (run / "results.json").mkdir()
    with pytest.raises(InputError, match="can't be read"):
        load_run(run)


def test_what_a_later_version_adds_is_left_alone(make_run: Callable[..., Path]) -> None:
    run = make_run("run")
    results = json.loads((run / "results.json").read_text())
    results["more"] = results["datasets"][0]["more"] = {"a": [1]}
    (run / "results.json").write_text(json.dumps(results))
    assert load_run(run) == results
