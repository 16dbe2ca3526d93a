"""Figures of continual learning: pure functions on accuracy matrices and on per-image correctness.

`A` is an accuracy matrix in percent, (K, K): `A[i, j]` is the accuracy on dataset j after learning task i,
both counted from 0 in task order. NaN means "not measured"; a figure that needs such an entry is NaN. Every
function also takes leading axes, (..., K, K), and returns one figure per matrix; this is how the bootstrap
runs over its samples.

`datasets`, if a function has it, is a boolean mask (K,) that restricts the mean to some datasets. All functions raise
`ValueError` if a shape does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Metric = Callable[[Array], Array]
"""Any function from matrices (..., K, K) to figures (...), for example `transfer` or a partial of it."""

# Bootstrap samples drawn at once: keeps the counts of 25,000 test images below 20 MB.
_CHUNK = 100


def transfer_per_dataset(A: ArrayLike) -> Array:
    """Zero-shot ability kept: `Transfer_j = mean over i < j of A[i, j]`; (..., K), NaN for j = 0.

    Source: Zheng et al., "Preventing Zero-Shot Transfer Degradation in Continual Learning of Vision-Language
    Models" (ZSCL), ICCV 2023.
    """
    A = _matrices(A)
    rows_before = np.arange(A.shape[-1], dtype=float)
    rows_before[0] = np.nan
    before: Array = np.where(np.triu(np.ones(A.shape[-2:], dtype=bool), 1), A, 0.0).sum(-2)
    return before / rows_before


def average_per_dataset(A: ArrayLike) -> Array:
    """Accuracy over the whole stream: `Avg_j = mean over all i of A[i, j]`; (..., K).

    Source: ZSCL, ICCV 2023.
    """
    mean: Array = _matrices(A).mean(-2)
    return mean


def last_per_dataset(A: ArrayLike) -> Array:
    """Accuracy at the end: `Last_j = A[K-1, j]`; (..., K).

    Source: ZSCL, ICCV 2023.
    """
    return _matrices(A)[..., -1, :]


def forgetting_per_dataset(A: ArrayLike) -> Array:
    """Loss since the best moment: `F_j = max over j <= i < K-1 of A[i, j] - A[K-1, j]`; (..., K).

    NaN for j = K-1, which has had no time to be forgotten. Lower is better; negative is a gain.
    Source: Chaudhry et al., "Riemannian Walk for Incremental Learning", ECCV 2018.
    """
    A = _matrices(A)
    learned = np.tri(A.shape[-1], dtype=bool)[:-1]
    best: Array = np.where(learned, A[..., :-1, :], -np.inf).max(-2, initial=-np.inf)
    best[..., -1] = np.nan
    return best - A[..., -1, :]


def backward_transfer_per_dataset(A: ArrayLike) -> Array:
    """Effect of later tasks on earlier ones: `B_j = A[K-1, j] - A[j, j]`; (..., K), NaN for j = K-1.

    Source: Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017.
    """
    A = _matrices(A)
    change = A[..., -1, :] - np.diagonal(A, axis1=-2, axis2=-1)
    change[..., -1] = np.nan
    return change


def transfer(A: ArrayLike, datasets: ArrayLike | None = None) -> Array:
    """Mean of `transfer_per_dataset` over the datasets j >= 1; (...). NaN for a single task."""
    return _mean(transfer_per_dataset(A), slice(1, None), datasets)


def average(A: ArrayLike, datasets: ArrayLike | None = None) -> Array:
    """Mean of `average_per_dataset` over all datasets; (...)."""
    return _mean(average_per_dataset(A), slice(None), datasets)


def last(A: ArrayLike, datasets: ArrayLike | None = None) -> Array:
    """Mean of `last_per_dataset` over all datasets; (...)."""
    return _mean(last_per_dataset(A), slice(None), datasets)


def forgetting(A: ArrayLike, datasets: ArrayLike | None = None) -> Array:
    """Mean of `forgetting_per_dataset` over the datasets j < K-1; (...). NaN for a single task."""
    return _mean(forgetting_per_dataset(A), slice(None, -1), datasets)


def backward_transfer(A: ArrayLike, datasets: ArrayLike | None = None) -> Array:
    """Mean of `backward_transfer_per_dataset` over the datasets j < K-1; (...). NaN for a single task."""
    return _mean(backward_transfer_per_dataset(A), slice(None, -1), datasets)


def incremental(A: ArrayLike, sizes: ArrayLike, datasets: ArrayLike | None = None) -> Array:
    """Accuracy over all test images of the tasks learned so far, after each step; (..., K).

    `S_i = sum over j <= i of sizes[j] * A[i, j] / sum over j <= i of sizes[j]`, with `sizes` (K,) the numbers
    of test images; NaN where the mask `datasets` leaves none. Mean and last entry are the published Avg and Last of
    class-incremental learning.

    Source: Rebuffi et al., "iCaRL: Incremental Classifier and Representation Learning", CVPR 2017.
    """
    A = _matrices(A)
    sizes = np.asarray(sizes, dtype=float)
    if sizes.shape != A.shape[-1:]:
        raise ValueError(f"sizes has shape {sizes.shape}, expected one size per dataset, {A.shape[-1:]}")
    if datasets is not None:
        sizes = np.where(datasets, sizes, 0.0)
    images: Array = np.cumsum(sizes)
    # A step that was not measured is NaN and stays so, but what the mask leaves out must not spread.
    right: Array = np.where(np.tri(A.shape[-1], dtype=bool) & (sizes > 0), A * sizes, 0.0).sum(-1)
    share: Array = np.divide(right, images, out=np.full_like(right, np.nan), where=images > 0)
    return share


def above_chance(zero_shot: ArrayLike, chance: ArrayLike, factor: float = 2.0) -> NDArray[np.bool_]:
    """Datasets the untouched model knows something of: `zero_shot >= factor * chance`, all (K,), in percent.

    Zero-shot ability can only be lost where there was some, so figures over these datasets are reported
    beside those over all.
    """
    return np.asarray(zero_shot, dtype=float) >= factor * np.asarray(chance, dtype=float)


def accuracy_matrix(correct: Sequence[ArrayLike]) -> Array:
    """Accuracy in percent, (R, K), from per-image correctness.

    Args:
        correct: for each of the K datasets an array (R, N_j): row i tells which of the N_j test images were
            right after learning task i. Boolean, or float with NaN in the rows that were not measured.
    """
    return np.stack([100 * rows.mean(1) for rows in _correctness(correct)], axis=1)


def resampled_accuracy(correct: Sequence[ArrayLike], samples: int = 1000, seed: int = 0) -> Array:
    """Accuracy matrices in percent, (samples, R, K), of test sets drawn again with replacement.

    Each dataset is drawn on its own, N_j images of N_j, and one draw serves all R rows, so rows stay paired.

    Args:
        correct: as in `accuracy_matrix`.
        samples: number of draws.
        seed: of the draws; equal seeds and inputs give equal results.
    """
    arrays = _correctness(correct)
    generator = np.random.default_rng(seed)
    accuracy = np.empty((samples, arrays[0].shape[0], len(arrays)))
    for j, rows in enumerate(arrays):
        count = rows.shape[1]
        measured = ~np.isnan(rows).any(1)
        # Images that are right in the same rows are interchangeable: drawing how many come from each group is
        # the same draw, and there are far fewer groups than images.
        bits = np.packbits(rows[measured].astype(bool), axis=0)
        _, first, sizes = np.unique(bits, axis=1, return_index=True, return_counts=True)
        groups = rows[:, first].T
        for start in range(0, samples, _CHUNK):
            part = accuracy[start : start + _CHUNK, :, j]
            part[:] = 100 * (generator.multinomial(count, sizes / count, size=len(part)) @ groups) / count
    return accuracy


def interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Central interval (low, high) that holds the share `level` of bootstrap figures `values` (samples,)."""
    tail = (1 - level) / 2
    low, high = np.quantile(np.asarray(values, dtype=float), [tail, 1 - tail])
    return float(low), float(high)


def wilson_interval(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a share of which `hits` of `count` trials (at least one) tell: (low, high) within 0..1.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927.
    """
    if not 0 <= hits <= count or count < 1:
        raise ValueError(f"{hits} hits of {count} trials are no share")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, denominator = hits / count, 2 * (count + z**2)
    center = (2 * count * share + z**2) / denominator
    spread = z / denominator * math.sqrt(4 * count * share * (1 - share) + z**2)
    # At the ends the formula gives 0 and 1, but for rounding.
    return 0.0 if hits == 0 else center - spread, 1.0 if hits == count else center + spread


def paired_bootstrap(
    correct: Sequence[ArrayLike],
    metric: Metric,
    other: Sequence[ArrayLike] | None = None,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a figure over the test images, or of the difference of two methods.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993 (percentile interval).

    Args:
        correct: for each dataset (K, N_j), as in `accuracy_matrix`.
        metric: `transfer`, `average`, …; `functools.partial(transfer, datasets=mask)` restricts the datasets.
        other: another method's correctness on the same images; the interval is then that of
            `metric(correct) - metric(other)`, with the same images drawn for both.
        samples: number of draws.
        seed: of the draws.
        level: share of the draws inside the interval.

    Returns:
        (low, high) in percent points; both NaN where the metric is.
    """
    if other is None:
        return interval(metric(resampled_accuracy(correct, samples, seed)), level)
    both = [np.concatenate([a, b]) for a, b in zip(_correctness(correct), _correctness(other), strict=True)]
    ours, theirs = np.split(resampled_accuracy(both, samples, seed), 2, axis=1)
    return interval(metric(ours) - metric(theirs), level)


def _matrices(A: ArrayLike) -> Array:
    A = np.asarray(A, dtype=float)
    if A.ndim < 2 or A.shape[-1] != A.shape[-2] or A.shape[-1] == 0:
        raise ValueError(f"an accuracy matrix has shape (..., K, K), not {A.shape}")
    return A


def _mean(values: Array, defined: slice, datasets: ArrayLike | None) -> Array:
    """Mean of (..., K) over the datasets where the figure is defined and the mask true; NaN if none is."""
    chosen = np.zeros(values.shape[-1], dtype=bool)
    chosen[defined] = True
    if datasets is not None:
        mask = np.asarray(datasets)
        if mask.shape != chosen.shape or mask.dtype != bool:
            raise ValueError(f"datasets must be a boolean mask of shape {chosen.shape}, not {mask.dtype} {mask.shape}")
        chosen &= mask
    if not chosen.any():
        return np.full(values.shape[:-1], np.nan)[()]
    mean: Array = values[..., chosen].mean(-1)
    return mean


def _correctness(correct: Sequence[ArrayLike]) -> list[Array]:
    arrays = [np.asarray(rows, dtype=float) for rows in correct]
    for j, rows in enumerate(arrays):
        if rows.ndim != 2 or rows.shape[0] != arrays[0].shape[0] or rows.shape[1] == 0:
            raise ValueError(f"correctness of dataset {j} has shape {rows.shape}, expected (rows, at least one image)")
    return arrays
