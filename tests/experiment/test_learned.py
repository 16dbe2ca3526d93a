"""Judging a finished run again equals having judged it so in the first place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from everclip.errors import InputError
from everclip.experiment import runner
from everclip.experiment.config import Config
from everclip.experiment.learned import judgment
from everclip.storage import faults

from .test_runner import run


@pytest.fixture(scope="module")
def values(tiny_clip: Path, two_folders: str) -> dict:
    return {
        "method": "moe-adapters", "stream": two_folders, "backbone": str(tiny_clip), "device": "cpu",
        "iterations": 4, "batch": 4, "warmup": 1, "lr": 1e-2, "keep_stages": True, "selector": "oracle",
    }  # fmt: skip


@pytest.fixture(scope="module", params=[True, False], ids=["strict", "plain"])
def learned(request: pytest.FixtureRequest, values: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learned") / "run"
    runner.run(Config.of(values | {"strict": request.param}), out)
    return out


def answers(run: Path) -> list:
    """All that is judged: a line of the matrix per stage, test set and candidate set; and the routes."""
    results = json.loads((run / "results.json").read_text())
    return [(run / "matrix.csv").read_text(), results["routing"], results["trained_parameters"], results["datasets"]]


def test_judged_alike_it_is_the_same(learned: Path, tmp_path: Path) -> None:
    runner.run(judgment(learned, {}), tmp_path / "again")
    assert answers(tmp_path / "again") == answers(learned)
    assert list((tmp_path / "again/checkpoints").glob("task-*")) == [], "what was learned is not stored twice"
    runner.run(judgment(tmp_path / "again", {}), tmp_path / "once more")  # a judgment leads back to what it judged
    assert answers(tmp_path / "once more") == answers(learned)


def test_another_selector_is_as_if_learned_with_it(learned: Path, values: dict, tmp_path: Path) -> None:
    changes = {"selector": "gaussian", "clusters": 2}
    results = runner.run(judgment(learned, changes), tmp_path / "judged")
    assert results["protocol"]["selector"] == "gaussian"
    strict = Config.of(judgment(learned, {}).flat()).settings.strict
    runner.run(Config.of(values | changes | {"strict": strict}), tmp_path / "trained")
    assert answers(tmp_path / "judged") == answers(tmp_path / "trained")
    assert answers(tmp_path / "judged") != answers(learned)


def test_it_may_be_judged_with_reference_images(learned: Path, two_folders: str, tmp_path: Path) -> None:
    reference = two_folders.removeprefix("folders:").split(",")[0]
    results = runner.run(judgment(learned, {"selector": "gaussian", "reference": reference}), tmp_path / "judged")
    assert results["protocol"]["reference"] == Path(reference).name


def test_a_judgment_cut_off_goes_on(learned: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    flat = judgment(learned, {"selector": "prototype"}).flat()
    runner.run(Config.of(flat), whole)
    for fault in ("6", "9"):
        assert run(flat, cut, fault)[0] == faults.EXIT_CODE
    assert run(flat, cut) == (0, "")
    assert answers(cut) == answers(whole)


def test_what_was_learned_cannot_be_changed(learned: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"learned with lr=0.01, not 0.5; a judgment may change only candidates"):
        runner.run(judgment(learned, {"lr": 0.5}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keep_stages": False}, "kept its last stage only; learn it anew with --set keep_stages=true"),
        ({"method": "finetune"}, "'finetune' has one answer for every image"),
    ],
)
def test_runs_that_cannot_be_judged_again(values: dict, tmp_path: Path, changes: dict, words: str) -> None:
    runner.run(Config.of(values | changes), tmp_path / "run")
    with pytest.raises(InputError, match=words):
        runner.run(judgment(tmp_path / "run", {}), tmp_path / "out")


def test_there_must_be_a_finished_run(values: dict, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere holds no run"):
        judgment(tmp_path / "nowhere", {})
    unfinished = tmp_path / "unfinished"
    assert run(values, unfinished, "20")[0] == faults.EXIT_CODE
    with pytest.raises(InputError, match=r"unfinished holds no finished run; finish it by --resume"):
        runner.run(judgment(unfinished, {}), tmp_path / "out")
