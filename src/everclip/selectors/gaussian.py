"""Tasks as mixtures of Gaussians over the frozen CLIP's embedding, with one covariance for all of them.

A task is the k-means centers of its normalized training embeddings; the scatter around the centers is pooled over tasks
and shrunk. The score is the log-likelihood.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from sklearn.cluster import KMeans
from torch import Tensor

from everclip.selectors.scored import ScoredConfig, ScoredSelector
from everclip.streams.stream import TaskInfo

IMAGES_PER_CLUSTER = 20
"""Fewer make centers that fit their own images and no others."""


class GaussianConfig(ScoredConfig):
    """Settings of the Gaussian selector."""

    clusters: int = Field(8, ge=1, description="k-means centers per task, where it has enough images")


class Gaussian(ScoredSelector):
    """Log-likelihood under each task's mixture."""

    name = "gaussian"
    summary = "per-task Gaussian mixtures with one shrunk covariance on frozen embeddings"
    Config = GaussianConfig

    def describe(self, task: TaskInfo, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Centers (K, D), scatter around them (D, D), number of images."""
        x = F.normalize(features.double(), dim=-1)
        clusters = max(1, min(self.config.clusters, len(x) // IMAGES_PER_CLUSTER))
        found = KMeans(clusters, n_init=4, random_state=task.index).fit(x.numpy())
        centers = torch.from_numpy(found.cluster_centers_)
        residual = x - centers[torch.from_numpy(found.labels_).long()]
        return {"centers": centers, "scatter": residual.T @ residual, "count": torch.tensor(len(x))}

    def prepare(self) -> None:
        """Pool the scatter of all tasks."""
        scatter = torch.stack([task["scatter"] for task in self.learned]).sum(dim=0)
        covariance = shrunk(scatter, int(sum(task["count"] for task in self.learned)))
        self._whitener = torch.linalg.cholesky(torch.linalg.inv(covariance))

    def scores(self, features: Tensor) -> Tensor:
        """Log-likelihoods (B, T), up to one constant."""
        x = F.normalize(features.double(), dim=-1) @ self._whitener
        columns = []
        for task in self.learned:
            distance = torch.cdist(x, task["centers"] @ self._whitener).square()
            columns.append((-distance / 2).logsumexp(dim=1) - math.log(len(task["centers"])))
        return torch.stack(columns, dim=1)


def shrunk(scatter: Tensor, count: int) -> Tensor:
    """Oracle-approximating shrinkage (OAS) of a covariance toward a multiple of the identity.

    Chen et al. 2010, "Shrinkage algorithms for MMSE covariance estimation", eq. 23; from the scatter matrix alone, so
    that no embedding of an old task is needed.

    Args:
        scatter: Σ (x − μ)(x − μ)ᵀ, (D, D).
        count: number of samples in it.
    """
    size = len(scatter)
    covariance = scatter / count
    mean = covariance.diagonal().mean()
    alpha = covariance.square().mean()
    denominator = (count + 1) * (alpha - mean**2 / size)
    weight = 1.0 if denominator <= 0 else min(1.0, float((alpha + mean**2) / denominator))
    return (1 - weight) * covariance + weight * mean * torch.eye(size, dtype=covariance.dtype)
