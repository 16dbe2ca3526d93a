"""The training loop. It knows the contract of methods and the name of none.

Everything random is a pure function of (seed, task, step, sample): which images a step sees, how they are augmented,
and the generator state for dropout and noise. A run that is cut off and resumed therefore takes exactly the steps that
an uninterrupted one takes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from everclip.backbone.features import FrozenImages
from everclip.engine.batches import Batches, TrainingSet, mix, parts_of
from everclip.engine.optimization import Optimization
from everclip.engine.recipe import TrainingConfig
from everclip.errors import EverclipError
from everclip.methods import Batch, Method
from everclip.storage.faults import fault_point
from everclip.system.processes import rank, sum_gradients, summed, world

ACCUMULATED = 4096
"""Embeddings that a closed-form method is shown at a time."""


@dataclass(frozen=True)
class Progress:
    """What the loop reports every few steps.

    Attributes:
        step: how many steps of the stage are done.
        total: of how many.
        loss: of the last of them.
        parts: what the method names of this loss.
        images_per_second: since the loop began.
        rates: learning rate of every parameter group in the last step.
    """

    step: int
    total: int
    loss: float
    parts: dict[str, float]
    images_per_second: float
    rates: tuple[float, ...] = ()


@dataclass
class Position:
    """Where in a stage the training stands, and what the optimizer keeps: what a resume needs beside the method."""

    step: int
    optimizer: dict[str, Tensor]


class _Losses:
    """The loss of a step: of each of its parts what was descended, and on the device until somebody asks."""

    def __init__(self) -> None:
        self._parts: list[tuple[float, Tensor, dict[str, Tensor]]] = []

    def add(self, weight: float, total: Tensor, terms: dict[str, Tensor]) -> None:
        """Add a part: its weight, its loss times that, and its named terms without."""
        self._parts.append((weight, total.detach(), terms))

    @property
    def total(self) -> Tensor:
        """The loss of the step."""
        first, *others = (total for _, total, _ in self._parts)
        return sum(others, first)

    @property
    def terms(self) -> dict[str, Tensor]:
        """Its named terms."""
        terms: dict[str, Tensor] = {}
        for weight, _, own in self._parts:
            for name, term in own.items():
                terms[name] = weight * term if name not in terms else terms[name] + weight * term
        return terms


class Trainer:
    """Trains a method on one stage: one task, or all tasks of a method that learns them at once.

    Several processes share out the images of a step, and the step is that of one process: each weights its loss by its
    share of the batch, then they add up their gradients. Of frozen features all take the whole batch and draw alike: a
    step costs hardly more than the exchange. The parts of a step (`accumulate`) are weighted and added up likewise.

    Args:
        method: after `begin_task`.
        sets: the stage's training sets.
        config: the recipe.
        seed: of the run.
        tasks: length of the stream (for a list of learning rates).
        workers: threads that augment images.

    Raises:
        InputError: the recipe does not fit the stream, or the method's optimizer is none.
    """

    def __init__(
        self, method: Method, sets: list[TrainingSet], config: TrainingConfig, seed: int, tasks: int, workers: int
    ) -> None:
        self.method = method
        self.sets = sets
        self.config = config
        self.seed = seed
        phases = [method.phases(config.steps(len(each.images))) for each in sets]
        steps = [sum(own) for own in phases]
        self.phase_starts = phase_starts(phases)
        self.total = sum(steps)
        self.base_lr = config.lr_of(sets[0].info, tasks)
        self.optimization = Optimization(method, config, self.base_lr, self.total)
        self.optimizer = self.optimization.optimizer
        self.named = self.optimization.named
        shared, rows = method.feed == "images", config.rows()
        self.batches = Batches(method, sets, steps, config.batch, rows, seed, workers)
        self.weight = (rows.stop - rows.start) / config.batch if shared else 1 / world()
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
            on_progress: called every `log_every` steps, before a checkpoint, and after the last step.

        Raises:
            EverclipError: a loss that is not finite; no checkpoint was made since the last good one.
        """
        first = 0
        if start is not None:
            first = start.step
            self.optimization.load(start.optimizer)
        self.method.train()
        window: list[Tensor] = []
        seen, clock = 0, time.perf_counter()
        for step, batch in self.batches.since(first):
            if step in self.phase_starts:
                self.method.begin_phase(self.phase_starts[step])
            losses = self._step(step, batch)
            window.append(losses.total)
            seen += self.config.batch
            done = step + 1
            saves = done % self.config.checkpoint_every == 0
            # Reading a loss waits for the device, so it is not done at every step.
            if saves or done % self.config.log_every == 0 or done == self.total:
                terms = losses.terms
                figures = summed(torch.stack([*window, *terms.values()])).tolist()
                totals = figures[: len(window)]
                self._check(totals, done - len(totals))
                speed = seen / (time.perf_counter() - clock)
                shown = dict(zip(terms, figures[len(totals) :], strict=True))
                window = []
                on_progress(Progress(done, self.total, totals[-1], shown, speed, self.optimization.rates()))
                if saves and done < self.total:
                    self._check_weights(done)
                    on_checkpoint(Position(done, self.optimization.state()))
        self._check_weights(self.total)
        self.method.zero_grad(set_to_none=True)  # what is frozen next keeps no gradient in memory
        for each in self.sets:
            if isinstance(each.images, FrozenImages):
                self.method.remember(each.info, each.images)

    def _step(self, step: int, batch: Batch) -> _Losses:
        """One step of the optimizer, on one part of the batch after the other."""
        self.optimization.set_rates(step)
        self._seed(step)
        self.optimizer.zero_grad(set_to_none=True)
        losses, images = _Losses(), len(batch.labels)
        for part in parts_of(batch, self.config.accumulate):
            fault_point("training step")
            loss = self.method(self._on_device(part))
            weight = self.weight * (len(part.labels) / images)
            total = weight * loss.total
            total.backward()
            losses.add(weight, total, loss.parts)
        sum_gradients(self.named.values())
        self.method.after_backward()
        self.optimization.step()
        self.method.after_step(step)
        return losses

    def _seed(self, step: int) -> None:
        # Noise and dropout of different images differ; the first process draws what a single one would.
        seed = mix(self.seed, self.sets[0].info.index, step, *self.drawer)
        if self.method.backbone.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed walks the stack for CUDA, half a millisecond
        else:
            torch.manual_seed(seed)

    def _on_device(self, batch: Batch) -> Batch:
        backbone, reference = self.method.backbone, batch.reference
        if reference is not None:
            reference = replace(reference, images=backbone.pixels(reference.images))
        fed = backbone.pixels(batch.images) if self.method.feed == "images" else batch.images.to(backbone.device)
        return Batch(batch.task, fed, batch.labels.to(backbone.device), reference)

    def _check(self, losses: list[float], first: int) -> None:
        for offset, loss in enumerate(losses):
            if not math.isfinite(loss):
                chosen, indices = self.batches.choice(first + offset)
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


def phase_starts(phases: list[list[int]]) -> dict[int, int]:
    """The step of a stage at which a phase begins → the phase, from 1; each set has its steps of every phase."""
    together = [sum(own) for own in zip(*phases, strict=True)]
    return {sum(together[:phase]): phase for phase in range(1, len(together))}


def accumulate(method: Method, features: Tensor, labels: Tensor, identities: Tensor) -> None:
    """Show a closed-form method the training images of the task begun last, each once.

    Args:
        method: after `begin_task`; `solve` comes next.
        features: un-normalized frozen features (N, D).
        labels: classes within the task (N,), int64.
        identities: what knows each image (N,), int64.
    """
    for part in torch.arange(len(labels)).split(ACCUMULATED):
        fault_point("accumulate")
        method.accumulate(features[part], labels[part], identities[part])
