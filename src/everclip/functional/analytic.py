"""The closed forms of the analytic learners: statistics, solutions, leave-one-out, fusion with zero-shot.

Pure functions and values in float64 on the CPU; they know tensors only. Notation: features φ (N, M), class indices y
(N,), one-hot targets Y (N, C), G = Σ φᵀφ, Q = Σ φᵀY.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.functional.ties import first_largest

ROUNDING = 1e-12
"""A weight 1 − h below this is rounding: the image alone decides its own fit."""


@dataclass(frozen=True)
class Statistics:
    """All that ridge regression, class means and a shared covariance need of labeled features.

    Statistics of disjoint data add up, and what was added can be subtracted again.

    Attributes:
        gram: G = Σ φᵀφ (M, M), float64.
        sums: Qᵀ, the sum of the features of each class (C, M), float64.
        counts: images of each class (C,), int64.
    """

    gram: Tensor
    sums: Tensor
    counts: Tensor

    @staticmethod
    def empty(classes: int, width: int) -> Statistics:
        """Statistics of no data: C classes, M features."""
        gram = torch.zeros(width, width, dtype=torch.float64)
        return Statistics(gram, gram.new_zeros(classes, width), torch.zeros(classes, dtype=torch.long))

    def add_(self, features: Tensor, labels: Tensor) -> None:
        """Add features (B, M), float64, with labels (B,), in place."""
        self.gram.addmm_(features.T, features)
        self.sums.index_add_(0, labels, features)
        self.counts.add_(torch.bincount(labels, minlength=len(self.counts)))


def pack_symmetric(matrix: Tensor) -> Tensor:
    """The lower triangle of a symmetric matrix (M, M), row by row: M·(M + 1)/2 numbers."""
    return matrix[torch.ones_like(matrix, dtype=torch.bool).tril_()]


def unpack_symmetric(packed: Tensor) -> Tensor:
    """What `pack_symmetric` packed, to the last bit."""
    width = int((2 * len(packed)) ** 0.5)
    matrix = packed.new_zeros(width, width)
    matrix[torch.ones_like(matrix, dtype=torch.bool).tril_()] = packed
    return matrix + matrix.tril(-1).T


def joint_rows(columns: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
    """What several tasks say of each class, summed: a class may come again in a later task.

    Args:
        columns: per task, the joint column of each of its classes (C_t,).
        parts: per task, a row for each of its classes (C_t, …).

    Returns:
        (C, …), C the number of joint columns.
    """
    total = parts[0].new_zeros(1 + max(int(own.max()) for own in columns), *parts[0].shape[1:])
    for own, part in zip(columns, parts, strict=True):
        total.index_add_(0, own, part)
    return total


def joint_gram(packed: Sequence[Tensor]) -> Tensor:
    """G of all tasks (M, M), from what `pack_symmetric` made of each one's."""
    total = unpack_symmetric(packed[0])
    for part in packed[1:]:
        total += unpack_symmetric(part)
    return total


def scatter_around(means: Tensor, counts: Tensor, gram: Tensor) -> Tensor:
    """Σ (φ − μ)(φ − μ)ᵀ around class means (C, M) with counts (C,), from G (M, M): G − Σ_c n_c μ_c μ_cᵀ."""
    return gram - (means.T * counts) @ means


def random_projection(width: int, features: int, seed: int) -> Tensor:
    """W_rand (D, M) ~ N(0, 1), float64: a function of its arguments alone (RanPAC, arXiv 2307.02251, §4).

    Drawn as float32 by torch's CPU generator, which gives the same numbers everywhere.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(width, features, generator=generator, dtype=torch.float32).double()


def rbf_kernel(a: Tensor, b: Tensor, gamma: float) -> Tensor:
    """exp(−γ ‖a − b‖²) of unit vectors (N, D) and (P, D) → (N, P) (RAIL, arXiv 2406.18868, §3)."""
    return (a @ b.T).sub_(1).mul_(2 * gamma).exp_()


class Factor:
    """Cholesky factor L of A + λI, A symmetric and positive semi-definite (M, M).

    Raises:
        torch.linalg.LinAlgError: λ is too small for A in float64.
    """

    def __init__(self, matrix: Tensor, ridge: float) -> None:
        shifted = matrix.clone()
        shifted.diagonal().add_(ridge)
        self._lower = torch.linalg.cholesky(shifted)

    def solve(self, right: Tensor) -> Tensor:
        """(A + λI)⁻¹ right: (M, C) → (M, C)."""
        return torch.cholesky_solve(right, self._lower)

    def quadratic(self, rows: Tensor) -> Tensor:
        """xᵀ (A + λI)⁻¹ x of each row x: (N, M) → (N,). With A = G the leverage h of features x."""
        solved: Tensor = torch.linalg.solve_triangular(self._lower, rows.T, upper=False)
        return solved.square().sum(dim=0)


def leave_one_out(fitted: Tensor, leverage: Tensor, targets: Tensor) -> Tensor:
    """What ridge regression would say of images if each were not in the data, exactly and without a second solve.

    ŷ₋ᵢ = (ŷᵢ − hᵢ yᵢ) / (1 − hᵢ), the hat-matrix identity (Allen 1974, PRESS).

    Args:
        fitted: ŷ (N, C), of images that are in the data.
        leverage: their diagonal entries h (N,) of the hat matrix.
        targets: y (N, C).
    """
    share = leverage[:, None]
    return (fitted - share * targets) / (1 - share).clamp(min=ROUNDING)


def cosine_to_means(x: Tensor, sums: Tensor, left_out: Tensor | None = None) -> Tensor:
    """Cosine of x (N, D) to the mean of each class (N, C).

    Args:
        x: unit vectors.
        sums: class sums (C, D).
        left_out: classes (N,) of x where x is in the sums: each is then compared as if it were not.
    """
    scores = x @ F.normalize(sums, dim=1).T
    if left_out is not None:
        others = F.normalize(sums[left_out] - x, dim=1)
        scores[torch.arange(len(x)), left_out] = (x * others).sum(dim=1)
    return scores


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖² of points (N, D) and (C, D) → (N, C), by one matrix product."""
    norms = a.square().sum(dim=1, keepdim=True) + b.square().sum(dim=1)
    return (norms - 2 * a @ b.T).clamp(min=0)


def distances(x: Tensor, means: Tensor, precision: Tensor) -> Tensor:
    """Squared Mahalanobis distance of x (N, D) to each mean (C, D) under one Σ⁻¹ (D, D): (N, C)."""
    root = torch.linalg.cholesky(precision)
    return squared_distances(x @ root, means @ root)


def distances_left_out(
    x: Tensor, labels: Tensor, means: Tensor, counts: Tensor, precision: Tensor, weight: float
) -> Tensor:
    """`distances` of x, each as if it were neither in its class mean nor in Σ = weight · S/N + (a multiple of I).

    Without x its class mean moves by d/(n − 1), d = x − μ, and Σ loses κ d dᵀ, κ = weight · n / ((n − 1) N): the
    Sherman-Morrison formula gives the rest. N, the multiple of I and `weight` stay as they are.

    Args:
        x: points (B, D) that are in the means and in Σ.
        labels: their classes (B,), each of at least two images.
        means: class means (C, D).
        counts: images per class (C,); N is their sum.
        precision: Σ⁻¹ (D, D).
        weight: of the scatter matrix S in Σ.
    """
    rows, n = torch.arange(len(x)), counts[labels].double()
    d = x - means[labels]
    direction = d @ precision
    along = (direction * x).sum(dim=1, keepdim=True) - direction @ means.T  # dᵀ Σ⁻¹ (x − μ_c)
    squared = distances(x, means, precision)
    squared[rows, labels] *= (n / (n - 1)).square()  # x − μ₋ᵢ = d · n/(n − 1)
    along[rows, labels] *= n / (n - 1)
    remaining = (n - 1) * counts.sum() / (weight * n) - (direction * d).sum(dim=1)
    return squared + along.square() / remaining.clamp(min=ROUNDING)[:, None]


def shrunk(scatter: Tensor, count: int) -> Tensor:
    """Oracle-approximating shrinkage (OAS) of a covariance toward a multiple of the identity.

    Chen et al. 2010, "Shrinkage algorithms for MMSE covariance estimation", eq. 23; from the scatter matrix alone, so
    that no embedding of an old task is needed.

    Args:
        scatter: Σ (x − μ)(x − μ)ᵀ, (D, D).
        count: number of samples in it.
    """
    covariance = scatter / count
    weight = shrinkage(scatter, count)
    target = covariance.diagonal().mean() * torch.eye(len(scatter), dtype=covariance.dtype)
    return (1 - weight) * covariance + weight * target


def shrinkage(scatter: Tensor, count: int) -> float:
    """The weight of the identity in `shrunk`, 0 to 1."""
    covariance = scatter / count
    mean = covariance.diagonal().mean()
    alpha = covariance.square().mean()
    denominator = (count + 1) * (alpha - mean**2 / len(scatter))
    return 1.0 if denominator <= 0 else min(1.0, float((alpha + mean**2) / denominator))


def mixture_weights(parts: Tensor, labels: Tensor, penalty: float = 1e-5, steps: int = 50) -> tuple[Tensor, float]:
    """Weights w ≥ 0 such that softmax(Σ_p w_p · parts_p) fits labels best: temperature and fusion in one.

    The mean cross-entropy is convex in w, so Newton's steps with halving find the one optimum.

    Args:
        parts: scores of P classifiers for N images (P, N, C), float64.
        labels: (N,) int64.
        penalty: of ½ ‖w‖²; keeps w finite where the images are separated perfectly.
        steps: at most this many Newton steps.

    Returns:
        (P,) weights and the mean cross-entropy reached.
    """

    def objective(w: Tensor) -> float:
        loss = F.cross_entropy(torch.tensordot(w, parts, dims=1), labels)
        return float(loss) + penalty / 2 * float(w.square().sum())

    chosen = parts[:, torch.arange(len(labels)), labels]
    used = torch.ones(len(parts), dtype=torch.bool)
    while True:
        w = torch.zeros(len(parts), dtype=parts.dtype)
        value = objective(w)
        for _ in range(steps):
            p = torch.tensordot(w, parts, dims=1).softmax(dim=1)
            weighted = parts * p
            mean = weighted.sum(dim=2)
            gradient = (mean - chosen).mean(dim=1) + penalty * w
            second = torch.einsum("pnc,qnc->pq", weighted, parts) - mean @ mean.T
            hessian = second / len(labels) + penalty * torch.eye(len(w), dtype=w.dtype)
            step = torch.zeros_like(w)
            step[used] = torch.linalg.solve(hessian[used][:, used], gradient[used])
            while float(step.abs().max()) > ROUNDING and objective(w - step) > value:
                step = step / 2
            w, before = w - step, value
            value = objective(w)
            if before - value <= ROUNDING:
                break
        if not used.any() or (w[used] >= 0).all():
            return w.clamp(min=0), value
        used &= w >= 0  # a classifier that would count against itself is left out, and the rest fitted again


def share_among_learned(zero_shot: Tensor, learned: Sequence[int], scores: Tensor) -> Tensor:
    """Classes not learned keep CLIP's probability exactly; the learned ones divide what is left by `scores`.

    Args:
        zero_shot: p(c|x) of the original CLIP over all candidates (B, K).
        learned: which of the K candidates are learned.
        scores: p(c | x, c is learned), (B, learned candidates); rows sum to 1.

    Returns:
        p(c|x) (B, K), rows sum to 1.
    """
    learned, fused = list(learned), zero_shot.clone()
    fused[:, learned] = zero_shot[:, learned].sum(dim=1, keepdim=True) * scores.to(fused.dtype)
    return fused


def gated(zero_shot: Tensor, learned: Sequence[int], scores: Tensor, beta: float) -> Tensor:
    """RAIL's rule (arXiv 2406.18868): (1 − β) p_zs + β p̂ where CLIP's own answer is a learned class, else p_zs.

    Args:
        zero_shot: p_zs over all candidates (B, K).
        learned: which of the K candidates are learned.
        scores: p̂ (B, learned candidates); raw outputs of the regression in the paper, so no probability.
        beta: weight of p̂.
    """
    places, fused = torch.as_tensor(learned), (1 - beta) * zero_shot
    fused[:, places] += beta * scores.to(fused.dtype)
    return torch.where(torch.isin(first_largest(zero_shot), places)[:, None], fused, zero_shot)


def sample_rows(identities: Tensor, labels: Tensor, count: int) -> Tensor:
    """Which of N images are drawn, at most `count`: neither their order nor batches nor the processor matter.

    Those with the smallest numbers: the sample of a union is the sample of the samples.

    Args:
        identities: a number per image (N,), int64, as good as random and the same wherever the image is seen.
        labels: classes (N,); of one image under two labels the smaller one goes first.
        count: of images to draw.

    Returns:
        Their indices in ascending order, int64.
    """
    by_number = sorted(range(len(labels)), key=list(zip(identities.tolist(), labels.tolist(), strict=True)).__getitem__)
    return torch.tensor(sorted(by_number[:count]), dtype=torch.long)
