"""Tasks as the means of their classes: an image belongs where its nearest class mean is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.selectors.scored import ScoredSelector
from everclip.streams.stream import TaskInfo


class Prototype(ScoredSelector):
    """Cosine to the nearest class mean of each task, on frozen embeddings."""

    name = "prototype"
    summary = "cosine to the nearest class mean of each task, on frozen embeddings"

    def describe(self, task: TaskInfo, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Normalized class means (C', D) of the classes that have an image."""
        x = F.normalize(features.double(), dim=-1)
        means = torch.stack([x[labels == label].mean(dim=0) for label in labels.unique()])
        return {"means": F.normalize(means, dim=-1)}

    def scores(self, features: Tensor) -> Tensor:
        """Largest cosine per task (B, T)."""
        x = F.normalize(features.double(), dim=-1)
        return torch.stack([(x @ task["means"].T).amax(dim=1) for task in self.learned], dim=1)
