"""Laws of the closed forms, each against the long way round."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from everclip.functional.analytic import (
    Factor,
    Statistics,
    cosine_to_means,
    distances,
    distances_left_out,
    gated,
    leave_one_out,
    mixture_weights,
    pack_symmetric,
    random_projection,
    rbf_kernel,
    sample_rows,
    share_among_learned,
    shrinkage,
    shrunk,
    unpack_symmetric,
)

seeds = st.integers(0, 2**20)


def labeled(seed: int, count: int = 24, width: int = 6, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Unit vectors around class centers; every class has at least two."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat(
        [torch.arange(classes).repeat(2), torch.randint(classes, (count - 2 * classes,), generator=generator)]
    )
    centers = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return F.normalize(centers[labels] + noise, dim=1), labels


def statistics(x: Tensor, labels: Tensor, batch: int = 1000, classes: int = 4) -> Statistics:
    total = Statistics.empty(classes, x.shape[1])
    for rows in torch.arange(len(x)).split(batch):
        total.add_(x[rows], labels[rows])
    return total


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 30))
def test_statistics_depend_neither_on_order_nor_on_batches(seed: int, batch: int):
    x, labels = labeled(seed)
    one_hot = F.one_hot(labels, 4).double()
    turned = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    total = statistics(x[turned], labels[turned], batch)
    torch.testing.assert_close(total.gram, x.T @ x, rtol=0, atol=1e-10)
    torch.testing.assert_close(total.sums, one_hot.T @ x, rtol=0, atol=1e-10)
    assert torch.equal(total.counts, one_hot.sum(dim=0).long())


@pytest.mark.parametrize("width", [1, 2, 7, 64])
def test_packing_loses_nothing(width: int):
    x = torch.randn(9, width, dtype=torch.float64)
    gram = x.T @ x
    packed = pack_symmetric(gram)
    assert packed.shape == (width * (width + 1) // 2,)
    lower = gram.tril()
    assert torch.equal(unpack_symmetric(packed), lower + lower.tril(-1).T)


@settings(max_examples=25, deadline=None)
@given(seeds, st.sampled_from([1e-3, 1.0, 100.0]))
def test_ridge_left_out_is_the_regression_without_the_image(seed: int, ridge: float):
    x, labels = labeled(seed)
    targets = F.one_hot(labels, 4).double()
    factor = Factor(x.T @ x, ridge)
    fitted = x @ factor.solve(x.T @ targets)
    found = leave_one_out(fitted, factor.quadratic(x), targets)
    for row in range(len(x)):
        rest = torch.arange(len(x)) != row
        without = x[rest].T @ x[rest] + ridge * torch.eye(x.shape[1], dtype=x.dtype)
        weights = torch.linalg.solve(without, x[rest].T @ targets[rest])
        torch.testing.assert_close(found[row], x[row] @ weights, rtol=0, atol=1e-8)


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_kernel_left_out_is_the_regression_without_the_image(seed: int):
    """The identity by which the dual form finds leverages: H = (K − K(K + λI)⁻¹K) / λ."""
    x, labels = labeled(seed)
    targets = F.one_hot(labels, 4).double()
    kernel, ridge = rbf_kernel(x, x, 0.7), 1e-2
    factor = Factor(kernel, ridge)
    found = leave_one_out(kernel @ factor.solve(targets), (1 - factor.quadratic(kernel)) / ridge, targets)
    for row in range(len(x)):
        rest = torch.arange(len(x)) != row
        alpha = Factor(kernel[rest][:, rest], ridge).solve(targets[rest])
        torch.testing.assert_close(found[row], kernel[row, rest] @ alpha, rtol=0, atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(seeds, st.sampled_from([1e-3, 1.0]))
def test_dual_equals_primal_with_linear_features(seed: int, ridge: float):
    x, labels = labeled(seed)
    new, _ = labeled(seed + 1)
    targets = F.one_hot(labels, 4).double()
    primal = new @ Factor(x.T @ x, ridge).solve(x.T @ targets)
    dual = new @ x.T @ Factor(x @ x.T, ridge).solve(targets)
    torch.testing.assert_close(primal, dual, rtol=0, atol=1e-8)


def test_kernel_by_hand():
    a = F.normalize(torch.tensor([[3.0, 4.0], [1.0, 0.0]], dtype=torch.float64), dim=1)
    expected = torch.exp(-0.3 * torch.tensor([[0.0, 0.8], [0.8, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(rbf_kernel(a, a, 0.3), expected)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_class_means_left_out(seed: int):
    x, labels = labeled(seed)
    sums = statistics(x, labels).sums
    found = cosine_to_means(x, sums, labels)
    for row in range(len(x)):
        rest = torch.arange(len(x)) != row
        means = torch.stack([x[rest & (labels == label)].mean(dim=0) for label in range(4)])
        torch.testing.assert_close(found[row], F.cosine_similarity(means, x[row], dim=1), rtol=0, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_distances_left_out(seed: int):
    """Σ = weight · S/N + r·I with N, r and weight as they were: only x leaves the scatter and its class mean."""
    x, labels = labeled(seed)
    total = statistics(x, labels)
    means = total.sums / total.counts[:, None]
    scatter = total.gram - (means.T * total.counts) @ means
    weight = 1 - shrinkage(scatter, len(x))
    covariance = shrunk(scatter, len(x))
    found = distances_left_out(x, labels, means, total.counts, torch.linalg.inv(covariance), weight)
    for row in range(len(x)):
        rest = torch.arange(len(x)) != row
        moved = torch.stack([x[rest & (labels == label)].mean(dim=0) for label in range(4)])
        residual = x[rest] - moved[labels[rest]]
        without = covariance + weight * (residual.T @ residual - scatter) / len(x)
        expected = distances(x[row : row + 1], moved, torch.linalg.inv(without))[0]
        torch.testing.assert_close(found[row], expected, rtol=1e-7, atol=1e-7)


def test_shrinkage_rebuilds_the_covariance():
    x, _ = labeled(3)
    scatter = x.T @ x
    weight = shrinkage(scatter, len(x))
    assert 0 < weight < 1
    identity = torch.eye(x.shape[1], dtype=x.dtype)
    expected = (1 - weight) * scatter / len(x) + weight * (scatter.trace() / len(x) / x.shape[1]) * identity
    torch.testing.assert_close(shrunk(scatter, len(x)), expected)


# -- calibration ---------------------------------------------------------------------------------------------------


def loss(parts: Tensor, weights: Tensor, labels: Tensor) -> float:
    return float(F.cross_entropy(torch.tensordot(weights, parts, dims=1), labels))


def test_mixture_is_the_best_there_is():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (400,), generator=generator)
    signal = F.one_hot(labels, 5).double()
    noise = torch.randn(2, 400, 5, generator=generator, dtype=torch.float64)
    parts = torch.stack([0.1 * signal + 0.1 * noise[0], 2 * signal + 3 * noise[1]])
    weights, reached = mixture_weights(parts, labels)
    assert (weights > 0).all()
    assert reached == pytest.approx(loss(parts, weights, labels), abs=1e-2)
    for factor in (0.9, 1.1):
        for part in range(2):
            other = weights.clone()
            other[part] *= factor
            assert loss(parts, other, labels) > loss(parts, weights, labels)


def test_mixture_leaves_out_a_classifier_that_counts_against_itself():
    labels = torch.arange(60) % 3
    generator = torch.Generator().manual_seed(1)
    good = F.one_hot(labels, 3) + torch.randn(60, 3, generator=generator, dtype=torch.float64)
    weights, _ = mixture_weights(torch.stack([good, -good + torch.randn(60, 3, generator=generator)]), labels)
    alone, _ = mixture_weights(good[None], labels)
    assert weights[1] == 0
    assert weights[0] == pytest.approx(float(alone[0]))
    nothing, _ = mixture_weights(-F.one_hot(labels, 3).double()[None], labels)
    assert nothing.tolist() == [0]


def test_mixture_stays_finite_where_everything_is_right():
    labels = torch.arange(9) % 3
    weights, reached = mixture_weights(F.one_hot(labels, 3).double()[None], labels)
    assert torch.isfinite(weights).all()
    assert reached < 0.01


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 30))
def test_the_sample_of_a_union_is_the_sample_of_the_samples(seed: int, count: int):
    _, labels = labeled(seed)
    # a few images come twice, under one label or two
    numbers = torch.randint(-len(labels), len(labels), labels.shape, generator=torch.Generator().manual_seed(seed))
    turned = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    kept, kept_labels = numbers[:0], labels[:0]
    for rows in turned.split(5):
        together, of = torch.cat([kept, numbers[rows]]), torch.cat([kept_labels, labels[rows]])
        chosen = sample_rows(together, of, count)
        kept, kept_labels = together[chosen], of[chosen]
    at_once = sample_rows(numbers, labels, count)
    pairs = [
        sorted(zip(n.tolist(), of.tolist(), strict=True))
        for n, of in ((kept, kept_labels), (numbers[at_once], labels[at_once]))
    ]
    assert pairs[0] == pairs[1]
    assert len(at_once) == min(count, len(labels))


def test_the_projection_is_the_same_everywhere():
    """Numbers of torch's CPU generator, which is specified: another draw would make stored statistics worthless."""
    torch.manual_seed(5)
    drawn = random_projection(3, 2, seed=7)
    torch.manual_seed(6)
    assert torch.equal(random_projection(3, 2, seed=7), drawn)
    assert not torch.equal(random_projection(3, 2, seed=8), drawn)
    assert drawn.dtype == torch.float64
    assert torch.equal(drawn, drawn.float().double())
    torch.testing.assert_close(
        random_projection(300, 200, 0).std(), torch.tensor(1.0, dtype=torch.float64), atol=0.02, rtol=0
    )


# -- fusion --------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_learned_classes_share_what_zero_shot_leaves_them(seed: int):
    generator = torch.Generator().manual_seed(seed)
    zero_shot = torch.randn(7, 6, generator=generator).softmax(dim=1)
    learned = torch.tensor([True, False, True, True, False, False])
    scores = torch.randn(7, 3, generator=generator, dtype=torch.float64).softmax(dim=1)
    fused = share_among_learned(zero_shot, learned.nonzero().flatten().tolist(), scores)
    assert torch.equal(fused[:, ~learned], zero_shot[:, ~learned])
    torch.testing.assert_close(fused.sum(dim=1), torch.ones(7))
    inside = fused[:, learned] / fused[:, learned].sum(dim=1, keepdim=True)
    torch.testing.assert_close(inside, scores.float())


def test_the_gate_by_hand():
    zero_shot = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]])
    scores = torch.tensor([[-0.1, 0.9], [0.9, 0.1]], dtype=torch.float64)
    expected = torch.tensor([[0.02, 0.78, 0.04], [0.1, 0.3, 0.6]])
    torch.testing.assert_close(gated(zero_shot, [0, 1], scores, 0.8), expected)
