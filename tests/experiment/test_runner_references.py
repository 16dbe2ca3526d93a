"""Runs of methods that learn from more than the task: what they read, keep, refuse, and need to go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from everclip.engine import training
from everclip.errors import EverclipError, InputError
from everclip.experiment import runner
from everclip.experiment.config import Config
from everclip.report import compare
from everclip.storage.directory import body_digest

from .. import tiny

ITERATIONS, CHECKPOINT = 4, 2


class Stopped(BaseException):
    """Stands for whatever ends a process."""


@pytest.fixture(autouse=True)
def _no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is tested elsewhere, and drawing it takes longer than learning these tasks."""
    monkeypatch.setattr(runner, "render", lambda *given: "")


@pytest.fixture
def values(tiny_clip: Path, two_folders: str, tmp_path: Path) -> dict:
    texts = tmp_path / "captions.txt"
    texts.write_text("a dog\ntwo trees\nnothing at all\n")
    return {
        "stream": two_folders, "backbone": str(tiny_clip), "device": "cpu", "lr": 1e-3, "batch": 4, "warmup": 1,
        "iterations": ITERATIONS, "checkpoint_every": CHECKPOINT, "reference_texts": str(texts),
        "reference": str(tiny.image_folder(tmp_path / "others", ["blue", "gray"], seed=5)),
    }  # fmt: skip


OF: dict[str, dict] = {
    "finetune": {},
    "lwf-vr": {"random_texts": 5},
    "icarl": {"exemplars": 8},
    "zscl": {"average_every": 2},
}
"""One method of each kind of state, with settings that show within a few steps."""


def run(values: dict, out: Path, resume: bool = False) -> dict:
    return runner.run(Config.of(values), out, resume)


def stop_in_the_second_task(values: dict, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the checkpoint within it and one step more."""
    steps = iter(range(ITERATIONS + CHECKPOINT + 2))

    def stop(name: str) -> None:
        if next(steps) == ITERATIONS + CHECKPOINT + 1:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(training, "fault_point", stop)
        with pytest.raises(Stopped):
            run(values, out)


def state_of(out: Path) -> dict:
    return json.loads((out / "checkpoints/state.json").read_text())["state"]


def stored(out: Path) -> set[str]:
    """The tensor files of a run, without those of its judgments."""
    return {path.name for path in (out / "checkpoints").glob("*.safetensors")}


# -- cut off and resumed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", OF)
def test_cut_off_within_a_task_and_resumed_is_the_same_run(
    method: str, values: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = values | {"method": method} | OF[method]
    run(values, tmp_path / "whole")
    assert stored(tmp_path / "whole") == {"working-01.safetensors"}, "one working copy, not one per task"
    out = tmp_path / "run"
    stop_in_the_second_task(values, out, monkeypatch)
    assert (state_of(out)["stages_learned"], state_of(out)["step"]) == (1, CHECKPOINT)
    start = {"working-00.safetensors"} if method != "finetune" else set()
    assert stored(out) == {"working-01-000002.safetensors", "optimizer-01-000002.safetensors"} | start
    run(values, out, resume=True)
    for name in ("matrix.csv", "results.json", "checkpoints/state.json"):  # the state holds the SHA-256 of all weights
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert stored(out) == {"working-01.safetensors"}


def test_a_start_that_is_damaged_is_named(values: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = values | {"method": "wc"}
    out = tmp_path / "run"
    stop_in_the_second_task(values, out, monkeypatch)
    (out / "checkpoints/working-00.safetensors").unlink()
    with pytest.raises(EverclipError, match=r"working-00\.safetensors is missing"):
        run(values, out, resume=True)


def test_stages_are_kept_when_asked(values: dict, tmp_path: Path) -> None:
    run(values | {"method": "zscl", "keep_stages": True}, tmp_path / "run")
    assert stored(tmp_path / "run") == {"working-00.safetensors", "working-01.safetensors"}


def test_exemplars_are_references(values: dict, tmp_path: Path) -> None:
    run(values | {"method": "icarl", "exemplars": 8}, tmp_path / "run")
    tensors = load_file(tmp_path / "run/checkpoints/working-01.safetensors")
    memory = [tensors[f"memory.{index}"] for index in range(2)]
    assert [rows.dtype for rows in memory] == [torch.int64] * 2
    assert [rows.shape for rows in memory] == [(3, 2), (2, 2)]  # one of each of the 5 classes


# -- what was learned from ---------------------------------------------------------------------------------------------


def test_the_reference_decides_what_is_learned_and_is_told(values: dict, tmp_path: Path) -> None:
    values = values | {"method": "zscl", "average_every": 0, "lr": 1e-2}
    other = tiny.image_folder(tmp_path / "more", ["red"], seed=8)
    runs = {"one": values, "two": values | {"reference": str(other)}, "silent": values | {"reference_texts": None}}
    weights = set()
    for name, settings in runs.items():
        results = run(settings, tmp_path / name)
        assert results["settings"]["reference"] == Path(settings["reference"]).name
        assert results["settings"]["reference_texts"] == (None if name == "silent" else "captions.txt")
        weights.add(state_of(tmp_path / name)["files"]["checkpoints/working-01.safetensors"])
    assert len(weights) == 3
    table = compare([tmp_path / name for name in runs])  # three settings of one method, not one run thrice
    assert len(table.rows) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reference": None}, ["zscl", "--set reference=DIR"]),
        ({"reference": "nowhere"}, ["nowhere"]),
        ({"reference_texts": "nowhere.txt"}, ["nowhere.txt", "cannot be read"]),
        ({"stream": "embeddings:a.npz"}, ["a.npz"]),
    ],
)
def test_what_is_missing_is_one_sentence_and_nothing_is_written(
    values: dict, tmp_path: Path, change: dict, words: list[str]
) -> None:
    with pytest.raises(InputError) as error:
        run(values | {"method": "zscl"} | change, tmp_path / "run")
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_resume_with_other_texts_is_refused(values: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = values | {"method": "zscl"}
    stop_in_the_second_task(values, tmp_path / "run", monkeypatch)
    Path(values["reference_texts"]).write_text("something else\n")
    with pytest.raises(EverclipError, match="other reference images, reference texts"):
        run(values, tmp_path / "run", resume=True)


def test_the_layout_before_is_still_read(values: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = values | {"method": "finetune"}
    stop_in_the_second_task(values, tmp_path / "run", monkeypatch)
    body = state_of(tmp_path / "run") | {"format": 3}
    del body["start"]
    path = tmp_path / "run/checkpoints/state.json"
    path.write_text(json.dumps({"sha256": body_digest(body), "state": body}))
    run(values, tmp_path / "run", resume=True)
    assert state_of(tmp_path / "run")["finished"]
