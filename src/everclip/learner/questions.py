"""What an image is scored against, and what the probabilities then say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from everclip.data import DEFAULT_TEMPLATES, check_encodable, plain_name, task_name
from everclip.engine.answers import Classes
from everclip.errors import InputError
from everclip.functional.ties import largest_first
from everclip.learner.lessons import Increment
from everclip.learner.reports import Prediction
from everclip.streams import TaskInfo

ZERO_SHOT = "zero-shot"
"""The task of a label that was never learned."""
ASKED = -1
"""The label space (`TaskInfo.keys`) of such labels."""


@dataclass(frozen=True)
class Question:
    """What an image is scored against.

    Attributes:
        classes: those of all increments, and the asked labels that were never learned.
        asked: these labels, where there are any.
        candidates: which of the C classes may be the answer.
        tasks: what users call the task of each class, `zero-shot` for labels never learned.
        open: the answer may be "nothing that was learned".
    """

    classes: Classes
    asked: TaskInfo | None
    candidates: list[int]
    tasks: list[str]
    open: bool


@dataclass(frozen=True)
class Asked:
    """An image and what is asked about it; see `Learner.predict`.

    Attributes:
        view: what the image tower sees of it (3, S, S) uint8.
        labels, only, closed, top_k: as there.
    """

    view: np.ndarray
    labels: tuple[str, ...] = ()
    only: bool = False
    closed: bool = False
    top_k: int = 5


def question(
    learned: Sequence[Increment], labels: Sequence[str] = (), only: bool = False, closed: bool = False
) -> Question:
    """All learned classes and these labels, or these labels only.

    Where nothing but learned classes can be the answer, the question is open, unless it is `closed`.

    A label that equals the name of a learned class (`plain_name`) is that class; where several tasks have it, each
    one's. Labels that are equal are one, as it was given first.
    """
    infos = [increment.info for increment in learned]
    given: dict[str, str] = {}
    for label in labels:
        given.setdefault(plain_name(label), label)
    known = {plain_name(name) for info in infos for name in info.class_names}
    others = tuple(label for plain, label in given.items() if plain not in known)
    asked = None
    if others:
        keys = tuple((ASKED, number) for number in range(len(others)))
        asked = TaskInfo(len(infos), ZERO_SHOT, others, DEFAULT_TEMPLATES, keys)
    classes = Classes([*infos, *([asked] if asked else [])])
    candidates = [c for c, name in enumerate(classes.names) if not only or plain_name(name) in given]
    called = {increment.space: increment.task for increment in learned}
    tasks = [called.get(space, ZERO_SHOT) for space, _ in classes.keys]
    return Question(classes, asked, candidates, tasks, bool(learned) and not (closed or only or others))


def checked_task_name(name: str) -> str:
    """A task's name as users give it: see `everclip.data.names.task_name`; `zero-shot` is the original CLIP's.

    Raises:
        InputError: it can't be used.
    """
    plain = task_name(name, "the learner")
    if plain == ZERO_SHOT:
        raise InputError(f"a task can't be called '{plain}', which stands for the original CLIP; give it another name.")
    return plain


def checked_labels(labels: Sequence[str] | None, only: bool) -> list[str]:
    """Labels as users give them.

    Raises:
        InputError: one text instead of a list, an empty or unreadable label, or none to choose from.
    """
    if isinstance(labels, str):
        raise InputError(f"labels='{labels}' is one text; give a list of labels, such as ['{labels}'].")
    texts = [str(label).strip() for label in labels or ()]
    for text in texts:
        if not text:
            raise InputError("one of the labels is empty; leave it out.")
        check_encodable(text, "the list of labels")
    if only and not texts:
        raise InputError("only one of the labels may be the answer, but there are none; give labels.")
    return texts


def predictions(p: Tensor, asked: Question, top_k: int) -> list[Prediction]:
    """What `Knowledge.posterior` says → answers."""
    names: list[str | None] = [asked.classes.names[c] for c in asked.candidates]
    tasks = [asked.tasks[c] for c in asked.candidates]
    if asked.open:
        names.append(None)
        tasks.append(ZERO_SHOT)
    numbers = {task: number for number, task in enumerate(dict.fromkeys(tasks))}
    owner = torch.tensor([numbers[task] for task in tasks])
    of_task = p.new_zeros(len(p), len(numbers)).index_add_(1, owner, p)
    key = p
    if asked.open:
        # A doubt spread over many classes is no sign that it is none of them: None is the answer above one half only.
        none, best = p[:, -1:], p[:, :-1].amax(dim=1, keepdim=True)
        key = torch.cat([p[:, :-1], torch.where(none > 0.5, none, torch.minimum(none, best))], dim=1)
    places = largest_first(key, top_k)
    chances = p.gather(1, places).tolist()
    answers = []
    for row, place in enumerate(places.tolist()):
        top = [(names[best], chance, tasks[best]) for best, chance in zip(place, chances[row], strict=True)]
        label, chance, task = top[0]
        answers.append(Prediction(label, chance, task, min(1.0, float(of_task[row, numbers[task]])), top))
    return answers
