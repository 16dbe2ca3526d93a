from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from everclip.errors import EverclipError
from everclip.report import compare
from everclip.report.cost import Cost, cost
from everclip.report.results import load_run
from everclip.storage.files import sha256
from everclip.storage.run import RunDirectory
from everclip.storage.state import State

TASKS = ("a", "b", "c")


def learned(stage: int, *tasks: str, seconds: float) -> dict:
    return {"event": "learned", "stage": stage, "tasks": list(tasks), "seconds": seconds}


def log(run: Path, *events: dict | str) -> None:
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    (run / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))


def keep(run: Path, **sizes: int) -> None:
    """Checkpoints of which the state names `working`, `selector` and `task` files, of so many bytes."""
    (run / "checkpoints").mkdir()
    names = {kind: f"checkpoints/{kind}" for kind in sizes}
    for kind, size in sizes.items():
        (run / names[kind]).write_bytes(bytes(size))
    state = State("m", "", "", sealed=[names.get("task"), None, None], learned=[{}] * len(TASKS))
    state.working, state.selector, state.optimizer = (names.get(kind) for kind in ("working", "selector", "optimizer"))
    state.files = {name: sha256(run / name) for name in names.values()}
    directory = RunDirectory(run)
    (run / "evaluation").mkdir()
    directory.save_state(state)


def of(*runs: Path) -> Cost:
    return cost([(run, load_run(run)) for run in runs])


def test_seconds_are_those_of_whole_tasks(make_run: Callable[..., Path]):
    """A task that went on after a break has two parts, of which the log times the second alone."""
    run = make_run("a")
    start, step = {"event": "start"}, {"event": "step", "stage": 1}
    log(
        run,
        start, learned(0, "a", seconds=3.0), step, '{"event": "st',
        start, step, learned(1, "b", seconds=0.5), {"event": "step", "stage": 2}, learned(2, "c", seconds=2.0),
    )  # fmt: skip
    assert of(run).seconds == (3.0, 2.0)
    assert of(run).ends == (2.0, 3.0)


def test_tasks_learned_at_once_share_the_time(make_run: Callable[..., Path]):
    run = make_run("a")
    log(run, {"event": "start"}, learned(0, *TASKS, seconds=6.0))
    assert of(run).seconds == (2.0, 2.0, 2.0)


def test_kept_is_what_later_tasks_and_predictions_need(make_run: Callable[..., Path]):
    run = make_run("a")
    keep(run, working=300, task=30, selector=9, optimizer=5000)
    assert of(run).kept == 339 / 3


def test_over_seeds(make_run: Callable[..., Path]):
    runs = [make_run(f"run{seed}", seed=seed) for seed in range(2)]
    for run, size in zip(runs, (300, 600), strict=True):
        log(run, {"event": "start"}, learned(0, "a", seconds=float(size)))
        keep(run, working=size)
    assert (of(*runs).seconds, of(*runs).kept) == ((300.0, 600.0), 150.0)


def test_a_run_of_which_only_results_are_left(make_run: Callable[..., Path]):
    run = make_run("a")
    trained = load_run(run)["trained_parameters"]["per_task"]
    assert of(run) == Cost(max(trained), (), None)
    assert of(run).ends == (None, None)
    keep(run, working=3)
    (run / "checkpoints/working").write_bytes(bytes(2))
    with pytest.raises(EverclipError, match="working is damaged"):
        of(run)
    (run / "checkpoints/working").unlink()
    assert of(run).kept is None


def test_the_comparison_tells_costs_where_asked(make_run: Callable[..., Path]):
    runs = [make_run(name, method=name) for name in "ab"]
    log(runs[0], {"event": "start"}, learned(0, "a", seconds=1.5), learned(1, "b", seconds=1234.56))
    assert compare(runs).rows[0].cost is None
    assert "seconds" not in compare(runs).csv()
    comparison = compare(runs, costs=True)
    first, second = csv.DictReader(io.StringIO(comparison.csv()))
    assert (first["seconds_per_task_low"], first["seconds_per_task_high"]) == ("1.5", "1234.56")
    assert second["seconds_per_task_low"] == second["bytes_per_task"] == ""
    cells = [list(column.cells) for column in comparison.table_of_costs().columns]
    assert cells[3] == ["1.5–1,234.6", "–"]
