"""The contract of selectors: which learned task, or the original CLIP, answers for an image.

A selector is fitted task by task on frozen features and gives p(t|x) over the tasks learned so far, with the original
CLIP (`zero-shot`) as one more outcome. It never sees the candidate classes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from everclip.streams.stream import TaskInfo


class SelectorConfig(BaseModel):
    """Settings of a selector; subclasses add fields with a description each."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Selector(nn.Module):
    """Base of all selectors.

    Args:
        config: an instance of the class's `Config`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Config: ClassVar[type[SelectorConfig]] = SelectorConfig
    reads_features: ClassVar[bool] = True
    """False: decides without looking at the image, so no features are computed for it."""
    upper_bound: ClassVar[bool] = False
    """True: uses what is not known when an image comes in."""

    def __init__(self, config: SelectorConfig) -> None:
        super().__init__()
        self.config = config
        self.tasks: list[TaskInfo] = []

    def fit(self, task: TaskInfo, features: Tensor | None, labels: Tensor | None, held_out: Tensor | None) -> None:
        """Learn to recognize a task.

        Args:
            task: the task just learned; it becomes column `len(tasks) − 1` of `probabilities`.
            features: un-normalized frozen features (N, D) of its training images; None unless `reads_features`.
            labels: their classes (N,), int64.
            held_out: the same (M, D) of its held-out training images, for calibration.
        """
        self.tasks.append(task)

    def drop(self, index: int) -> None:
        """Forget the task in column `index`."""
        del self.tasks[index]

    def probabilities(self, features: Tensor | None, count: int, truth: int | None) -> Tensor:
        """p(t|x) of `count` images: (count, T + 1), columns = learned tasks in order, then zero-shot; rows sum to 1.

        Args:
            features: un-normalized frozen features (count, D); None unless `reads_features`.
            count: number of images.
            truth: index in the stream of the task the images come from, where it is known. Only an oracle may use it.
        """
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """What was fitted, as tensors."""
        return self.state_dict()

    def load_state(self, tasks: list[TaskInfo], tensors: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self.tasks = list(tasks)
        self.load_state_dict(tensors)


def vote(probabilities: Tensor, batch: int) -> Tensor:
    """Batch routing: consecutive batches of images share one decision, the task of the largest mean probability.

    In the manner of the published code of MoE-Adapters, which decides once per batch of 128 images of one data set and
    so leaks the data set's identity (it averages reconstruction errors; here p(t|x) is averaged, for any selector).

    Args:
        probabilities: (B, T + 1).
        batch: images per vote; the last batch may be smaller.

    Returns:
        One-hot (B, T + 1).
    """
    decided = torch.zeros_like(probabilities)
    for start in range(0, len(probabilities), batch):
        part = slice(start, start + batch)
        decided[part, probabilities[part].mean(dim=0).argmax()] = 1
    return decided
