"""What a run would do, told without learning."""

from __future__ import annotations

from pathlib import Path

import pytest

from everclip.config import Config
from everclip.errors import InputError
from everclip.experiment import run
from everclip.plan import Lesson, plan


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


def test_what_a_run_would_refuse_is_refused(tiny_clip: Path, two_folders: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lr names no rate for task 'cloth'"):
        plan(config(tiny_clip, two_folders, lr={"paint": 0.1}), tmp_path / "run")
    with pytest.raises(InputError, match="needs reference images"):
        plan(config(tiny_clip, two_folders, method="zscl"), tmp_path / "run")
