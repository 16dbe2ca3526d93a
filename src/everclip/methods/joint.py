"""The classes of several tasks as the columns of one classifier; a class that comes again keeps its column."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from everclip.functional.analytic import share_among_learned
from everclip.methods.method import ORIGINAL, Method, Promise
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


class JointClassifier(Method):
    """Base of methods that stand beside the frozen CLIP and answer for the classes of all tasks at once.

    p(c|x) = p_zs(c|x) for classes that are not learned, to the last bit. The learned classes divide the rest.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"images", "embeddings"})
    promises: ClassVar[frozenset[Promise]] = frozenset({"zero_shot_kept"})

    def learned(self) -> list[tuple[int, int]]:
        """The classes it answers for (`TaskInfo.keys`), in the order of its columns."""
        return joint_keys(self.tasks)

    def posterior(
        self,
        embeddings: Tensor,
        logits: Tensor,
        original: Callable[[], Tensor],
        classes: Sequence[tuple[int, int]],
        candidates: Mapping[str, Sequence[int]],
    ) -> dict[str, Tensor]:
        """p(c|x) over each candidate set; see `Method.posterior`."""
        joint = {key: column for column, key in enumerate(self.learned())}
        known = {column: joint[key] for column, key in enumerate(classes) if key in joint}
        said = self.said(embeddings, logits[:, list(known)], list(known.values())) if known else logits
        place = {column: number for number, column in enumerate(known)}
        zero_shot, answers = original(), {}
        for name, columns in candidates.items():
            asked = zero_shot[:, list(columns)]
            answers[name] = asked.softmax(dim=1)
            own = {number: place[column] for number, column in enumerate(columns) if column in place}
            if own:
                learned = list(own)
                answers[name] = self.fused(answers[name], learned, said[:, list(own.values())], asked[:, learned])
        return answers

    def said(self, embeddings: Tensor, logits: Tensor, columns: Sequence[int]) -> Tensor:
        """What it says of the learned classes asked for (B, L): here their logits.

        Args:
            embeddings: what `embed` gives (B, D).
            logits: of these classes (B, L).
            columns: their joint columns.
        """
        return logits

    def fused(self, zero_shot: Tensor, learned: Sequence[int], said: Tensor, original: Tensor) -> Tensor:
        """p(c|x) (B, K) from p_zs (B, K), which of its columns are learned, and of these `said` and CLIP's logits."""
        return share_among_learned(zero_shot, learned, said.softmax(dim=1))
