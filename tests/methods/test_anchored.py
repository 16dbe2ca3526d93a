"""What holds the weights near those of the last task."""

from __future__ import annotations

import pytest
import torch

from everclip.functional.distillation import snapshot, weight_drift
from everclip.methods import ORIGINAL
from everclip.methods.anchored import WeightConsolidation, WiSEFT
from everclip.methods.full_model import FullModel
from everclip.testing.lessons import Lessons, answers, begin, learn, new_method, recipe, train


def drift(method: FullModel, lessons: Lessons) -> float:
    """How far the second task moved the weights."""
    learn(method, lessons.training[:1], recipe(iterations=3))
    before = snapshot(method.weights.values())
    learn(method, lessons.training[1:], recipe(iterations=6))
    return float(weight_drift(snapshot(method.weights.values()), before))


def test_consolidation_keeps_the_weights_near(lessons: Lessons):
    free, tied = (new_method(WeightConsolidation, lessons, consolidation=factor) for factor in (0.0, 100.0))
    assert drift(tied, lessons) < 0.5 * drift(free, lessons)


def test_wise_ft_goes_back_a_part_of_the_way(lessons: Lessons):
    method = new_method(WiSEFT, lessons, new_share=0.25)
    learn(method, lessons.training[:1], recipe(iterations=3))
    before = snapshot(method.weights.values())
    begin(method, lessons.training[1:])
    train(method, lessons.training[1:], recipe(iterations=3))
    after = snapshot(method.weights.values())
    method.end_task()
    for weight, old, new in zip(method.weights.values(), before, after, strict=True):
        torch.testing.assert_close(weight.detach(), 0.25 * new + 0.75 * old)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_wise_ft_answers_with_a_share_of_zero_shot(lessons: Lessons, share: float):
    method = new_method(WiSEFT, lessons, zero_shot_share=share)
    learn(method, lessons.training[:1], recipe(iterations=6))
    said = answers(method, lessons, 1)
    gaps = [(said[what, 0, 0] - said[what, ORIGINAL, 0]).abs().max() for what in ("images", "classes")]
    assert all(gap < 1e-6 if share == 1 else gap > 1e-4 for gap in gaps)
    fresh = new_method(WiSEFT, lessons, zero_shot_share=share)
    answers(fresh, lessons, 0)  # what answers before must not answer after
    fresh.load_state(lessons.infos[:1], [{}], method.working_state())
    for key, value in answers(fresh, lessons, 1).items():
        assert torch.equal(value, said[key])
    learn(method, lessons.training[1:], recipe(iterations=6))
    if share < 1:
        assert not torch.equal(answers(method, lessons, 2)["images", 0, 0], said["images", 0, 0])


def test_nothing_of_the_start_is_kept_between_tasks(lessons: Lessons):
    method = new_method(WiSEFT, lessons)
    learn(method, lessons.training[:1], recipe(iterations=1))
    assert method.start is None
