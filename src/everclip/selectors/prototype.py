"""Tasks as the means of their classes: an image belongs where its nearest class mean is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from everclip.selectors.gaussian import clustered
from everclip.selectors.scored import ScoredConfig, ScoredSelector
from everclip.storage.tensors import Wanted
from everclip.streams.stream import TaskInfo


class PrototypeConfig(ScoredConfig):
    """Settings of the prototype selector."""

    reference_clusters: int = Field(
        8, ge=1, description="k-means centers of the reference; more of them claim more images for the original CLIP"
    )


class Prototype(ScoredSelector):
    """Cosine to the nearest class mean of each task, on frozen embeddings."""

    name = "prototype"
    summary = "cosine to the nearest class mean of each task, on frozen embeddings"
    Config = PrototypeConfig
    config: PrototypeConfig

    def describe(self, task: TaskInfo, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Normalized class means (C', D) of the classes that have an image."""
        x = F.normalize(features.double(), dim=-1)
        means = torch.stack([x[labels == label].mean(dim=0) for label in labels.unique()])
        return {"means": F.normalize(means, dim=-1)}

    def describe_reference(self, features: Tensor) -> dict[str, Tensor]:
        """Normalized k-means centers (K, D), for the images have no classes."""
        centers, _ = clustered(F.normalize(features.double(), dim=-1), self.config.reference_clusters, seed=0)
        return {"means": F.normalize(centers, dim=-1)}

    def column_wanted(self) -> dict[str, Wanted]:
        """See `describe`."""
        return {"means": Wanted(torch.float64, ("K", "D"), low=-1.001, below=1.001)}

    def scores(self, features: Tensor) -> Tensor:
        """Largest cosine per column (B, C)."""
        x = F.normalize(features.double(), dim=-1)
        return torch.stack([(x @ column["means"].T).amax(dim=1) for column in self.columns], dim=1)
