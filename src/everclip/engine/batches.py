"""Which images each step of a stage sees: a pure function of (seed, task, step)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
import torch

from everclip.backbone.features import FrozenImages
from everclip.data import DecodedImages, TrainingView, training_batch
from everclip.methods import Batch, Method, Reference
from everclip.streams import TaskInfo

REFERENCE = 1
"""Sets the draw of reference images apart from that of training images, which may be the same ones."""


@dataclass(frozen=True)
class TrainingSet:
    """A task's training images: decoded, or as frozen features for a method that is fed with them."""

    info: TaskInfo
    images: DecodedImages | FrozenImages


@lru_cache(maxsize=32)
def _order(count: int, seed: int, task: int, epoch: int) -> np.ndarray:
    """In which order an epoch shows the images of a task; kept, for a permutation of all costs more than a step."""
    return np.random.default_rng([seed, task, epoch]).permutation(count)


def rows_of_step(count: int, batch: int, step: int, seed: int, task: int) -> np.ndarray:
    """Images of a step: consecutive places in an endless row of permutations, each keyed by (seed, task, epoch)."""
    places = np.arange(step * batch, (step + 1) * batch)
    chosen = np.empty(batch, dtype=np.int64)
    for epoch in range(places[0] // count, places[-1] // count + 1):
        here = places // count == epoch
        chosen[here] = _order(count, seed, task, epoch)[places[here] % count]
    return chosen


def turns_of_sets(steps: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
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


class Batches:
    """The batches of a stage, on the host: uint8 pixels, or features, as the method is fed.

    Args:
        method: after `begin_task`.
        sets: the stage's training sets.
        steps: of each set.
        batch: images per step, of all processes together.
        rows: which of a step's images this process takes, of a method that is fed with images.
        seed: of the run.
        workers: threads that augment images.
    """

    def __init__(
        self,
        method: Method,
        sets: list[TrainingSet],
        steps: list[int],
        batch: int,
        rows: slice,
        seed: int,
        workers: int,
    ) -> None:
        self.method = method
        self.sets = sets
        self.batch = batch
        self.rows = rows
        self.seed = seed
        self.workers = workers
        self.owners, self.turns = turns_of_sets(steps, seed)
        self.view = TrainingView(method.backbone.view.size)

    def choice(self, step: int) -> tuple[TrainingSet, np.ndarray]:
        """The set that a step draws from, and which of its images, those of all processes."""
        chosen = self.sets[self.owners[step]]
        count = len(chosen.images.labels)
        return chosen, rows_of_step(count, self.batch, int(self.turns[step]), self.seed, chosen.info.index)

    def since(self, first: int) -> Iterator[tuple[int, Batch]]:
        """Steps from `first` on, with their batches."""
        if self.method.feed == "images":
            yield from self._augmented(first)
            return
        for step in range(first, len(self.owners)):  # rows of an array: nothing that a thread could do ahead
            chosen, indices = self.choice(step)
            images = cast(FrozenImages, chosen.images)  # as the method is fed
            yield step, Batch(chosen.info, images[indices], torch.from_numpy(images.labels[indices]))

    def _augmented(self, first: int) -> Iterator[tuple[int, Batch]]:
        """Batches of augmented images; the next one is augmented while the current one trains."""
        with ThreadPoolExecutor(max(1, self.workers)) as pool, ThreadPoolExecutor(1) as ahead:
            steps = range(first, len(self.owners))
            pending = ahead.submit(self._load, first, pool) if steps else None
            for step in steps:
                assert pending is not None
                loaded = pending.result()
                if step + 1 < len(self.owners):
                    pending = ahead.submit(self._load, step + 1, pool)
                yield step, loaded

    def _load(self, step: int, pool: ThreadPoolExecutor) -> Batch:
        """The batch of a step, its pixels still uint8."""
        chosen, indices = self.choice(step)
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
        rows = rows_of_step(len(images), self.batch, step, seed, self.sets[0].info.index)[self.rows]
        return Reference(torch.as_tensor(images[rows]), torch.from_numpy(rows))


def parts_of(batch: Batch, count: int) -> Iterator[Batch]:
    """A batch in parts of consecutive images, whose sizes differ by one at most; references are divided alike."""
    images = len(batch.labels)
    for number in range(count):
        rows = slice(images * number // count, images * (number + 1) // count)
        reference = batch.reference
        if reference is not None:
            reference = Reference(reference.images[rows], reference.rows[rows])
        yield Batch(batch.task, batch.images[rows], batch.labels[rows], reference)


def mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1
