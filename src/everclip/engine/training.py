"""The training loop. It knows the contract of methods and the name of none.

Everything random is a pure function of (seed, task, step, sample): which images a step sees, how they are augmented,
and the generator state for dropout and noise. A run that is cut off and resumed therefore takes exactly the steps that
an uninterrupted one takes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from everclip.backbone.features import FrozenImages
from everclip.data import DecodedImages, TrainingView, training_batch
from everclip.errors import EverclipError, InputError
from everclip.methods import Batch, Method, Reference
from everclip.storage.faults import fault_point
from everclip.streams import TaskInfo
from everclip.system.processes import rank, share, sum_gradients, summed, world

REFERENCE = 1
"""Sets the draw of reference images apart from that of training images, which may be the same ones."""
ACCUMULATED = 4096
"""Embeddings that a closed-form method is shown at a time."""
CHECK_EVERY = 10
"""Steps between looks at the losses: reading one waits for the device, so it is not done at every step."""


Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TrainingConfig(BaseModel):
    """The training recipe; the defaults are the development recipe, for small models on folders."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    iterations: int = Field(150, ge=1, description="optimizer steps per task")
    epochs: int | None = Field(
        None, ge=1, description="passes over a task's training images; where given, they replace iterations"
    )
    batch: int = Field(32, ge=1, description="images per step, of all processes together")
    warmup: int = Field(15, ge=0, description="steps of linear warm-up before the cosine")
    lr: Rate | Annotated[list[Rate], Field(min_length=1)] | Annotated[dict[str, Rate], Field(min_length=1)] = Field(
        1e-3,
        description="peak learning rate, or a list with one per task, or one per task by name (any order of tasks)",
    )
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False, description="AdamW's decoupled weight decay")
    checkpoint_every: int = Field(100, ge=1, description="steps between checkpoints within a task")

    def steps(self, images: int) -> int:
        """Optimizer steps over a task of N images: iterations, or epochs · N / batch, rounded up."""
        return self.iterations if self.epochs is None else math.ceil(self.epochs * images / self.batch)

    def rows(self) -> slice:
        """Which images of a step this process takes.

        Raises:
            InputError: there are more processes than images.
        """
        if self.batch < world():
            raise InputError(
                f"batch={self.batch} leaves some of the {world()} processes without an image; raise batch, or start "
                "fewer of them with --nproc-per-node."
            )
        return share(self.batch)

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


def lr_at(step: int, base: float, warmup: int, total: int) -> float:
    """Linear warm-up, then cosine to 0: the rate of step `step` (0-based) of `total`."""
    if step < warmup:
        return base * (step + 1) / warmup
    return base * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


@dataclass(frozen=True)
class TrainingSet:
    """A task's training images: decoded, or as frozen features for a method that is fed with them."""

    info: TaskInfo
    images: DecodedImages | FrozenImages


@dataclass(frozen=True)
class Progress:
    """What the loop reports every few steps."""

    step: int
    total: int
    loss: float
    parts: dict[str, float]
    images_per_second: float


@dataclass
class Position:
    """Where in a stage the training stands, and the optimizer's moments: what a resume needs beside the method."""

    step: int
    optimizer: dict[str, Tensor]


@lru_cache(maxsize=32)
def _order(count: int, seed: int, task: int, epoch: int) -> np.ndarray:
    """In which order an epoch shows the images of a task; kept, for a permutation of all costs more than a step."""
    return np.random.default_rng([seed, task, epoch]).permutation(count)


def _indices(count: int, batch: int, step: int, seed: int, task: int) -> np.ndarray:
    """Images of a step: consecutive places in an endless row of permutations, each keyed by (seed, task, epoch)."""
    places = np.arange(step * batch, (step + 1) * batch)
    chosen = np.empty(batch, dtype=np.int64)
    for epoch in range(places[0] // count, places[-1] // count + 1):
        here = places // count == epoch
        chosen[here] = _order(count, seed, task, epoch)[places[here] % count]
    return chosen


def _schedule(steps: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which set each step of a stage draws from, and which turn of that set it is.

    Args:
        steps: how many steps each set has; they are shuffled when there are several sets.
        seed: of the run.
    """
    owners = np.repeat(np.arange(len(steps)), steps)
    if len(steps) > 1:
        owners = np.random.default_rng([seed, len(steps)]).permutation(owners)
    turns = np.empty(len(owners), dtype=np.int64)
    for owner, own in enumerate(steps):
        turns[owners == owner] = np.arange(own)
    return owners, turns


class Trainer:
    """Trains a method on one stage: one task, or all tasks of a method that learns them at once.

    Several processes divide the images of a step among them, and the step is still that of one process: each weights
        its loss by its share of the batch, and then they add up their gradients. Frozen features are not divided: every
        process takes the whole batch and draws the same, because such a step costs hardly more than an exchange would.

    Args:
        method: after `begin_task`.
        sets: the stage's training sets.
        config: the recipe.
        seed: of the run.
        tasks: length of the stream (for a list of learning rates).
        workers: threads that augment images.

    Raises:
        InputError: the recipe does not fit the stream.
    """

    def __init__(
        self, method: Method, sets: list[TrainingSet], config: TrainingConfig, seed: int, tasks: int, workers: int
    ) -> None:
        self.method = method
        self.sets = sets
        self.config = config
        self.seed = seed
        self.workers = workers
        phases = np.array([method.phases(config.steps(len(each.images))) for each in sets])
        starts = phases.sum(axis=0).cumsum()[:-1]
        self.phase_starts = {int(start): phase for phase, start in enumerate(starts, 1)}
        self.total = int(phases.sum())
        self.owners, self.turns = _schedule(phases.sum(axis=1).tolist(), seed)
        self.base_lr = config.lr_of(sets[0].info, tasks)
        self.named = {name: p for name, p in method.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.named.values(), lr=0.0, betas=(0.9, 0.999), weight_decay=config.weight_decay, fused=True
        )
        self.view = TrainingView(method.backbone.view.size)
        shared = method.feed == "images"
        self.rows = config.rows() if shared else slice(config.batch)
        self.weight = (self.rows.stop - self.rows.start) / config.batch if shared else 1 / world()
        self.drawer = (rank(),) if shared and rank() else ()

    def run(
        self,
        start: Position | None = None,
        on_checkpoint: Callable[[Position], None] = lambda position: None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        """Take the steps that are left.

        Args:
            start: where an interrupted stage stood.
            on_checkpoint: called every `checkpoint_every` steps, after the losses up to there were seen to be finite.
            on_progress: called every few steps.

        Raises:
            EverclipError: a loss that is not finite; no checkpoint was made since the last good one.
        """
        first = 0
        if start is not None:
            first = start.step
            self._load_optimizer(start.optimizer)
        self.method.train()
        window: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        seen, clock = 0, time.perf_counter()
        for step, batch in self._batches(first):
            fault_point("training step")
            if step in self.phase_starts:
                self.method.begin_phase(self.phase_starts[step])
            rate = lr_at(step, self.base_lr, self.config.warmup, self.total)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self._seed(step)
            loss = self.method(batch)
            self.optimizer.zero_grad(set_to_none=True)
            total = self.weight * loss.total
            total.backward()
            sum_gradients(self.named.values())
            self.method.after_backward()
            self.optimizer.step()
            self.method.after_step(step)
            window.append(total.detach())
            parts = loss.parts
            seen += self.config.batch
            done = step + 1
            if len(window) == CHECK_EVERY or done % self.config.checkpoint_every == 0 or done == self.total:
                figures = summed(torch.stack([*window, *(self.weight * part for part in parts.values())])).tolist()
                losses = figures[: len(window)]
                self._check(losses, done - len(losses))
                speed = seen / (time.perf_counter() - clock)
                shown = dict(zip(parts, figures[len(window) :], strict=True))
                window = []
                on_progress(Progress(done, self.total, losses[-1], shown, speed))
                if done % self.config.checkpoint_every == 0 and done < self.total:
                    self._check_weights(done)
                    on_checkpoint(Position(done, self._optimizer_state()))
        self._check_weights(self.total)
        self.method.zero_grad(set_to_none=True)  # what is frozen next keeps no gradient in memory
        for each in self.sets:
            if isinstance(each.images, FrozenImages):
                self.method.remember(each.info, each.images)

    def _seed(self, step: int) -> None:
        # Noise and dropout of different images differ; the first process draws what a single one would.
        seed = mix(self.seed, self.sets[0].info.index, step, *self.drawer)
        if self.method.backbone.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed walks the stack for CUDA, half a millisecond
        else:
            torch.manual_seed(seed)

    def _batches(self, first: int) -> Iterator[tuple[int, Batch]]:
        """Batches from step `first` on."""
        if self.method.feed == "images":
            yield from self._augmented(first)
            return
        device = self.method.backbone.device
        for step in range(first, self.total):  # rows of an array: nothing that a thread could do ahead
            chosen, indices = self._choice(step)
            images = cast(FrozenImages, chosen.images)  # as the method is fed
            labels = torch.from_numpy(images.labels[indices])
            yield step, Batch(chosen.info, images[indices].to(device), labels.to(device))

    def _augmented(self, first: int) -> Iterator[tuple[int, Batch]]:
        """Batches of augmented images; the next one is augmented while the current one trains."""
        with ThreadPoolExecutor(max(1, self.workers)) as pool, ThreadPoolExecutor(1) as ahead:
            steps = range(first, self.total)
            pending = ahead.submit(self._load, first, pool) if steps else None
            for step in steps:
                assert pending is not None
                loaded = pending.result()
                if step + 1 < self.total:
                    pending = ahead.submit(self._load, step + 1, pool)
                yield step, self._on_device(loaded)

    def _load(self, step: int, pool: ThreadPoolExecutor) -> Batch:
        """The batch of a step on the host, its pixels still uint8."""
        chosen, indices = self._choice(step)
        indices = indices[self.rows]
        key = (self.seed, chosen.info.index, step)
        images = cast(DecodedImages, chosen.images)  # as the method is fed
        pixels = torch.as_tensor(training_batch(images, indices, key, self.view, pool))
        return Batch(chosen.info, pixels, torch.from_numpy(chosen.images.labels[indices]), self._reference(step))

    def _reference(self, step: int) -> Reference | None:
        images = self.method.reference
        if images is None:
            return None
        seed = mix(self.seed, REFERENCE)
        rows = _indices(len(images), self.config.batch, step, seed, self.sets[0].info.index)[self.rows]
        return Reference(torch.as_tensor(images[rows]), torch.from_numpy(rows))

    def _on_device(self, batch: Batch) -> Batch:
        backbone, reference = self.method.backbone, batch.reference
        if reference is not None:
            reference = replace(reference, images=backbone.pixels(reference.images))
        return Batch(batch.task, backbone.pixels(batch.images), batch.labels.to(backbone.device), reference)

    def _choice(self, step: int) -> tuple[TrainingSet, np.ndarray]:
        chosen = self.sets[self.owners[step]]
        count = len(chosen.images.labels)
        return chosen, _indices(count, self.config.batch, int(self.turns[step]), self.seed, chosen.info.index)

    def _check(self, losses: list[float], first: int) -> None:
        for offset, loss in enumerate(losses):
            if not math.isfinite(loss):
                chosen, indices = self._choice(first + offset)
                shown = ", ".join(chosen.images.name(int(i)) for i in indices[:4])
                more = f" and {len(indices) - 4} more" if len(indices) > 4 else ""
                raise EverclipError(
                    f"the loss became {loss} at step {first + offset} of task '{chosen.info.name}', on {shown}{more}; "
                    f"the last good state is kept: lower lr (now {self.base_lr:g}) or look at these images."
                )

    def _check_weights(self, done: int) -> None:
        """A last update may ruin the weights after the last finite loss."""
        for name, parameter in self.named.items():
            if not torch.isfinite(parameter).all():
                raise EverclipError(
                    f"'{name}' is no longer finite after step {done - 1} of task '{self.sets[0].info.name}'; the last "
                    f"good state is kept: lower lr (now {self.base_lr:g})."
                )

    def _optimizer_state(self) -> dict[str, Tensor]:
        """AdamW's moments as `PARAMETER/exp_avg` and so on, of what is still trained and ever had a gradient."""
        states = {name: self.optimizer.state.get(p, {}) for name, p in self.named.items() if p.requires_grad}
        return {f"{name}/{key}": value for name, state in states.items() for key, value in state.items()}

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        for full_name, value in tensors.items():
            name, key = full_name.rsplit("/", 1)
            parameter = self.named[name]
            # fused AdamW keeps its step counts where the parameter is, as it does its moments
            self.optimizer.state[parameter][key] = value.to(parameter.device, copy=True)


def accumulate(method: Method, features: Tensor, labels: Tensor) -> None:
    """Show a closed-form method the training images of the task begun last, each once.

    Args:
        method: after `begin_task`; `solve` comes next.
        features: un-normalized frozen features (N, D).
        labels: classes within the task (N,), int64.
    """
    for part in torch.arange(len(labels)).split(ACCUMULATED):
        fault_point("accumulate")
        method.accumulate(features[part], labels[part])


def mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1
