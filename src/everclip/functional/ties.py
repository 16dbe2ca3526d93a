"""Which score is the largest when several are equal: the first one. Rounding never decides.

Two scores may be equal by what they mean: the same image was taught to two tasks, or two classes have one name. They
still differ in their last bits, and which of them is larger depends on the processor, the library and the batch. So
scores that differ by no more than rounding count as equal, and of equal scores the first is the largest: the task that
was learned first, the class that was named first.
"""

from __future__ import annotations

import torch
from torch import Tensor

TIE = 1e-4
"""Scores this close, relative to the larger, are equal. A probability is a softmax of float32 logits: cosines, which
are off by some 1e-7, times a scale of about 100."""
FINE_TIE = 1e-9
"""The same of scores that were computed in float64."""


def first_largest(scores: Tensor, tolerance: float = TIE) -> Tensor:
    """The place of the largest score of each row, the first one if several are equal: (…, C) → (…,), int64.

    Args:
        scores: of C candidates in the order in which they were learned or named, C ≥ 1.
        tolerance: two scores are equal where their difference is at most this share of the larger one's size.
    """
    largest = scores.amax(dim=-1, keepdim=True)
    return (scores >= largest - tolerance * largest.abs()).int().argmax(dim=-1)


def largest_first(scores: Tensor, count: int, tolerance: float = TIE) -> Tensor:
    """The places of the `count` largest scores of each row, largest first; equal scores keep their order.

    Args:
        scores: of C candidates (B, C), finite.
        count: how many; at most C are given.
        tolerance: see `first_largest`.

    Returns:
        (B, min(count, C)), int64. Its first column is `first_largest`.
    """
    count = min(count, scores.shape[1])
    order = scores.argsort(dim=1, descending=True, stable=True)
    rows = []
    for places, values in zip(order.tolist(), scores.gather(1, order).tolist(), strict=True):
        row: list[int] = []
        while len(row) < count:  # the largest of those left and its equals, as they were learned or named
            end = start = len(row)
            while end < len(values) and values[end] >= values[start] - tolerance * abs(values[start]):
                end += 1
            row += sorted(places[start:end])
        rows.append(row[:count])
    return torch.tensor(rows, dtype=torch.int64).view(len(scores), count)
