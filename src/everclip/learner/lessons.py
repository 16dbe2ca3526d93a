"""What a learner is taught, and what a lesson leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.backbone.features import FrozenFeatures
from everclip.data import (
    DEFAULT_TEMPLATES,
    ImageSource,
    LabeledEmbeddings,
    LabeledImages,
    ViewedImages,
    plain_name,
    split,
)
from everclip.engine.material import Material
from everclip.functional.analytic import Statistics
from everclip.streams import TaskInfo

HELD_OUT = 0.1
"""Share of each class that is not learned from; of a class of five images or fewer, none."""
HELD_OUT_LIMIT = 100
"""At most so many images of one lesson."""


@dataclass(frozen=True)
class Increment:
    """What one lesson left behind.

    Attributes:
        info: how methods see it: its place, a name of its own, and classes that share their keys with the other
            increments of the same task.
        task: what users call the task.
        images: how many it had, held-out ones included.
        held_out: frozen features (n, D) of images that were not learned from, and their classes within the increment.
        statistics: of the normalized frozen features of the images that were learned from. They tell whether a new
            image shows something that was learned.
        accuracy: task → percent right on its held-out images when this increment was learned; None where it could not
            be measured (no image held out, or a method that would have to see images which are gone).
    """

    info: TaskInfo
    task: str
    images: int
    held_out: LabeledEmbeddings
    statistics: Statistics
    accuracy: dict[str, float | None]

    @property
    def space(self) -> int:
        """The label space that all increments of the task share."""
        return self.info.keys[0][0]


@dataclass(frozen=True)
class Lesson:
    """N images to be learned.

    Attributes:
        info: see `Increment`.
        task: what users call the task.
        views: the images as the tower sees them.
        source: the same images, for augmentation.
        features: their frozen features (N, D), un-normalized.
        labels: their classes within the increment (N,), int64.
        kept: rows to learn from.
        held_out: the other rows.
    """

    info: TaskInfo
    task: str
    views: ViewedImages
    source: ImageSource
    features: Tensor
    labels: np.ndarray
    kept: np.ndarray
    held_out: np.ndarray

    @property
    def sample(self) -> LabeledEmbeddings:
        """What is held out, as the learner keeps it."""
        return LabeledEmbeddings(self.features[self.held_out].numpy(), self.labels[self.held_out])

    @property
    def statistics(self) -> Statistics:
        """See `Increment`."""
        statistics = Statistics.empty(len(self.info.class_names), self.features.shape[1])
        x = F.normalize(self.features[self.kept], dim=-1).double()
        statistics.add_(x, torch.from_numpy(self.labels[self.kept]))
        return statistics


def lesson(
    before: Sequence[Increment],
    task: str,
    given: LabeledImages,
    templates: Sequence[str] | None,
    features: FrozenFeatures,
    material: Material,
    seed: int,
) -> Lesson:
    """Decode and embed the images of a lesson, each once; classes without a usable image are left out.

    Args:
        before: what was learned.
        task: what users call the task.
        given: the images.
        templates: prompts; by default those that came with the images, else the task's.
        features: of the learner's backbone.
        material: decodes.
        seed: of the held-out sample.

    Raises:
        InputError: no usable image, or a prompt that is too long.
    """
    views = material.viewed(given.source, f"{task}: images")
    present = np.unique(views.labels)
    labels = np.searchsorted(present, views.labels)
    names = [given.class_names[label] for label in present]
    info = described(before, task, names, templates or given.templates)
    features.classes(info.class_names, info.templates)  # refuses long prompts before the work of embedding
    kept, held_out = held_out_rows(labels, seed)
    source = given.source.select(views.positions, labels)
    return Lesson(info, task, views, source, features.images(views), labels, kept, held_out)


def described(
    before: Sequence[Increment], task: str, class_names: Sequence[str], templates: Sequence[str] | None
) -> TaskInfo:
    """How methods are to see the next increment of a task: a class that the task has already is the same class.

    Args:
        before: what was learned, of this task and of others.
        task: what users call the task.
        class_names: of the increment, label order.
        templates: prompts; by default the task's.
    """
    own = [increment for increment in before if increment.task == task]
    space = own[0].space if own else 1 + max((increment.space for increment in before), default=-1)
    known: dict[str, tuple[tuple[int, int], str]] = {}
    for increment in own:
        for key, name in zip(increment.info.keys, increment.info.class_names, strict=True):
            known.setdefault(plain_name(name), (key, name))
    for name in class_names:
        known.setdefault(plain_name(name), ((space, len(known)), name))
    keys, names = zip(*(known[plain_name(name)] for name in class_names), strict=True)
    templates = templates or (own[0].info.templates if own else DEFAULT_TEMPLATES)
    used = {increment.info.name for increment in before}
    unique, number = task, 1
    while unique in used:
        number += 1
        unique = f"{task} #{number}"
    return TaskInfo(len(before), unique, names, tuple(templates), keys)


def held_out_rows(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from, and at most `HELD_OUT_LIMIT` rows that are not, spread over the classes of labels (N,)."""
    kept, held_out = split(labels, HELD_OUT, seed, least=0)
    if len(held_out) > HELD_OUT_LIMIT:
        held_out = held_out[np.linspace(0, len(held_out) - 1, HELD_OUT_LIMIT).round().astype(np.int64)]
        kept = np.setdiff1d(np.arange(len(labels)), held_out)
    return kept, held_out
