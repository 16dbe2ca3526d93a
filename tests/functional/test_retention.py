"""The laws of parameter retention."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from everclip.functional.retention import fuse, retain

shapes = st.one_of(st.tuples(st.integers(1, 12)), st.tuples(st.integers(1, 9), st.integers(1, 9)))
shares = st.floats(0, 1)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Old and new values; coarse ones, so that equal changes are common."""
    shape, seed = draw(shapes), draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    old = torch.randn(shape, generator=generator)
    if draw(st.booleans()):
        return old.round(), (old + torch.randn(shape, generator=generator)).round()
    return old, old + draw(st.sampled_from([1e-6, 0.1, 10.0])) * torch.randn(shape, generator=generator)


# -- hard --------------------------------------------------------------------------------------------------------------


@given(pairs())
def test_hard_ends_of_the_scale(pair: tuple[Tensor, Tensor]):
    old, new = pair
    assert torch.equal(retain(old, new, 1.0), old)
    assert torch.equal(retain(old, new, 0.0), new)


@given(pairs(), shares)
def test_hard_takes_the_least_changed_back(pair: tuple[Tensor, Tensor], ratio: float):
    old, new = pair
    kept = retain(old, new, ratio)
    assert kept.shape == new.shape
    went_back, stayed = kept == old, kept == new
    assert bool((went_back | stayed).all())
    assert int(went_back.sum()) >= int(ratio * new.numel() + 1e-9)
    change = (new - old).abs()
    if (~went_back).any() and (~stayed).any():
        assert change[~stayed].max() <= change[~went_back].min()


@given(pairs(), shares)
def test_hard_changes_exactly_the_rest(pair: tuple[Tensor, Tensor], ratio: float):
    """With changes that all differ, the count is exact."""
    old, _ = pair
    count = old.numel()
    new = old + torch.arange(1, count + 1).view_as(old)
    kept = retain(old, new, ratio)
    assert int((kept == old).sum()) == int(ratio * count + 1e-9)
    assert torch.equal((kept == old).flatten(), torch.arange(count) < int(ratio * count + 1e-9))


def test_hard_counts_as_written():
    """0.7 · 10 is 7, though the float is a little less; of equal changes the first go back."""
    old, new = torch.zeros(10), torch.ones(10)
    assert retain(old, new, 0.7).tolist() == [0.0] * 7 + [1.0] * 3
    assert retain(torch.zeros(1000), torch.ones(1000), 0.5).tolist() == [0.0] * 500 + [1.0] * 500


# -- soft --------------------------------------------------------------------------------------------------------------


@given(pairs())
def test_soft_ends_of_the_scale(pair: tuple[Tensor, Tensor]):
    """With b = 1 everything is new, in tall and wide matrices too."""
    old, new = pair
    torch.testing.assert_close(fuse(old, new, 1.0), new, rtol=1e-6, atol=1e-6)


@given(pairs(), shares)
def test_soft_without_a_change(pair: tuple[Tensor, Tensor], b: float):
    old, _ = pair
    torch.testing.assert_close(fuse(old, old, b), old, rtol=1e-6, atol=1e-6)


@given(pairs(), shares)
def test_soft_lies_between(pair: tuple[Tensor, Tensor], b: float):
    """In the old basis every entry moves toward the new by b at least, and the most changed one all the way."""
    old, new = (part.double() for part in pair)
    basis = torch.linalg.svd(old).U if old.dim() == 2 else torch.eye(len(old), dtype=torch.float64)
    before, after, fused = basis.T @ old, basis.T @ new, basis.T @ fuse(old, new, b)
    change = after - before
    share = (fused - before) * change.sign()
    slack = 1e-9 * (1 + float(change.abs().max()))
    assert bool((share >= b * change.abs() - slack).all())
    assert bool((share <= change.abs() + slack).all())
    most = change.abs().argmax()
    assert (fused - after).flatten()[most].abs() < slack


@given(pairs(), shares)
def test_soft_of_a_vector_is_by_entry(pair: tuple[Tensor, Tensor], b: float):
    old, new = (part.flatten() for part in pair)
    change = (new - old).abs().double()
    weight = (change / change.max().clamp(min=1e-300) + b).clamp(max=1)
    expected = old + weight * (new.double() - old)
    torch.testing.assert_close(fuse(old, new, b).double(), expected, rtol=1e-5, atol=1e-5)


def test_soft_depends_on_the_matrix_and_not_on_the_signs_of_its_vectors():
    """A matrix that is its own basis up to signs is mixed by entry."""
    old = torch.diag(torch.tensor([3.0, -2.0, 1.0]))
    new = old + torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.1]])
    expected = old + torch.tensor([[0.0, 1.0, 0.0], [0.5 * 0.7, 0.0, 0.0], [0.0, 0.0, 0.1 * 0.3]])
    torch.testing.assert_close(fuse(old, new, 0.2), expected)


@pytest.mark.parametrize("law", [lambda old, new: retain(old, new, 0.5), lambda old, new: fuse(old, new, 0.6)])
def test_arguments_stay_as_they_are(law):
    old, new = torch.randn(3, 4), torch.randn(3, 4)
    copies = old.clone(), new.clone()
    result = law(old, new)
    result.zero_()
    assert torch.equal(old, copies[0])
    assert torch.equal(new, copies[1])
