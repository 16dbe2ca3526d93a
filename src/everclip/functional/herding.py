"""Herding (iCaRL, 2017): the choice of the examples that stand for a class when only a few can be kept."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.functional.ties import FINE_TIE, first_largest


def herd(features: Tensor, count: int) -> Tensor:
    """Choose examples whose running mean stays closest to the class mean (iCaRL, algorithm 4).

    The order is one of priority: whoever keeps fewer later keeps the first ones.

    Args:
        features: features of one class (N, D); they are normalized first.
        count: how many to choose; all N if there are fewer.

    Returns:
        Row indices (min(count, N),), int64; of equally good rows the lowest is chosen.
    """
    features = F.normalize(features.double(), dim=-1)
    mean = features.mean(dim=0)
    chosen: list[int] = []
    total = torch.zeros_like(mean)
    left = torch.ones(len(features), dtype=torch.bool, device=features.device)
    for size in range(1, min(count, len(features)) + 1):
        # ‖mean − (total + f)/size‖² over f, with ‖f‖ = 1: the f with the largest inner product with what is missing
        missing = size * mean - total
        best = int(first_largest((features @ missing).masked_fill(~left, float("-inf")), FINE_TIE))
        chosen.append(best)
        total += features[best]
        left[best] = False
    return torch.tensor(chosen, dtype=torch.int64)


def quota(budget: int, classes: int) -> int:
    """How many examples each class gets from one budget for all classes together."""
    return budget // max(1, classes)
