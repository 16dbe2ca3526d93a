"""Who looks on at a run: what a callback is told, and what happens when it fails.

A callback changes nothing: it is given figures, and what it draws at random the run does not miss. It is no part of the
configuration, so a resume may have other ones. One that raises is named in a sentence and not called again, and the run
goes on: a tracker's full disk must not cost hours of learning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch


@dataclass(frozen=True)
class Start:
    """A run that begins, or goes on.

    Attributes:
        path: its directory; a callback may write into a folder of its own there.
        config: every setting, flat.
        tasks: names of all tasks, in order.
        resumed: whether it goes on where it was cut off.
        step: how many training steps it has taken so far, over all tasks.
    """

    path: Path
    config: Mapping[str, Any]
    tasks: tuple[str, ...]
    resumed: bool
    step: int


@dataclass(frozen=True)
class Step:
    """A training step that was recorded, one in `log_every`.

    Attributes:
        tasks: what is being learned: one task, or all of a method that learns them at once.
        step: how many steps the run has taken, over all tasks.
        step_of_stage: how many of them for these tasks, of `steps_of_stage`.
        loss: of this step.
        parts: its named parts.
        rates: learning rate of every parameter group.
        images_per_second: since the training of these tasks began, or went on.
    """

    tasks: tuple[str, ...]
    step: int
    step_of_stage: int
    steps_of_stage: int
    loss: float
    parts: Mapping[str, float]
    rates: tuple[float, ...]
    images_per_second: float


@dataclass(frozen=True)
class Row:
    """A row of the accuracy matrix: all test sets, after a task was learned.

    Attributes:
        task: the one learned last.
        learned: how many tasks are learned by now.
        candidates: the candidate set of the protocol.
        accuracy: candidate set → task → percent of its test images that are right.
    """

    task: str
    learned: int
    candidates: str
    accuracy: Mapping[str, Mapping[str, float]]


class Callback:
    """Base of all callbacks; every method of it does nothing. Made anew for every run, without arguments.

    Of several processes the main one calls it, in the thread that trains, which waits meanwhile.
    """

    name: ClassVar[str]
    """What it is called by `--track`."""
    summary: ClassVar[str]
    """What it does, in a line."""

    def on_start(self, run: Start) -> None:
        """Everything is loaded and checked; nothing is learned yet, or nothing more."""

    def on_step(self, step: Step) -> None:
        """Another `log_every` training steps are done, or a checkpoint follows, or it was the last of a task."""

    def on_task(self, row: Row) -> None:
        """A task is learned and all test sets are judged. Rows from before a resume are not told again."""

    def on_end(self, results: Mapping[str, Any]) -> None:
        """The run is finished; `results` is the content of `results.json`."""

    def close(self) -> None:
        """The very last call, however the run ended, unless the process was killed: finished, failed or stopped."""


class Audience:
    """The callbacks of a run, each called as long as it does not fail.

    Args:
        callbacks: in the order in which they are called.
        warn: told in a sentence that one has failed.
    """

    def __init__(self, callbacks: Sequence[Callback], warn: Callable[[str], None]) -> None:
        self._callbacks = list(callbacks)
        self._warn = warn
        self._failed: set[int] = set()

    def on_start(self, run: Start) -> None:
        """See `Callback`."""
        self._call("on_start", run)

    def on_step(self, step: Step) -> None:
        """See `Callback`."""
        self._call("on_step", step)

    def on_task(self, row: Row) -> None:
        """See `Callback`."""
        self._call("on_task", row)

    def on_end(self, results: Mapping[str, Any]) -> None:
        """See `Callback`."""
        self._call("on_end", results)

    def close(self) -> None:
        """Let all go, those too that have failed."""
        failed, self._failed = self._failed, set()
        self._call("close", silent=failed)

    def _call(self, hook: str, *told: object, silent: frozenset[int] | set[int] = frozenset()) -> None:
        for number, callback in enumerate(self._callbacks):
            if number in self._failed:
                continue
            try:
                with torch.random.fork_rng(devices=[]):
                    getattr(callback, hook)(*told)
            except (Exception, SystemExit) as error:  # somebody else's code: the run is none of its business
                self._failed.add(number)
                if number not in silent:
                    said = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": .")
                    name = getattr(callback, "name", type(callback).__name__)
                    self._warn(f"callback '{name}' failed in {hook} ({said}) and is left out; the run goes on.")
