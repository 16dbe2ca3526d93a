"""A selector that is told the task: the task-incremental setting, and the upper bound of every other selector."""

from __future__ import annotations

import torch
from torch import Tensor

from everclip.selectors.selector import Selector
from everclip.storage.tensors import require
from everclip.streams.stream import TaskInfo


class Oracle(Selector):
    """Sends an image to the task it comes from, and to the original CLIP while that task is not learned."""

    name = "oracle"
    summary = "is told the task; the original CLIP answers for tasks not learned yet"
    reads_features = False
    upper_bound = True

    def check_state(self, tasks: list[TaskInfo], tensors: dict[str, Tensor], width: int | None) -> None:
        """Nothing is kept."""
        require("selector", tensors, {})

    def probabilities(self, features: Tensor | None, count: int, truth: int | None) -> Tensor:
        """One-hot (count, T + 1) on the true task, or on zero-shot where it is not learned or not known."""
        learned = [task.index for task in self.tasks]
        column = learned.index(truth) if truth in learned else len(learned)
        chosen = torch.zeros(count, len(learned) + 1)
        chosen[:, column] = 1
        return chosen
