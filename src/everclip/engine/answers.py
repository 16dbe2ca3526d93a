"""What a learner says of an image: p(c|x) from what its routes say. Pure: tensors in, tensors out.

The selector gives p(t|x) over the learned tasks and the original CLIP. p_zs is the softmax of the original CLIP over
all candidates, softmax_t that of task t over its own candidates. For an image x

    p(c|x) = p_zs(c|x)                                                    c not learned: CLIP's answer, exactly
    p(c|x) = m · Σ_t p(t|x) · softmax_t(c) + p(original|x) · p_zs(c|x)    c learned; m = Σ_{k learned} p_zs(k|x)

So the learned tasks decide among the learned classes, but CLIP decides how much of the probability these get together,
because a selector knows only tasks that somebody taught. m = 1 where every candidate is learned, and for a selector
that is told the task and so has nothing to doubt. A task may have no candidate: an image was sent to the wrong task and
is scored against the classes of its own set alone. The share of that task then goes to the original CLIP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from everclip.functional.ties import TIE
from everclip.streams import TaskInfo

ROUTE_FLOOR = 0.01
"""Routes an image takes with less probability than this are not computed for it."""


class Classes:
    """The classes of several tasks as columns, each once (`TaskInfo.keys`).

    Args:
        tasks: T tasks; of a class that several have, the first gives the name.

    Attributes:
        keys: what identifies each of the C classes, in the order in which they were first seen.
        names: their display names.
        columns: per task, the column of each of its classes (C_t,), int64.
        members: which columns belong to a task (T, C), bool.
    """

    def __init__(self, tasks: Sequence[TaskInfo]) -> None:
        named: dict[tuple[int, int], str] = {}
        for task in tasks:
            for key, name in zip(task.keys, task.class_names, strict=True):
                named.setdefault(key, name)
        self.keys = list(named)
        self.names = list(named.values())
        place = {key: column for column, key in enumerate(named)}
        self.columns = [torch.tensor([place[key] for key in task.keys]) for task in tasks]
        self.members = torch.zeros(len(tasks), len(named), dtype=torch.bool)
        for members, columns in zip(self.members, self.columns, strict=True):
            members[columns] = True
        self._overlap = sum(map(len, self.columns)) > len(named)  # a class of several tasks

    def __len__(self) -> int:
        return len(self.keys)

    def bank(self, own: Sequence[Tensor]) -> Tensor:
        """Every task's class embeddings (C_t, D) → one row per class (C, D), as the first task that has it says it."""
        bank = own[0].new_empty(len(self), own[0].shape[1])
        for columns, text in zip(reversed(self.columns), reversed(own), strict=True):
            bank[columns] = text
        return bank

    def cosines(self, z: Tensor, own: Sequence[Tensor], routes: Tensor) -> Tensor:
        """Embeddings (R, D), each on the route of its own task (R,), with all classes → (R, C); see `on_route`."""
        bank = self.bank(own)
        if not self._overlap:
            return z @ bank.T
        every = torch.stack([z @ self.on_route(bank, own, route).T for route in range(len(own))])
        return every[routes, torch.arange(z.shape[0])]

    def on_route(self, bank: Tensor, own: Sequence[Tensor], route: int) -> Tensor:
        """The same on the route of task `route`: it says its own classes itself."""
        if not self._overlap:
            return bank
        bank = bank.clone()
        bank[self.columns[route]] = own[route]
        return bank


def shares(probabilities: Tensor) -> Tensor:
    """How much of the answer each route gives: p(t|x) (B, T + 1) without what is below the floor; rows sum to 1."""
    largest = probabilities.amax(dim=1, keepdim=True)
    kept = torch.where(probabilities < (largest - TIE * largest).clamp(max=ROUTE_FLOOR), 0.0, probabilities)
    return kept / kept.sum(dim=1, keepdim=True)


def routed(
    candidates: Mapping[str, Sequence[int]],
    members: Tensor,
    share: Tensor,
    original: Tensor,
    logits: Callable[[Tensor, Tensor], Tensor],
    told: bool,
) -> dict[str, Tensor]:
    """p(c|x) of a learner with routes, over each candidate set.

    Args:
        candidates: name → which of the C classes are candidates.
        members: which classes belong to a learned task (T, C), bool.
        share: of each image (B, T + 1) over the learned tasks and the original CLIP; see `shares`.
        original: logits of the original CLIP (B, C).
        logits: images (R,), tasks (R,) → logits of those images on the routes of those tasks (R, C); asked only for
            routes that an image takes.
        told: the selector was told the task.

    Returns:
        name → (B, candidates); rows sum to 1.
    """
    asked = {name: list(columns) for name, columns in candidates.items()}
    speaks = torch.stack([members[:, columns].any(dim=1) for columns in asked.values()]).any(dim=0)
    images, tasks = (share[:, :-1] * speaks).nonzero().unbind(dim=1)
    on_route, weight = logits(images, tasks), share[images, tasks][:, None]
    learned = members.any(dim=0)
    answers = {}
    for name, columns in asked.items():
        zero_shot, own = original[:, columns].softmax(dim=1), members[:, columns][tasks]
        p = on_route[:, columns].masked_fill(~own, float("-inf")).softmax(dim=1)
        p = torch.where(own, p, 0.0)  # a task without a candidate has nothing to say
        said = torch.zeros_like(zero_shot).index_add(0, images, weight * p)
        answers[name] = mixed(zero_shot, said, learned[columns], told)
    return answers


def mixed(zero_shot: Tensor, said: Tensor, learned: Tensor, told: bool) -> Tensor:
    """What was learned and what was not in one answer p(c|x) (B, K).

    Args:
        zero_shot: p_zs over the K candidates (B, K).
        said: Σ_t p(t|x) · softmax_t(c) (B, K); what is missing to 1 is the original CLIP's.
        learned: which candidates are learned (K,), bool.
        told: the selector was told the task: what the routes say is the answer.
    """
    rest = (1 - said.sum(dim=1, keepdim=True)) * zero_shot
    if told:
        return said + rest
    return torch.where(learned, (zero_shot * learned).sum(dim=1, keepdim=True) * said + rest, zero_shot)
