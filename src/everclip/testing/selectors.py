"""The laws of selectors: what every one does, whatever it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from everclip.functional.ties import first_largest
from everclip.selectors import Selector, load_checked, vote
from everclip.streams import TaskInfo
from everclip.testing.laws import expect, expect_close, expect_same, kept_laws, stored

WIDTH = 16
"""Of the features that selectors are shown here."""
REFERENCE = 5
"""The cloud of the reference images."""
TASKS = [TaskInfo(index, name, ("a", "b"), ("{}",)) for index, name in enumerate(["paint", "cloth", "stone"])]


def check_selector(kind: type[Selector], **settings: Any) -> tuple[str, ...]:
    """Hold a selector to its contract: show it three clouds of features, and apply every law of `SELECTOR_LAWS`.

    Args:
        kind: the class. It need not be registered.
        settings: of the selector, for example to keep it small.

    Returns:
        The names of the laws that it keeps.

    Raises:
        LawBroken: it breaks one; says which, and what was seen.
    """
    return kept_laws(SELECTOR_LAWS, f"selector '{getattr(kind, 'name', kind.__name__)}'", Trial(kind, settings))


def features(task: int, count: int, seed: int = 0) -> Tensor:
    """A cloud of its own for each task (count, WIDTH); that of the reference lies closest to task 0's."""
    generator = torch.Generator().manual_seed(100 * task + seed)
    center = 4 * torch.eye(WIDTH)[task] if task != REFERENCE else 2 * torch.eye(WIDTH)[0] + 2 * torch.eye(WIDTH)[5]
    return center + 0.3 * torch.randn(count, WIDTH, generator=generator)


@dataclass(frozen=True)
class Trial:
    """A selector with settings, to be made and fitted again and again."""

    kind: type[Selector]
    settings: dict[str, Any]

    def made(self, seed: int = 0) -> Selector:
        """One that has learned nothing yet."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.kind(self.kind.Config(**self.settings))

    def fitted(self, tasks: int, held_out: bool = True, reference: bool = False) -> Selector:
        """One that has learned the first tasks, with or without held-out images and reference images."""
        selector = self.made()
        if reference:
            selector.refer(features(REFERENCE, 200))
        for task in TASKS[:tasks]:
            self.fit(selector, task, held_out)
        return selector

    def fit(self, selector: Selector, task: TaskInfo, held_out: bool = True) -> None:
        """Let it learn one task more."""
        with torch.random.fork_rng():
            if not selector.reads_features:
                selector.fit(task, None, None, None)
                return
            held = features(task.index, 20, seed=1) if held_out else None
            selector.fit(task, features(task.index, 200), torch.arange(200) % 2, held)


def ask(selector: Selector, task: int, truth: int | None, count: int = 12) -> Tensor:
    """p(t|x) of new images of a task."""
    return selector.probabilities(features(task, count, seed=2) if selector.reads_features else None, count, truth)


def described(trial: Trial) -> None:
    """It has a name, a summary of one line, a docstring of its own, and says what each setting is for."""
    kind = trial.kind
    expect(isinstance(getattr(kind, "name", None), str) and kind.name, "it has a `name`")
    expect(kind.__dict__.get("__doc__"), "it has a docstring of its own")
    summary = getattr(kind, "summary", "")
    expect(summary and "\n" not in summary, "it has a `summary` of one line")
    for field, info in kind.Config.model_fields.items():
        expect(info.description, f"setting '{field}' has a description")
        expect(not info.is_required(), f"setting '{field}' has a default")


def gives_probabilities(trial: Trial) -> None:
    """p(t|x) over the learned tasks and zero-shot: at least 0, a sum of 1, with held-out images and without."""
    for tasks in (1, 2, 3):
        for held_out in (True, False):
            selector = trial.fitted(tasks, held_out)
            expect(selector.tasks == TASKS[:tasks], "`tasks` are those it was fitted to, in order")
            for task in range(3):
                p = ask(selector, task, truth=task)
                expect(p.shape == (12, tasks + 1), f"12 images and {tasks} tasks give (12, {tasks + 1}): {p.shape}")
                expect((p >= 0).all(), "no probability is below 0")
                expect_close(p.sum(dim=1), torch.ones(12), 1e-5, "the sum over tasks and zero-shot")


def nothing_learned_means_zero_shot(trial: Trial) -> None:
    """Before the first task the original CLIP answers."""
    expect(torch.equal(ask(trial.made(), 0, truth=0), torch.ones(12, 1)), "without a task, zero-shot has p = 1")


def tells_clear_tasks_apart(trial: Trial) -> None:
    """Clouds far from each other are told apart, nine images of ten."""
    selector = trial.fitted(3)
    for task in range(3):
        share = float((first_largest(ask(selector, task, truth=task)) == task).float().mean())
        expect(share >= 0.9, f"{share:.0%} of the images of task {task} are sent to it")


def only_an_upper_bound_uses_the_truth(trial: Trial) -> None:
    """Who is not an `upper_bound` says the same whatever it is told of the true task."""
    selector = trial.fitted(2)
    told = [ask(selector, 0, truth) for truth in (0, 1, None)]
    same = all(torch.equal(told[0], other) for other in told[1:])
    expect(selector.upper_bound != same, "the true task changes what an upper bound says, and nobody else")


def state_is_complete(trial: Trial) -> None:
    """A fresh instance of another seed with the stored state says the same, to the last bit."""
    for reference in (True, False):
        for tasks in (0, 2):
            selector = trial.fitted(tasks, reference=reference)
            fresh = trial.made(seed=1)
            load_checked(fresh, selector.tasks, stored(selector.state()))
            expect(fresh.tasks == selector.tasks, "the tasks are restored")
            expect_same(fresh.state(), selector.state(), "the state of a restored instance")
            for task in range(3):
                same = torch.equal(ask(fresh, task, task), ask(selector, task, task))
                expect(same, f"a restored instance says the same of images of task {task}")


def a_batch_votes_with_its_probabilities(trial: Trial) -> None:
    """Under batch routing a batch decides as one: every row is one-hot, and rows of a batch are equal."""
    selector = trial.fitted(2)
    x = torch.cat([features(0, 7, seed=2), features(1, 5, seed=2)]) if selector.reads_features else None
    decided = selector.batch_probabilities(x, 12, 0, 5)
    expect(torch.equal(decided.sum(dim=1), torch.ones(12)) and set(decided.unique().tolist()) <= {0.0, 1.0}, "one-hot")
    for part in decided.split(5):
        expect(torch.equal(part, part[:1].expand_as(part)), "the images of a batch share one decision")
    if type(selector).batch_probabilities is Selector.batch_probabilities:
        expect(torch.equal(decided, vote(selector.probabilities(x, 12, 0), 5)), "the vote is by p(t|x)")


def a_dropped_task_leaves_no_trace(trial: Trial) -> None:
    """After `drop` it says what one says that never learned the task."""
    for reference in (True, False):
        selector, never = trial.fitted(3, reference=reference), trial.fitted(0, reference=reference)
        selector.drop(1)
        for task in (TASKS[0], TASKS[2]):
            trial.fit(never, task)
        expect(selector.tasks == never.tasks, "the task is gone from `tasks`")
        for index in range(3):
            same = torch.equal(ask(selector, index, truth=index), ask(never, index, truth=index))
            expect(same, f"images of task {index} are sent where one sends them that never learned the dropped one")


SELECTOR_LAWS: tuple[Callable[[Trial], None], ...] = (
    described,
    gives_probabilities,
    nothing_learned_means_zero_shot,
    tells_clear_tasks_apart,
    only_an_upper_bound_uses_the_truth,
    state_is_complete,
    a_batch_votes_with_its_probabilities,
    a_dropped_task_leaves_no_trace,
)
"""What a selector must do."""
