"""Tasks as mixtures of Gaussians over the frozen CLIP's embedding.

A task is described by the k-means centers of its normalized training embeddings, and so are the reference images, if
there are any. The scatter around all these centers is pooled and shrunk. The covariance of a task is this pooled one,
mixed with a share of the task's own. The score is the log-likelihood.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from everclip.errors import InputError
from everclip.functional.analytic import shrunk, squared_distances
from everclip.selectors.scored import ScoredConfig, ScoredSelector
from everclip.storage.tensors import Wanted
from everclip.streams.stream import TaskInfo

IMAGES_PER_CLUSTER = 20
"""Fewer make centers that fit their own images and no others."""


OWN_COVARIANCE = 0.2
"""Share of a task's own covariance, where it has enough images. With more of it tasks of few images, whose scatter
around their own centers is too small, lose theirs to the others."""


class GaussianConfig(ScoredConfig):
    """Settings of the Gaussian selector."""

    clusters: int = Field(8, ge=1, description="k-means centers per task, where it has enough images")
    reference_clusters: int = Field(
        8, ge=1, description="the same of the reference; more of them claim more images for the original CLIP"
    )


class Gaussian(ScoredSelector):
    """Log-likelihood under each task's mixture."""

    name = "gaussian"
    summary = "per-task Gaussian mixtures with shrunk covariances on frozen embeddings"
    Config = GaussianConfig
    config: GaussianConfig

    def describe(self, task: TaskInfo, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Centers (K, D), scatter around them (D, D), number of images."""
        return self._mixture(features, self.config.clusters, seed=task.index)

    def describe_reference(self, features: Tensor) -> dict[str, Tensor]:
        """The same."""
        return self._mixture(features, self.config.reference_clusters, seed=0)

    def _mixture(self, features: Tensor, clusters: int, seed: int) -> dict[str, Tensor]:
        x = F.normalize(features.double(), dim=-1)
        centers, nearest = clustered(x, clusters, seed)
        residual = x - centers[nearest]
        return {"centers": centers, "scatter": residual.T @ residual, "count": torch.tensor(len(x))}

    def column_wanted(self) -> dict[str, Wanted]:
        """See `describe`; the features are unit vectors."""
        return {
            "centers": Wanted(torch.float64, ("K", "D"), low=-1.001, below=1.001),
            "scatter": Wanted(torch.float64, ("D", "D")),
            "count": Wanted(torch.int64, (), low=1, below=2.0**53),
        }

    def prepare(self) -> None:
        """The whitening transform of each column, and its centers under it.

        Raises:
            InputError: all images are the same, so they have no covariance.
        """
        scatter = torch.stack([part["scatter"] for part in self.columns]).sum(dim=0)
        images = int(sum(part["count"] for part in self.columns))
        if float(scatter.trace()) <= 1e-12 * images:  # of unit vectors: rounding
            raise InputError("selector gaussian needs two different training images; give more, or use prototype.")
        pooled = shrunk(scatter, images)
        self._whitened = []
        for part in self.columns:
            count, size = int(part["count"]), len(pooled)
            own = min(OWN_COVARIANCE, count / (count + size))
            covariance = own * part["scatter"] / count + (1 - own) * pooled
            whitener = torch.linalg.cholesky(torch.linalg.inv(covariance))
            volume = float(whitener.diagonal().log().sum())  # log of 1 / √det of the covariance
            self._whitened.append((whitener, part["centers"] @ whitener, volume - math.log(len(part["centers"]))))

    def scores(self, features: Tensor) -> Tensor:
        """Log-likelihoods (B, C), up to one constant."""
        x = F.normalize(features.double(), dim=-1)
        columns = [
            (-squared_distances(x @ whitener, centers) / 2).logsumexp(dim=1) + constant
            for whitener, centers, constant in self._whitened
        ]
        return torch.stack(columns, dim=1)


def clustered(x: Tensor, clusters: int, seed: int) -> tuple[Tensor, Tensor]:
    """k-means: (N, D) float64 → at most `clusters` centers (K, D), fewer of few images; each row's center (N,)."""
    from sklearn.cluster import KMeans  # scikit-learn loads slowly: only where clusters are sought

    count = max(1, min(clusters, len(x) // IMAGES_PER_CLUSTER))
    found = KMeans(count, n_init=4, random_state=seed).fit(x.numpy())
    return torch.from_numpy(found.cluster_centers_), torch.from_numpy(found.labels_).long()
