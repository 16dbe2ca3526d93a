"""Class-incremental streams: the steps of one data set, in which a class stays the same class from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from everclip.errors import InputError
from everclip.streams.stream import Dataset, as_one

__all__ = ["as_one", "cut", "in_steps"]


def in_steps(dataset: Dataset, steps: int, seed: int) -> list[Dataset]:
    """Cut a data set into class-incremental steps.

    The classes are shuffled by the seed and dealt out evenly; where that does not come out even, the first steps have
    one class more. A step has the training and test images of its own classes.

    Args:
        dataset: of images or of embeddings.
        steps: 1 up to the number of classes.
        seed: 0 or larger.

    Raises:
        InputError: more steps than classes, or a step without a test image.
    """
    classes = len(dataset.class_names)
    if not 1 <= steps <= classes:
        raise InputError(
            f"'{dataset.name}' has {classes} classes, which can't make {steps} steps; ask for 1 to {classes}."
        )
    return cut(dataset, np.array_split(np.random.default_rng(seed).permutation(classes), steps))


def cut(dataset: Dataset, groups: Sequence[np.ndarray]) -> list[Dataset]:
    """Cut a data set into the steps that the groups name.

    Args:
        dataset: of images or of embeddings.
        groups: the labels of each step, in the order in which the step counts its classes; none twice.

    Raises:
        InputError: a step without a test image.
    """
    steps = len(groups)
    return [_step(dataset, own, f"{number}/{steps}", f"{dataset.name}:{steps}") for number, own in enumerate(groups, 1)]


def _step(dataset: Dataset, own: np.ndarray, number: str, part_of: str) -> Dataset:
    label = np.full(len(dataset.class_names), -1)
    label[own] = np.arange(len(own))
    parts = {}
    for name in ("train", "test"):
        images = getattr(dataset, name)
        here = np.flatnonzero(label[images.labels] >= 0)
        parts[name] = images.select(here, label[images.labels[here]])
    if len(parts["test"]) == 0:
        raise InputError(f"step {number} of '{dataset.name}' has no test image; add some, or ask for fewer steps.")
    names = tuple(dataset.class_names[int(label)] for label in own)
    known_as = tuple((0, int(label)) for label in own)
    return replace(
        dataset, name=f"{dataset.name} {number}", class_names=names, known_as=known_as, part_of=part_of, **parts
    )
