"""The contract of selectors: which learned task, or the original CLIP, answers for an image.

A selector is fitted task by task on frozen features and gives p(t|x) over the tasks learned so far, with the original
CLIP (`zero-shot`) as one more outcome. It never sees the candidate classes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from everclip.backbone.features import FrozenFeatures
from everclip.data import LabeledEmbeddings, ViewedImages
from everclip.functional.ties import first_largest
from everclip.storage.tensors import misfits, require_finite
from everclip.streams.stream import TaskInfo


class SelectorConfig(BaseModel):
    """Settings of a selector; subclasses add fields with a description each."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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

    @property
    def feature_digest(self) -> str:
        """Hash of the weights that `read` needs besides the CLIP's; empty where it needs none."""
        return ""

    def read(self, images: ViewedImages | LabeledEmbeddings, frozen: FrozenFeatures) -> Tensor:
        """The features (N, D) that `refer`, `fit` and `probabilities` take: the frozen CLIP's own, float32 on the CPU.

        Raises:
            InputError: these images, or embeddings, give no such features.
        """
        return frozen.images(images)

    def refer(self, features: Tensor) -> None:
        """Learn what images of no task look like, before the first task; here nothing.

        Args:
            features: features (N, D) of reference images, which stand for everything that no task teaches.
        """

    def fit(self, task: TaskInfo, features: Tensor | None, labels: Tensor | None, held_out: Tensor | None) -> None:
        """Learn to recognize a task.

        Args:
            task: the task just learned; it becomes column `len(tasks) − 1` of `probabilities`.
            features: what `read` gives for its training images, (N, D); None unless `reads_features`.
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
            features: what `read` gives for the images, (count, D); None unless `reads_features`.
            count: number of images.
            truth: index in the stream of the task the images come from, where it is known. Only an oracle may use it.
        """
        raise NotImplementedError

    def batch_probabilities(self, features: Tensor | None, count: int, truth: int | None, batch: int) -> Tensor:
        """The same under batch routing: consecutive batches of `batch` images share one decision, one-hot."""
        return vote(self.probabilities(features, count, truth), batch)

    def state(self) -> dict[str, Tensor]:
        """What was fitted, as tensors."""
        return self.state_dict()

    def check_state(self, tasks: list[TaskInfo], tensors: dict[str, Tensor], width: int | None) -> None:
        """Refuse tensors from a file that `load_state` can't use; called before it, for a file may come from anybody.

        Here: numbers that are not finite. A selector that says which tensors it wants (`storage.tensors.require`) is
        safe from files that only look like its own.

        Args:
            tasks, tensors: as for `load_state`.
            width: D of the features that `read` gives, where it is known.

        Raises:
            MisfitError: a tensor is missing or not what it must be.
        """
        require_finite("selector", tensors)

    def load_state(self, tasks: list[TaskInfo], tensors: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self.tasks = list(tasks)
        self.load_state_dict(tensors)


def load_checked(
    selector: Selector, tasks: list[TaskInfo], tensors: dict[str, Tensor], width: int | None = None
) -> None:
    """`check_state`, then `load_state`: the way in for what was read from files.

    Raises:
        MisfitError: the tensors are not what the selector needs.
    """
    selector.check_state(tasks, tensors, width)
    with misfits("selector"):
        selector.load_state(tasks, tensors)


def vote(probabilities: Tensor, batch: int) -> Tensor:
    """Batch routing: consecutive batches of images share one decision, the task of the largest mean probability.

    The published code of MoE-Adapters decides once per batch of 128 images of one data set, and so gives away which
    images belong together. It averages reconstruction errors, as `ddas` does under `ddas_rule: published`; here p(t|x)
    is averaged, for any selector.

    Args:
        probabilities: (B, T + 1).
        batch: images per vote; the last batch may be smaller.

    Returns:
        One-hot (B, T + 1).
    """
    decided = torch.zeros_like(probabilities)
    for start in range(0, len(probabilities), batch):
        part = slice(start, start + batch)
        decided[part, first_largest(probabilities[part].mean(dim=0))] = 1
    return decided
