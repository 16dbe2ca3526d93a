"""Loss curves: read from the events of a run, drawn on its page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from everclip.report import compare, read_losses, render
from everclip.report.compare import TRAINED_BEFORE
from everclip.report.losses import Losses

from .invented import build

STAGES = [["a"], ["b", "c"]]


def step(stage: int, step: int, loss: float, **parts: float) -> dict:
    return {"event": "step", "stage": stage, "step": step, "loss": loss, "parts": parts}


def log(folder: Path, *events: dict | str) -> Path:
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    (folder / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_losses_are_those_of_the_steps_in_order(tmp_path: Path) -> None:
    run = log(
        tmp_path,
        {"event": "start"}, step(0, 10, 2.0, ce=1.5, pull=0.5), step(0, 20, 1.0, ce=1.0), '{"event": "st', "3",
        {"event": "start"}, step(0, 20, 1.0, ce=1.0), {"event": "learned", "stage": 0}, step(1, 10, 3.0),
    )  # fmt: skip
    assert read_losses(run, STAGES) == [
        Losses(("a",), (10, 20), (2.0, 1.0), {"ce": (1.5, 1.0), "pull": (0.5, None)}),
        Losses(("b", "c"), (10,), (3.0,), {}),
    ]


def test_a_log_of_before_parts_were_kept_is_read(tmp_path: Path) -> None:
    log(tmp_path, {"event": "step", "stage": 0, "step": 10, "loss": 1.3, "images_per_second": 600})
    assert read_losses(tmp_path, STAGES) == [Losses(("a",), (10,), (1.3,), {})]


@pytest.mark.parametrize("content", [None, "", "\x00\n", '{"event": "start"}\n'])
def test_no_steps_no_losses(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "events.jsonl").write_text(content)
    assert read_losses(tmp_path, STAGES) == []


def test_the_page_shows_the_curves() -> None:
    losses = [
        Losses(("<a>",), (10, 20, 30), (3.0, 2.0, 1.0), {"ce": (2.0, 1.0, 0.5), "pull": (1.0, None, 0.5)}),
        Losses(("b",), (10,), (3.0,), {"ce": (3.0,)}),
    ]
    page = render(build(), losses)
    assert page.index("<h2>Training</h2>") < page.index("<h2>Data</h2>")
    section = page.split("<h2>Training</h2>")[1].split("<h2>Data</h2>")[0]
    assert section.index("Learning b") < section.index("The earlier tasks") < section.index("Learning &lt;a&gt;")
    last, earlier = section.split("<details>")
    assert earlier.count("pull") == 1
    assert "ce</text>" not in last, "one part alone is the loss once more"
    assert render(build(), losses) == page
    assert "<h2>Training</h2>" not in render(build())


def test_runs_of_before_and_after_a_setting_came_are_alike(make_run: Callable[..., Path]) -> None:
    old, new, other = (make_run(name, seed=seed) for seed, name in enumerate(("old", "new", "other")))
    for run, more in ((new, TRAINED_BEFORE), (other, TRAINED_BEFORE | {"optimizer": "sgd"})):
        results = json.loads((run / "results.json").read_text())
        results["training"] |= more
        (run / "results.json").write_text(json.dumps(results))
    assert [row.seeds for row in compare([old, new]).rows] == [(0, 1)]
    assert [row.label for row in compare([old, other]).rows] == [
        "finetune (optimizer=adamw)",
        "finetune (optimizer=sgd)",
    ]
