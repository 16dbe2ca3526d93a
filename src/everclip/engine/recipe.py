"""The training recipe: how long, on how much at a time, at which rates, by which optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from everclip.errors import InputError
from everclip.methods.descent import Descent, OptimizerName
from everclip.streams import TaskInfo
from everclip.system.processes import share, world

Schedule = Literal["cosine", "linear", "constant"]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TrainingConfig(BaseModel):
    """The training recipe; the defaults are the development recipe, for small models on folders."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    iterations: int = Field(150, ge=1, description="optimizer steps per task")
    epochs: int | None = Field(
        None, ge=1, description="passes over a task's training images; where given, they replace iterations"
    )
    batch: int = Field(32, ge=1, description="images per step, of all processes together")
    warmup: int = Field(15, ge=0, description="steps of linear warm-up before the schedule")
    lr: Rate | Annotated[list[Rate], Field(min_length=1)] | Annotated[dict[str, Rate], Field(min_length=1)] = Field(
        1e-3,
        description="peak learning rate, or a list with one per task, or one per task by name (any order of tasks)",
    )
    schedule: Schedule = Field(
        "cosine", description="cosine, linear or constant: how the rate goes on after the warm-up, the first two to 0"
    )
    optimizer: OptimizerName = Field("adamw", description="adamw or sgd")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd; 0 is plain gradient descent")
    weight_decay: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="weight decay: decoupled in adamw, added to the gradient in sgd"
    )
    clip_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="longest gradient, of all parameters together; a longer one is shortened to it"
    )
    accumulate: int = Field(
        1, ge=1, description="parts of a step's images that are gone through one after the other, to take less memory"
    )
    log_every: int = Field(
        10, ge=1, description="steps between records of the loss and its parts; taking one waits for the device"
    )
    checkpoint_every: int = Field(100, ge=1, description="steps between checkpoints within a task")

    def steps(self, images: int) -> int:
        """Optimizer steps over a task of N images: iterations, or epochs · N / batch, rounded up."""
        return self.iterations if self.epochs is None else math.ceil(self.epochs * images / self.batch)

    def rows(self) -> slice:
        """Which images of a step this process takes.

        Raises:
            InputError: there are more processes than images, or more parts than images of a process.
        """
        if self.batch < world():
            raise InputError(
                f"batch={self.batch} leaves some of the {world()} processes without an image; raise batch, or start "
                "fewer of them with --nproc-per-node."
            )
        if self.batch < world() * self.accumulate:
            each = f", which {world()} processes share," if world() > 1 else ""
            raise InputError(
                f"accumulate={self.accumulate} leaves some parts of batch={self.batch}{each} without an image; lower "
                "accumulate, or raise batch."
            )
        return share(self.batch)

    def descent(self, lr: float) -> Descent:
        """What a task's optimizer is made of, at this peak learning rate."""
        return Descent(self.optimizer, lr, self.weight_decay, self.momentum)

    def check_stream(self, tasks: Sequence[TaskInfo], at_once: bool) -> None:
        """Refuse a stream that this recipe does not fit, before the first task is learned.

        Args:
            tasks: of the stream.
            at_once: whether they are all learned together.

        Raises:
            InputError: as `rows` and `lr_of`, or several rates for tasks learned together.
        """
        self.rows()
        for task in tasks:
            self.lr_of(task, len(tasks))
        if at_once and len(tasks) > 1 and not isinstance(self.lr, float):
            raise InputError(f"all tasks are learned at once; give one lr, not {len(self.lr)}.")

    def lr_of(self, task: TaskInfo, tasks: int) -> float:
        """Peak learning rate of a task of a stream of so many tasks.

        Raises:
            InputError: a list of another length than the stream, or names without this task's.
        """
        if isinstance(self.lr, dict):
            if task.name not in self.lr:
                raise InputError(f"lr names no rate for task '{task.name}', only for {', '.join(self.lr)}; add one.")
            return self.lr[task.name]
        if not isinstance(self.lr, list):
            return self.lr
        if len(self.lr) != tasks:
            raise InputError(
                f"lr lists {len(self.lr)} rates, but the stream has {tasks} tasks; give one rate or {tasks}."
            )
        return self.lr[task.index]


def lr_at(step: int, peak: float, warmup: int, total: int, schedule: Schedule = "cosine") -> float:
    """The rate of step `step` (0-based) of `total`: linear warm-up to the peak, then as the schedule says.

    A cosine or a line to 0, where the step after the last one would be, or the peak to the end.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    if schedule == "linear":
        return peak * (1 - (step - warmup) / max(1, total - warmup))
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
