"""Does an image show anything that was learned? A distance to what is known, turned into a probability.

For every task, class means and a covariance of its frozen embeddings are kept. These statistics add up, so a task can
be left out exactly. Leaving out each task in turn shows what images of unknown kinds look like, so no image from
outside is needed for the calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from everclip.errors import EverclipError
from everclip.functional.analytic import ROUNDING, Statistics, scatter_around, shrunk, squared_distances

USUAL = 0.95
"""Of a single task, nothing shows what is unknown: this share of its own images counts as known."""


LEAST_SPREAD = 1e-6
"""Distances of a few equal images spread less than this, by rounding alone."""


@dataclass(frozen=True)
class Known:
    """What is known of one task.

    Attributes:
        statistics: of its training images' normalized embeddings.
        held_out: normalized embeddings (n, D) of other images of it.
    """

    statistics: Statistics
    held_out: Tensor


class Familiarity:
    """p(x is of a learned kind) = σ(a · distance + b), a ≤ 0.

    The distance is the Mahalanobis distance to the nearest class mean under one covariance (Lee et al. 2018, arXiv
    1807.03888). a and b are fitted to held-out images, leaving out each task in turn: the images of that task are then
    unknown, those of the others known. Known and unknown images have equal weight in total.

    Args:
        known: the learned tasks, at least one.
        calibration: a and b, where they are known from before; fitted by default.

    Attributes:
        calibration: a and b.
    """

    def __init__(self, known: Sequence[Known], calibration: tuple[float, float] | None = None) -> None:
        self._means, self._root = _fit([task.statistics for task in known])
        self.calibration = calibration or self._fitted(known)

    def _fitted(self, known: Sequence[Known]) -> tuple[float, float]:
        """a and b for the learned tasks: a fit for every task left out, which costs more than an answer does."""
        near, far = [], []
        for task in known if len(known) > 1 else []:
            others = [other for other in known if other is not task]
            means, root = _fit([other.statistics for other in others])
            near.append(_distance(torch.cat([other.held_out for other in others]), means, root))
            far.append(_distance(task.held_out, means, root))
        if not near:
            near.append(self._distance(known[0].held_out))
        return _calibrated(torch.cat(near).numpy(), torch.cat([*far, near[0][:0]]).numpy())

    def probability(self, x: Tensor) -> Tensor:
        """Normalized embeddings (B, D) → p (B,), float64."""
        slope, offset = self.calibration
        return torch.sigmoid(slope * self._distance(x) + offset)

    def _distance(self, x: Tensor) -> Tensor:
        return _distance(x, self._means, self._root)


def _fit(parts: Sequence[Statistics]) -> tuple[Tensor, Tensor]:
    """Class means times R (C, D), and R (D, D): R Rᵀ is the inverse of the shared covariance.

    Only classes that have images count. Between points times R, Euclid's distance is Mahalanobis's.
    """
    sums, counts = torch.cat([part.sums for part in parts]), torch.cat([part.counts for part in parts])
    sums, counts = sums[counts > 0], counts[counts > 0]
    means = sums / counts[:, None]
    gram = torch.stack([part.gram for part in parts]).sum(dim=0)
    scatter = scatter_around(means, counts, gram)
    if float(scatter.trace()) <= ROUNDING * float(gram.trace()):  # a single image of every class: no spread to measure
        scatter = torch.eye(len(gram), dtype=gram.dtype) * gram.trace()
    try:
        root = torch.linalg.cholesky(torch.linalg.inv(shrunk(scatter, int(counts.sum()))))
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # public, but not in its __all__
        raise EverclipError(
            "what is known of the learned images determines no covariance, so it is not what was learned; put the "
            "learner back from a copy or learn anew."
        ) from error
    return means @ root, root


def _distance(x: Tensor, means: Tensor, root: Tensor) -> Tensor:
    """Distance (B,) of x (B, D) to the nearest mean, in units of the typical one in D dimensions; see `_fit`."""
    return (squared_distances(x.double() @ root, means).amin(dim=1) / x.shape[1]).sqrt()


def _calibrated(near: np.ndarray, far: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the log-odds in the distance; by default `USUAL` of the known ones count as known."""
    if not len(near):  # no image to judge by: everything counts as known
        return 0.0, float("inf")
    if len(far):
        from sklearn.linear_model import LogisticRegression  # loads slowly: only where there is something to fit

        found = LogisticRegression(C=100.0, class_weight="balanced").fit(
            np.concatenate([near, far])[:, None], np.repeat([1, 0], [len(near), len(far)])
        )
        if found.coef_[0, 0] < 0:
            return float(found.coef_[0, 0]), float(found.intercept_[0])
    spread = float(near.std())
    if spread <= LEAST_SPREAD:
        spread = 1.0
    return -1 / spread, float(np.quantile(near, USUAL)) / spread
