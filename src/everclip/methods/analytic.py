"""Analytic learners: closed-form classifiers on frozen embeddings, fused with zero-shot.

What a task leaves behind are statistics that add up. So after the same tasks the solution is the same in any order and
with any batches, and a task is forgotten by leaving its statistics out. Nothing is trained by gradient, and no image is
kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures
from everclip.data.identities import hashed_rows
from everclip.errors import InputError
from everclip.functional.analytic import (
    Statistics,
    joint_gram,
    joint_rows,
    mixture_weights,
    pack_symmetric,
    sample_rows,
    share_among_learned,
)
from everclip.functional.ties import FINE_TIE
from everclip.methods.joint import JointClassifier, joint_columns, joint_keys, joint_texts
from everclip.methods.method import MethodConfig
from everclip.storage.tensors import MisfitError, Wanted, require
from everclip.streams.stream import TaskInfo

Fit = tuple[dict[str, Tensor], Tensor]
"""A solution as tensors, and what it says of the calibration images with each left out (N, C)."""


class AnalyticConfig(MethodConfig):
    """Settings of all analytic learners."""

    fusion: Literal["calibrated", "alone"] = Field(
        "calibrated",
        description="among learned classes: a calibrated mixture with zero-shot, or the closed form alone; classes not "
        "learned keep zero-shot in both",
    )
    calibration: int = Field(
        100, ge=1, description="training embeddings kept per task; each is left out in turn to calibrate"
    )


def sample_wanted(classes: int) -> dict[str, Wanted]:
    """What a sample of a task's embeddings, which are unit vectors, must be as tensors of a file."""
    return {
        "rows": Wanted(torch.float32, ("n", "D"), low=-1.001, below=1.001),
        "labels": Wanted(torch.int64, ("n",), low=0, below=classes),
        "identities": Wanted(torch.int64, ("n",), optional=True),  # EverCLIP 0.1 kept none
        "counts": Wanted(torch.int64, (classes,), low=0, below=2.0**53),
    }


def statistics_wanted(classes: int, width: int) -> dict[str, Wanted]:
    """What `Statistics` must be as tensors of a file, their symmetric matrix packed."""
    return {
        "gram": Wanted(torch.float64, (width * (width + 1) // 2,)),
        "sums": Wanted(torch.float64, (classes, width)),
        "counts": Wanted(torch.int64, (classes,), low=0, below=2.0**53),
    }


class Analytic(JointClassifier):
    """Base: memory of each task, calibration by leave-one-out, fusion with zero-shot.

    **Calibration.** A sample of each task's training embeddings is kept. The closed form says exactly what it would
    answer on each of them if that image had not been in the data. So ridge, temperature and the weight of zero-shot are
    chosen on images that are held out one at a time, and all images are learned from.

    **Answer.** p(c|x) = p_zs(c|x) for classes that are not learned. Learned classes share the rest in proportion to
    softmax(τ · score + α · zero-shot logit); τ, α ≥ 0 minimize the cross-entropy on the left-out images.

    Subclasses say what a task leaves behind (`add`, `memorized`), how it is solved (`fits`: a solution holds
    `weights` with a column per learned class) and what the solution says of an image (`scores`). The sealed state of a
    task is what it left behind. The working state is the solution, so that a restored learner answers at once.

    It promises `order_free`: after the same tasks the answers are the same up to rounding, ridge and calibration
    included, whatever the order of tasks and images and however the images were batched.
    """

    Config = AnalyticConfig
    config: AnalyticConfig
    trains = False
    closed_form = True
    promises = JointClassifier.promises | {"order_free"}
    forgets = "exactly"

    def __init__(self, backbone: Backbone, config: AnalyticConfig, features: FrozenFeatures | None = None) -> None:
        super().__init__(backbone, config, features)
        self.memory: list[dict[str, Tensor]] = []
        self.solution: dict[str, Tensor] = {}
        self._accumulated: Statistics | None = None
        self._begun = False

    # -- learning --------------------------------------------------------------------------------------------------

    def begin_task(self, task: TaskInfo) -> None:
        """Make room for the task's statistics; classes that are known already add to what they have."""
        super().begin_task(task)
        self.memory.append({})
        self._accumulated, self._begun = None, True

    def accumulate(self, features: Tensor, labels: Tensor, identities: Tensor | None = None) -> None:
        """Add training images of the task begun last.

        Args:
            features: un-normalized frozen features (B, D).
            labels: class indices within the task (B,), int64.
            identities: what knows each image (B,), int64; by default the bytes of its features, which another processor
                computes a little differently.

        Raises:
            InputError: no task is begun, or it is solved already.
        """
        if not self._begun:
            raise InputError(
                "images can be accumulated only between begin_task and solve; begin the task (again) first."
            )
        features = features.float().cpu()
        if identities is None:
            identities = torch.from_numpy(hashed_rows(features.numpy()))
        self.add(F.normalize(features, dim=-1), labels.cpu(), identities)

    def add(self, x: Tensor, labels: Tensor, identities: Tensor) -> None:
        """Add normalized embeddings (B, D) to the statistics and to the calibration sample."""
        mapped = self.mapped(x)
        if self._accumulated is None:
            self._accumulated = Statistics.empty(len(self.tasks[-1].class_names), mapped.shape[1])
        self._accumulated.add_(mapped, labels)
        together = self._with({"rows": x, "labels": labels, "identities": identities})
        kept = sample_rows(together["identities"], together["labels"], self.config.calibration)
        self.memory[-1] |= {name: tensor[kept] for name, tensor in together.items()}

    def _with(self, images: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the task has of images so far, and more of them."""
        memory = self.memory[-1]
        return {name: torch.cat([memory[name], new]) if name in memory else new for name, new in images.items()}

    def mapped(self, x: Tensor) -> Tensor:
        """Normalized embeddings (B, D) → features (B, M) in float64 that the closed form works on: here themselves."""
        return x.double()

    def memorized(self, statistics: Statistics) -> dict[str, Tensor]:
        """What is kept of a task's statistics."""
        kept = {"sums": statistics.sums, "counts": statistics.counts}
        return {**kept, "gram": pack_symmetric(statistics.gram)}

    def solve(self) -> None:
        """Compute the joint solution of all tasks in memory, and calibrate it.

        Raises:
            InputError: a task without images, or images that determine no solution.
        """
        if self._accumulated is not None:
            self.memory[-1] |= self.memorized(self._accumulated)
        self._accumulated, self._begun = None, False
        for task, memory in zip(self.tasks, self.memory, strict=True):
            if not memory:
                raise InputError(f"task '{task.name}' has no training image to learn from; add some or leave it out.")
        self.solution = {}
        columns = joint_columns(self.tasks)
        samples = [self.calibration(task) for task in self.memory]
        rows = torch.cat([task["rows"][kept] for kept, task in zip(samples, self.memory, strict=True)])
        own_labels = [task["labels"][kept] for kept, task in zip(samples, self.memory, strict=True)]
        labels = torch.cat([own[label] for own, label in zip(columns, own_labels, strict=True)])
        counts = joint_rows(columns, [task["counts"] for task in self.memory])
        # An image that is alone in its class says nothing when it is left out: its class is gone with it.
        used = counts[labels] > 1
        rows, labels = rows[used], labels[used]
        zero_shot = self._zero_shot(rows)
        best = float("inf")
        for solution, left_out in self.fits(columns, counts, rows, labels):
            parts = torch.stack([left_out, zero_shot])[: self._parts]
            weights, loss = mixture_weights(parts, labels) if len(rows) else (self._by_default(), float("inf"))
            if loss < best * (1 - FINE_TIE) or not self.solution:  # of equals the first
                best, self.solution = loss, {**solution, "mixture": weights}

    def calibration(self, task: dict[str, Tensor]) -> Tensor:
        """Which of a task's rows in memory calibrate: here all, for only a sample is kept."""
        return torch.arange(len(task["rows"]))

    def drop(self, index: int) -> None:
        """Forget a task exactly: what remains is as if it had never been learned."""
        del self.tasks[index], self.memory[index]
        self.solution = {}
        if self.tasks:
            self.solve()

    def fits(self, columns: list[Tensor], counts: Tensor, rows: Tensor, labels: Tensor) -> Iterator[Fit]:
        """Solutions to choose from, by their answers on calibration images left out.

        Args:
            columns: per task, the joint column of each of its classes.
            counts: images per column (C,).
            rows: calibration images, normalized embeddings (N, D).
            labels: their columns (N,); every one has two images or more.
        """
        raise NotImplementedError

    def scores(self, x: Tensor) -> Tensor:
        """What the solution says: normalized embeddings (B, D) → (B, C) over the learned classes, float64."""
        raise NotImplementedError

    # -- answering -------------------------------------------------------------------------------------------------

    def learned(self) -> list[tuple[int, int]]:
        """The classes of the solution: a task in progress is not learned yet."""
        return joint_keys(self.tasks)[: self.solution["weights"].shape[1] if self.solution else 0]

    def said(self, embeddings: Tensor, logits: Tensor, columns: Sequence[int]) -> Tensor:
        """The scores of the solution (B, L)."""
        return self.scores(embeddings.cpu())[:, list(columns)]

    def fused(self, zero_shot: Tensor, learned: Sequence[int], said: Tensor, original: Tensor) -> Tensor:
        """A mixture of scores and CLIP's logits decides among the learned classes; see `JointClassifier.fused`."""
        parts = torch.stack([said, original.double()])[: self._parts]
        shares = torch.tensordot(self.solution["mixture"], parts, dims=1).softmax(dim=1)
        return share_among_learned(zero_shot, learned, shares)

    @property
    def _parts(self) -> int:
        return 1 if self.config.fusion == "alone" else 2

    def _by_default(self) -> Tensor:
        """Without an image to calibrate on, a score counts as a cosine does in zero-shot."""
        scale = float(self.backbone.logit_scale)
        return torch.tensor([scale, 1.0], dtype=torch.float64)[: self._parts]

    # -- the joint columns -----------------------------------------------------------------------------------------

    def _zero_shot(self, rows: Tensor) -> Tensor:
        """Zero-shot logits of normalized embeddings (N, D) over the learned classes (N, C), float64."""
        texts = joint_texts(self, self.tasks).double().cpu()
        return float(self.backbone.logit_scale) * rows.double() @ texts.T

    def joint_sums(self, columns: list[Tensor]) -> Tensor:
        """Class sums over all tasks (C, M)."""
        return joint_rows(columns, [task["sums"] for task in self.memory])

    def joint_gram(self) -> Tensor:
        """G of all tasks (M, M)."""
        return joint_gram([task["gram"] for task in self.memory])

    # -- state -----------------------------------------------------------------------------------------------------

    def trained_parameters(self) -> int:
        """Numbers of the joint solution that answer for the classes of the last task."""
        if "weights" not in self.solution:
            return 0
        return len(self.solution["weights"]) * len(self.tasks[-1].class_names)

    def trained_in_total(self, per_task: list[int]) -> int:
        """Every class has weights of its own."""
        return sum(per_task)

    def sealed_state(self, index: int) -> dict[str, Tensor]:
        """The memory of task `index`."""
        return self.memory[index]

    def working_state(self) -> dict[str, Tensor]:
        """The joint solution."""
        return self.solution

    def memory_wanted(self, classes: int) -> dict[str, Wanted] | None:
        """What a task of so many classes keeps in memory, as tensors of a file must be; None where nobody says.

        Sizes: n images of the sample, D of an embedding, M of what `mapped` makes of one.
        """
        return None

    def solution_wanted(self) -> dict[str, Wanted]:
        """The same of the solution: L classes, P classifiers in the mixture."""
        return {
            "weights": Wanted(torch.float64, ("M", "L")),
            "mixture": Wanted(torch.float64, ("P",), low=0),
        }

    def check_state(self, tasks: list[TaskInfo], sealed: list[dict[str, Tensor]], working: dict[str, Tensor]) -> None:
        """Memory of each task, and a solution for as many classes as there are.

        Raises:
            MisfitError: a tensor is missing or not what it must be.
        """
        super().check_state(tasks, sealed, working)
        sizes = {"D": self.backbone.embed_dim, "P": self._parts, "M": self.width}
        rows = 0
        for number, (task, memory) in enumerate(zip(tasks, sealed, strict=False)):
            wanted = self.memory_wanted(len(task.class_names))
            if wanted is None:
                return
            rows += require(number, memory, wanted, sizes)["n"]
            images = int(memory["counts"].sum())
            if not images or not len(memory["rows"]):
                raise MisfitError(number, "it is of no image")
        if not sealed:
            return
        found = require("working", working, self.solution_wanted(), sizes | {"N": rows})
        if not 1 <= found["L"] <= len(joint_keys(tasks)):
            raise MisfitError("working", f"the solution is of {found['L']} classes, not {len(joint_keys(tasks))}")

    @property
    def width(self) -> int:
        """M, of what `mapped` makes of an embedding."""
        return self.backbone.embed_dim

    def load_state(self, tasks: list[TaskInfo], sealed: list[dict[str, Tensor]], working: dict[str, Tensor]) -> None:
        """Restore memory and solution."""
        super().load_state(tasks, sealed, working)
        self.memory, self.solution = list(sealed), dict(working)
        self._accumulated, self._begun = None, False
