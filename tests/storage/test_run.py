"""A run directory names what it holds: cut off anywhere it is sound, and what differs is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from everclip.errors import EverclipError
from everclip.storage import faults
from everclip.storage.run import RunDirectory
from everclip.storage.state import CONFIG, MATRIX, State


def problems(run: RunDirectory) -> list[str]:
    return [checked.name for checked in run.verify() if checked.problem]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


def begin(run: RunDirectory) -> None:
    run.begin(State("m", "", ""), {"at": "here"})


def judge(run: RunDirectory) -> None:
    """A row, and the matrix with it."""
    state = run.peek_state()
    assert state is not None
    name = f"evaluation/after-{len(state.rows):02d}.safetensors"
    state.rows.append(name)
    run.write_tensors(state, name, {"right": torch.ones(3)})
    run.save_state(state, {MATRIX: "\n".join(state.rows)})


def move(run: RunDirectory) -> None:
    state = run.peek_state()
    assert state is not None
    run.save_state(state, {CONFIG: "at: there\n"})


@pytest.mark.parametrize(
    "steps", [(begin,), (begin, begin), (begin, judge), (begin, judge, judge), (begin, judge, move)]
)
def test_cut_off_anywhere_it_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: tuple[Callable[[RunDirectory], None], ...]
) -> None:
    *before, last = steps
    for fault in range(1, 20):
        run = RunDirectory(tmp_path / str(fault))
        with run:
            for step in before:
                step(run)
            monkeypatch.setattr(faults, "_reached", 0)
            monkeypatch.setenv("EVERCLIP_FAULT", f"{fault}:disk-full")
            try:
                last(run)
                done = True
            except EverclipError:
                done = False
            monkeypatch.delenv("EVERCLIP_FAULT")
        assert problems(run) == []
        if run.exists():
            assert run.read_config() in ({"at": "here"}, {"at": "there"})
        if done:
            break
    assert fault > 4


def test_what_differs_or_is_missing_is_named(run: RunDirectory) -> None:
    with run:
        begin(run)
        judge(run)
        judge(run)
        state = run.peek_state()
        assert state is not None
        run.save_state(state)  # the matrix is written by now
        run.event("judged")
    assert problems(run) == []
    for name in ("config.yaml", "matrix.csv", "evaluation/after-01.safetensors", "events.jsonl"):
        content = (run.path / name).read_bytes()
        (run.path / name).write_bytes(content.replace(b"e", b"E", 1))
        assert problems(run) == [name]
        (run.path / name).unlink()
        assert problems(run) == ([] if name == "events.jsonl" else [name])
        (run.path / name).write_bytes(content)
    (run.path / "checkpoints/state.json").unlink()
    assert problems(run) == ["checkpoints/state.json"]


def test_a_configuration_that_was_changed_is_refused(run: RunDirectory) -> None:
    with run:
        begin(run)
    (run.path / CONFIG).write_text("at: nowhere\n")
    with pytest.raises(EverclipError, match=r"config\.yaml is damaged .*; put it back from a copy or start anew"):
        run.read_config()
