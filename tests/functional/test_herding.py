"""Herding under a budget."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from everclip.functional.herding import herd, quota


def test_each_choice_is_the_best_that_could_follow() -> None:
    features = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)) + 1
    unit = F.normalize(features.double(), dim=-1)
    chosen = herd(features, 12)
    for size in range(1, 13):
        before = chosen[: size - 1].tolist()
        gaps = {
            row: (unit.mean(0) - unit[[*before, row]].mean(0)).norm().item() for row in range(40) if row not in before
        }
        assert gaps[int(chosen[size - 1])] <= min(gaps.values()) + 1e-12


def test_a_smaller_choice_is_the_beginning_of_a_larger_one() -> None:
    features = torch.randn(30, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(herd(features, 20)[:7], herd(features, 7))


def test_every_example_is_chosen_once_where_there_is_room_for_all() -> None:
    features = torch.ones(5, 3)  # all alike: ties go to the lowest row
    assert herd(features, 9).tolist() == [0, 1, 2, 3, 4]


def test_the_budget_is_for_all_classes_together() -> None:
    assert quota(2000, 30) == 66
    assert quota(2000, 0) == 2000
    assert quota(10, 30) == 0
