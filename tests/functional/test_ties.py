"""Rounding never decides: of equal scores the first one is the largest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from everclip.functional.ties import FINE_TIE, TIE, first_largest, largest_first


@given(st.integers(0, 10_000), st.integers(2, 30), st.floats(1e-3, 1e3))
def test_last_bits_change_nothing(seed: int, classes: int, size: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    levels = torch.randint(-3, 4, (5, classes), generator=draw).float() * size
    noisy = levels * (1 + TIE / 4 * (2 * torch.rand(5, classes, generator=draw) - 1))
    assert torch.equal(first_largest(noisy), levels.argmax(dim=1))
    assert torch.equal(largest_first(noisy, classes), levels.argsort(dim=1, descending=True, stable=True))


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(0, 50))
def test_the_first_of_a_ranking_is_the_largest(seed: int, classes: int, count: int) -> None:
    scores = torch.randn(4, classes, generator=torch.Generator().manual_seed(seed)).softmax(dim=1)
    places = largest_first(scores, count)
    assert places.shape == (4, min(count, classes))
    assert all(len(set(row)) == len(row) for row in places.tolist())
    if count:
        assert torch.equal(places[:, 0], first_largest(scores))


def test_what_is_apart_is_not_equal() -> None:
    scores = torch.tensor([[0.25, 0.2501, 0.2499]], dtype=torch.float64)
    assert first_largest(scores).item() == 1
    assert first_largest(torch.tensor([[1.0, 1.0 + 1e-7]]).double(), FINE_TIE).item() == 1
    assert first_largest(torch.tensor([[1.0, 1.0 + 1e-12]]).double(), FINE_TIE).item() == 0


def test_minus_infinity_is_never_the_largest() -> None:
    out = float("-inf")
    assert first_largest(torch.tensor([[out, -2.0, -2.0, out]])).item() == 1
    assert first_largest(torch.tensor([3.0, 3.0])).item() == 0


@pytest.mark.parametrize("rows", [0, 3])
def test_shapes(rows: int) -> None:
    assert first_largest(torch.rand(rows, 4)).shape == (rows,)
    assert largest_first(torch.rand(rows, 4), 2).shape == (rows, 2)
