"""A learner and runs that an earlier EverCLIP wrote (`tests/recorded`) are read, and gone on with, by this one."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import nn

from everclip.backbone import Backbone
from everclip.cli import main
from everclip.errors import EverclipError
from everclip.learner import Learner, Prediction

from .recorded import QUESTIONS, RECORDED, SETTINGS, command, figures, lay_out, lessons, shown

EXPECTED = json.loads((RECORDED / "expected.json").read_text())
IMAGE = 2.0
"""Percent that one test image counts: another processor may decide a close one otherwise."""
CUT = {"finetune-cut": ("finetune", 4 * IMAGE), "rail-cut": ("rail", IMAGE)}
"""Runs that were killed: method, and what figures may differ by. Training adds up what rounding differs by."""


def everclip(*args: str) -> None:
    """Run a command line in this process; it must succeed."""
    with pytest.raises(SystemExit) as end:
        main(list(args))
    assert not end.value.code


def assert_near(found: dict[str, Any], method: str, within: float) -> None:
    expected = EXPECTED["runs"][method]
    for name in ("transfer", "average", "last"):
        assert found[name] == pytest.approx(expected[name], abs=within), name
    assert found["matrices"].keys() == expected["matrices"].keys()
    for candidates, rows in expected["matrices"].items():
        for row, wanted in zip(found["matrices"][candidates], rows, strict=True):
            assert row == pytest.approx(wanted, abs=within), candidates


def assert_as_recorded(learner: Learner) -> None:
    for question, answers in zip(QUESTIONS, EXPECTED["answers"], strict=True):
        found = learner.predict(shown(), **question)
        assert [(answer.label, answer.task) for answer in found] == [(label, task) for label, task, _ in answers]
        assert [answer.probability for answer in found] == pytest.approx([p for *_, p in answers], abs=1e-4)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


@pytest.fixture
def learner(tmp_path: Path) -> Learner:
    lay_out(tmp_path, "clip", "learner")
    return Learner.load(tmp_path / "learner", backbone=str(tmp_path / "clip"), device="cpu")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the recorded runs, in which the commands can be given as they were."""
    lay_out(tmp_path, "clip", *SETTINGS, *CUT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- the learner ---------------------------------------------------------------------------------------------------


def test_a_learner_answers_as_it_did(learner: Learner) -> None:
    assert [(task.name, task.images) for task in learner.tasks] == [("scenes", 40), ("textures", 40)]
    assert_as_recorded(learner)


def test_a_learner_learns_on(learner: Learner, tmp_path: Path) -> None:
    report = learner.learn("aerial", lessons("aerial"))
    assert (report.images, len(report.new_classes)) == (32, 4)
    learner.save(tmp_path / "learner")
    again = Learner.load(tmp_path / "learner", device="cpu")  # it says by now where the backbone is
    assert [task.name for task in again.tasks] == ["scenes", "textures", "aerial"]
    said: list[list[Prediction]] = [each.predict(shown(), closed=True) for each in (learner, again)]
    assert said[0] == said[1]
    assert "aerial" in {answer.task for answer in said[0]}


def test_a_learner_forgets_what_was_learned_since(learner: Learner) -> None:
    learner.learn("aerial", lessons("aerial"))
    learner.forget("aerial")
    assert_as_recorded(learner)


# -- the digest of the backbone ---------------------------------------------------------------------------------------

OLD_DIGEST = "e2b56d1ba4e9b19c569241cfa0d0ee90"
"""Of `clip`, as it was written then: of the weights and of how torch printed the modules."""


def test_the_old_digest_is_replaced_when_a_learner_is_saved(learner: Learner, tmp_path: Path) -> None:
    before = files(tmp_path / "learner")
    assert json.loads(before["learner.json"])["state"]["backbone_digest"] == OLD_DIGEST
    assert files(tmp_path / "learner") == before, "loading changes nothing"
    learner.save(tmp_path / "learner")
    about = json.loads((tmp_path / "learner/learner.json").read_text())["state"]
    assert about["backbone_digest"] == Backbone.load(str(tmp_path / "clip")).digest != OLD_DIGEST
    assert_as_recorded(Learner.load(tmp_path / "learner", device="cpu"))


def test_a_learner_loads_however_torch_words_its_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path, "clip", "learner")
    monkeypatch.setattr(nn.LayerNorm, "extra_repr", lambda self: f"{self.normalized_shape}, eps={self.eps}")
    assert_as_recorded(Learner.load(tmp_path / "learner", backbone=str(tmp_path / "clip"), device="cpu"))


def test_other_weights_are_still_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, "clip", "learner")
    weights = load_file(tmp_path / "clip/open_clip_model.safetensors")
    weights["logit_scale"] += 1
    save_file(weights, tmp_path / "clip/open_clip_model.safetensors")
    with pytest.raises(EverclipError, match=rf"other weights than backbone .*\(digest {OLD_DIGEST}, not "):
        Learner.load(tmp_path / "learner", backbone=str(tmp_path / "clip"), device="cpu")


def test_the_old_digest_is_replaced_when_a_run_goes_on(here: Path) -> None:
    everclip(*command("rail", "rail-cut"), "--resume")
    state = json.loads((here / "rail-cut/checkpoints/state.json").read_text())["state"]
    results = json.loads((here / "rail-cut/results.json").read_text())
    assert state["backbone"] == results["backbone"]["digest"] != OLD_DIGEST
    everclip("compare", "rail-cut", "finetune")  # of now and of then: the same backbone


# -- runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SETTINGS)
def test_a_finished_run_is_finished(method: str, here: Path) -> None:
    before = files(here / method)
    everclip(*command(method, method), "--resume")
    assert files(here / method) == before
    assert_near(figures(here / method), method, within=1e-9)


@pytest.mark.parametrize("method", SETTINGS)
def test_results_that_are_lost_are_written_again(method: str, here: Path) -> None:
    (here / method / "results.json").unlink()
    everclip(*command(method, method), "--resume")
    assert_near(figures(here / method), method, within=1e-9)  # from the rows that were judged then


@pytest.mark.parametrize("name", CUT)
def test_a_run_that_was_killed_goes_on(name: str, here: Path) -> None:
    method, within = CUT[name]
    everclip(*command(method, name), "--resume")
    assert_near(figures(here / name), method, within)
    events = [json.loads(line) for line in (here / name / "events.jsonl").read_text().splitlines()]
    assert [event["resumed"] for event in events if event["event"] == "start"] == [False, True]
    assert [event["stage"] for event in events if event["event"] == "learned"] == [0, 1]
    assert events[-1]["event"] == "finished"


def test_runs_are_compared(here: Path) -> None:
    everclip("compare", *SETTINGS, "--costs", "--csv", "table.csv")
    with open(here / "table.csv", newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert rows.keys() == SETTINGS.keys()
    for method, row in rows.items():
        for name in ("transfer", "average", "last"):
            assert float(row[name]) == pytest.approx(EXPECTED["runs"][method][name], abs=0.01), (method, name)


@pytest.mark.parametrize("selector", ["gaussian", "prototype"])
def test_a_run_that_kept_its_stages_is_judged_again(selector: str, here: Path) -> None:
    everclip("judge", "moe-adapters", "--selector", selector, "--out", "judged")
    found = figures(here / "judged")
    if selector == "gaussian":  # as it was judged then
        assert_near(found, "moe-adapters", IMAGE)
    else:
        assert found["transfer"] == pytest.approx(EXPECTED["runs"]["moe-adapters"]["transfer"], abs=IMAGE)
