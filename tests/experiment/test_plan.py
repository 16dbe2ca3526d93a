"""What a run would do, told without learning."""

from __future__ import annotations

from pathlib import Path

import pytest

from everclip.errors import InputError
from everclip.experiment.config import Config
from everclip.experiment.plan import Lesson, plan
from everclip.experiment.runner import run
from everclip.methods import ridge

from .. import tiny


def config(tiny_clip: Path, stream: str, **changed: object) -> Config:
    usual = {"backbone": str(tiny_clip), "stream": stream, "method": "moe-adapters", "device": "cpu"}
    return Config.of({**usual, "iterations": 20, "batch": 4, "warmup": 1, **changed})


@pytest.mark.parametrize(
    ("changed", "steps"),
    [
        ({"lr": [0.25, 0.5]}, [20, 20]),
        ({"lr": {"cloth": 0.5, "paint": 0.25}, "strict": True}, [22, 22]),  # a tenth longer
        ({"method": "finetune", "lr": [0.25, 0.5], "epochs": 2}, [8, 5]),  # 2 · 15 and 2 · 10 images by fours
    ],
)
def test_a_plan_is_what_the_run_then_does(
    tiny_clip: Path, two_folders: str, tmp_path: Path, changed: dict, steps: list[int]
) -> None:
    wanted = config(tiny_clip, two_folders, **changed)
    out = tmp_path / "run"
    planned = plan(wanted, out)
    assert not out.exists()
    assert [lesson.steps for lesson in planned.lessons] == steps
    assert [lesson.lr for lesson in planned.lessons] == [0.25, 0.5]
    results = run(wanted, out)
    assert planned.protocol == results["protocol"]
    assert planned.trained_parameters == results["trained_parameters"]["per_task"][0]
    for lesson, dataset in zip(planned.lessons, results["datasets"], strict=True):
        counts = {"classes": lesson.classes, "train": lesson.train, "validation": lesson.validation}
        assert {**counts, "name": lesson.task, "test": lesson.test}.items() <= dataset.items()


def test_a_closed_form_has_no_steps(tiny_clip: Path, two_folders: str, tmp_path: Path) -> None:
    planned = plan(config(tiny_clip, two_folders, method="ncm"), tmp_path / "run")
    assert planned.lessons[1] == Lesson("cloth", 2, 10, 2, 6, None, None)
    assert planned.trained_parameters is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"lr": {"paint": 0.1}}, "lr names no rate for task 'cloth'"),
        ({"method": "joint", "lr": [0.1, 0.2]}, "all tasks are learned at once; give one lr, not 2"),
        ({"method": "zscl"}, "needs reference images"),
        ({"method": "icarl", "exemplars": 4}, "exemplars=4 leaves none for each of the 5 classes up to task 'cloth'"),
        ({"method": "linear-adapter", "replay": "exemplars", "exemplars": 4}, "exemplars=4 are too few for 5 classes"),
        ({"method": "attention-adapter", "exemplars": 4}, "exemplars=4 are too few for 5 classes"),
        ({"method": "prompt-tuning", "context": 21}, "leaves no room for context=21"),
        ({"method": "rail-dual"}, "rail-dual has 25 images and can hold 24"),
    ],
)
def test_what_a_later_task_would_refuse_is_refused_before_the_first(
    tiny_clip: Path, two_folders: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict, words: str
) -> None:
    monkeypatch.setattr(ridge, "DUAL_LIMIT", 24)
    wanted = config(tiny_clip, two_folders, **changed)
    for what in (plan, run):
        with pytest.raises(InputError, match=words):
            what(wanted, tmp_path / "run")
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["zero-shot", "finetune", "moe-adapters", "lda"])
def test_a_prompt_that_the_backbone_cannot_read_is_refused_before_the_first_task(
    tiny_clip: Path, two_folders: str, tmp_path: Path, method: str
) -> None:
    long = tiny.image_folder(tmp_path / "long", ["red", "a " * 30])
    with pytest.raises(InputError, match="is longer than the 24 tokens"):
        run(config(tiny_clip, f"{two_folders},{long}", method=method), tmp_path / "run")
    assert not (tmp_path / "run").exists()
