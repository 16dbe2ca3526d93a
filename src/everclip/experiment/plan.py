"""What a run would do: everything loaded and checked, up to the first step (`everclip run --dry-run`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.table import Table
from rich.text import Text

from everclip.experiment.config import Config
from everclip.experiment.results import protocol_of
from everclip.experiment.runner import Experiment
from everclip.report.results import text
from everclip.storage.run import RunDirectory
from everclip.streams import Stream
from everclip.system.display import Display


class Lesson(NamedTuple):
    """One task as it would be learned; `steps` and `lr` are None where nothing is learned by gradient."""

    task: str
    classes: int
    train: int
    validation: int
    test: int
    steps: int | None
    lr: float | None


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        protocol: as on the result.
        lessons: one per task, in order.
        trained_parameters: how many the first stage trains; None where nothing is learned by gradient.
    """

    method: str
    protocol: dict[str, Any]
    lessons: tuple[Lesson, ...]
    trained_parameters: int | None

    def table(self) -> Table:
        """For the terminal."""
        trained = self.trained_parameters
        stated = [f"{name} {text(value)}" for name, value in self.protocol.items() if name != "tasks"]
        learned = "nothing by gradient" if trained is None else f"{trained:,} parameters in the first stage"
        caption = Text(f"{self.method} trains {learned}\n{' · '.join(stated)}")
        table = Table(caption=caption, caption_justify="left", box=None, padding=(0, 1))
        for title in Lesson._fields:
            table.add_column(title, justify="left" if title == "task" else "right")
        for lesson in self.lessons:
            table.add_row(*("–" if value is None else Text(text(value)) for value in lesson))
        return table


def plan(config: Config, out: Path, display: Display | None = None, stream: Stream | None = None) -> Plan:
    """Load and check all that a run needs, and begin its first stage, without learning; `out` is not touched.

    What a run computes once for all (decoded images, features of the original CLIP) stays in the cache for it. `stream`
    is one that a program made, as for `run`.

    Raises:
        InputError: the request cannot be met.
    """
    config = config if stream is None else config.on(stream)
    with torch.random.fork_rng():
        experiment = Experiment(config, RunDirectory(out), display or Display(quiet=True), stream)
        experiment.begin(0)
    method, training, tasks = experiment.method, config.training, experiment.stream.tasks
    lessons = []
    for task in tasks:
        steps = sum(method.phases(training.steps(len(task.train)))) if method.trains else None
        lr = training.lr_of(task.info, len(tasks)) if method.trains else None
        counts = (len(task.info.class_names), len(task.train), len(task.validation), len(task.test))
        lessons.append(Lesson(task.name, *counts, steps, lr))
    trained = method.trained_parameters() if method.trains else None
    return Plan(method.name, protocol_of(experiment), tuple(lessons), trained)
