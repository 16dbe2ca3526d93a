"""Class means of frozen embeddings: nearest class mean and linear discriminant analysis."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.errors import InputError
from everclip.functional.analytic import (
    Statistics,
    cosine_to_means,
    distances_left_out,
    scatter_around,
    shrinkage,
    shrunk,
)
from everclip.methods.analytic import Analytic, Fit, sample_wanted, statistics_wanted
from everclip.storage.tensors import Wanted


class NCM(Analytic):
    """Nearest class mean: the cosine to the mean embedding of each class.

    A task keeps class sums (8·C·D bytes) and the calibration sample (4·D bytes per image).
    """

    name = "ncm"
    summary = "nearest class mean on frozen embeddings, fused with zero-shot"
    paper = "Mensink et al. 2013, doi 10.1109/TPAMI.2013.83"

    def memorized(self, statistics: Statistics) -> dict[str, Tensor]:
        """Class sums and counts."""
        return {"sums": statistics.sums, "counts": statistics.counts}

    def memory_wanted(self, classes: int) -> dict[str, Wanted]:
        """See `memorized`."""
        return {**sample_wanted(classes), "sums": statistics_wanted(classes, self.width)["sums"]}

    def fits(self, columns: list[Tensor], counts: Tensor, rows: Tensor, labels: Tensor) -> Iterator[Fit]:
        """There is nothing to choose."""
        sums = self.joint_sums(columns)
        yield {"weights": F.normalize(sums, dim=1).T}, cosine_to_means(rows.double(), sums, labels)

    def scores(self, x: Tensor) -> Tensor:
        """Cosine to each class mean."""
        return x.double() @ self.solution["weights"]


class LDA(Analytic):
    """Linear discriminant analysis: Mahalanobis distance to class means under one shrunk covariance, equal priors.

    A task keeps class sums (8·C·D bytes), second moments (4·D·(D + 1) bytes) and the calibration sample (4·D bytes per
    image). The pooled covariance is G − Σ_c n_c μ_c μ_cᵀ, shrunk by OAS.
    """

    name = "lda"
    summary = "shared-covariance discriminant analysis on frozen embeddings, fused with zero-shot"
    paper = "Hayes and Kanan 2020, arXiv 1909.01520"

    def memory_wanted(self, classes: int) -> dict[str, Wanted]:
        """Sums and second moments."""
        return {**sample_wanted(classes), **statistics_wanted(classes, self.width)}

    def solution_wanted(self) -> dict[str, Wanted]:
        """With the part that no image changes."""
        return {**super().solution_wanted(), "bias": Wanted(torch.float64, ("L",))}

    def fits(self, columns: list[Tensor], counts: Tensor, rows: Tensor, labels: Tensor) -> Iterator[Fit]:
        """There is nothing to choose: the shrinkage follows from the data."""
        means = self.joint_sums(columns) / counts.clamp(min=1)[:, None]
        gram = self.joint_gram()
        scatter = scatter_around(means, counts, gram)
        if float(scatter.trace()) <= 1e-12 * float(gram.trace()):
            raise InputError("lda needs a class with two different training images; give more images or use ncm.")
        count = int(counts.sum())
        precision = torch.linalg.inv(shrunk(scatter, count))
        weight = 1 - shrinkage(scatter, count)
        weights = precision @ means.T
        bias = -(weights * means.T).sum(dim=0) / 2
        left_out = -distances_left_out(rows.double(), labels, means, counts, precision, weight) / 2
        yield {"weights": weights, "bias": bias}, left_out

    def scores(self, x: Tensor) -> Tensor:
        """−½ distance² but for the part that all classes share: x · Σ⁻¹μ − ½ μᵀΣ⁻¹μ."""
        return x.double() @ self.solution["weights"] + self.solution["bias"]
