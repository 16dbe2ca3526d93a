"""The classes of several tasks as the columns of one classifier; a class that comes again keeps its column."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from everclip.methods.method import ORIGINAL, Method
from everclip.streams.stream import TaskInfo


def joint_keys(tasks: Sequence[TaskInfo]) -> list[tuple[int, int]]:
    """The class of every column (`TaskInfo.keys`), in the order in which they were first seen."""
    return list(dict.fromkeys(key for task in tasks for key in task.keys))


def joint_columns(tasks: Sequence[TaskInfo]) -> list[Tensor]:
    """Per task, the column of each of its classes (C_t,), int64."""
    place = {key: column for column, key in enumerate(joint_keys(tasks))}
    return [torch.tensor([place[key] for key in task.keys]) for task in tasks]


def joint_texts(method: Method, tasks: Sequence[TaskInfo]) -> Tensor:
    """What the original CLIP calls the class of every column (C, D): by the task that it was first seen in."""
    texts: dict[tuple[int, int], Tensor] = {}
    for task in tasks:
        for key, text in zip(task.keys, method.classifier(task, ORIGINAL), strict=True):
            texts.setdefault(key, text)
    return torch.stack(list(texts.values()))
