"""The task whose mean embedding is nearest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.selectors import Selector, SelectorConfig
from everclip.streams import TaskInfo


class NearestMean(Selector):
    """softmax of 20 × the cosine to each task's mean embedding; nothing is left to zero-shot."""

    name = "nearest-mean"
    summary = "the task whose mean embedding is nearest"

    def __init__(self, config: SelectorConfig) -> None:
        super().__init__(config)
        self.means: list[Tensor] = []

    def fit(self, task: TaskInfo, features: Tensor, labels: Tensor, held_out: Tensor | None) -> None:
        """Remember the mean."""
        super().fit(task, features, labels, held_out)
        self.means.append(F.normalize(F.normalize(features, dim=-1).mean(dim=0), dim=0))

    def probabilities(self, features: Tensor, count: int, truth: int | None) -> Tensor:
        """p(t|x) (count, T + 1)."""
        if not self.means:
            return torch.ones(count, 1)
        return F.pad((20 * F.normalize(features, dim=-1) @ torch.stack(self.means).T).softmax(dim=1), (0, 1))

    def drop(self, index: int) -> None:
        """Forget a mean."""
        super().drop(index)
        del self.means[index]

    def state(self) -> dict[str, Tensor]:
        """The means, in the order of the tasks."""
        return {str(index): mean for index, mean in enumerate(self.means)}

    def load_state(self, tasks: list[TaskInfo], tensors: dict[str, Tensor]) -> None:
        """Restore them."""
        self.tasks, self.means = list(tasks), [tensors[str(index)] for index in range(len(tasks))]
