"""ZSCL: the whole model is trained, but held near CLIP in feature space and near its own past in weight space.

Zheng et al., ICCV 2023, arXiv 2303.06628; the formulas are in docs/methods/zscl.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from everclip.backbone.prompts import random_sentences
from everclip.data import ViewedImages
from everclip.functional.distillation import RunningAverage, assign
from everclip.methods.anchored import WeightConsolidation, WeightConsolidationConfig
from everclip.methods.distilled import Distilled, DistilledConfig, Teacher
from everclip.methods.full_model import FullModel
from everclip.methods.method import Requirement
from everclip.storage.tensors import Wanted, like
from everclip.streams.stream import TaskInfo

AVERAGE = "average."
"""What the names of the weight ensemble begin with in the state."""


class ZSCLConfig(DistilledConfig, WeightConsolidationConfig):
    """Settings of ZSCL; `consolidation: 0` is ZSCL*."""

    average_every: int = Field(
        100,
        ge=0,
        description="steps between additions to the weight ensemble a task ends with, step 0 included; 0: none",
    )
    random_texts: int = Field(
        1000, ge=1, description="without reference_texts: so many sentences of 10 random tokens, the same in every run"
    )


class ZSCL(Distilled, WeightConsolidation):
    """Distillation from the pretrained CLIP on reference images, weight consolidation, a running mean of weights."""

    name = "zscl"
    summary = "distills from the original CLIP on reference images, consolidates and averages the weights"
    paper = "Zheng et al. 2023, arXiv 2303.06628"
    Config = ZSCLConfig
    config: ZSCLConfig
    # Published for 1,000 small steps. Here the ensemble takes as many samples of 150, and steps are twenty times as
    # long, so that λ = 1 would hold the weights where they are.
    defaults: ClassVar[dict[str, Any]] = FullModel.defaults | {"average_every": 15, "consolidation": 0.01}
    requires: ClassVar[frozenset[Requirement]] = frozenset({"reference"})
    average: RunningAverage | None = None

    @property
    def teacher(self) -> Teacher:
        """The pretrained CLIP, in every task."""
        return "pretrained"

    def reference_images(self, task: TaskInfo) -> ViewedImages | None:
        """The images of the setting `reference`."""
        return self.sources.reference

    def reference_tokens(self, task: TaskInfo) -> Tensor:
        """The texts of the setting `reference_texts`, or random sentences.

        A text too long for the context is cut: which text it is does not matter, only that teacher and student are
        compared on the same one.
        """
        if self.sources.reference_texts is None:
            draw = torch.Generator().manual_seed(0)
            return random_sentences(self.backbone, self.config.random_texts, generator=draw)
        return self.backbone.tokenizer(list(self.sources.reference_texts)).to(self.backbone.device)

    def begin_task(self, task: TaskInfo) -> None:
        """Start the weight ensemble from the weights that the task starts from."""
        super().begin_task(task)
        self.average = RunningAverage(self.weights.values()) if self.config.average_every else None

    def after_step(self, step: int) -> None:
        """Add to the weight ensemble when it is time."""
        if self.average is not None and step % self.config.average_every == 0:
            self.average.add(self.weights.values())

    def end_task(self) -> None:
        """The task ends with the mean of the weights."""
        super().end_task()
        if self.average is not None:
            assign(self.weights.values(), self.average.tensors)
            self.average = None

    def working_state(self) -> dict[str, Tensor]:
        """The student, and within a task the weight ensemble."""
        state = super().working_state()
        if self.average is None:
            return state
        ensemble = dict(zip(self.weights, self.average.tensors, strict=True), count=torch.tensor(self.average.count))
        return {**state, **{AVERAGE + name: value for name, value in ensemble.items()}}

    def beside(self, working: Mapping[str, Tensor]) -> dict[str, Wanted]:
        """The weight ensemble, where there is one: as the weights that are trained, and how many it is of."""
        if AVERAGE + "count" not in working:
            return {}
        ensemble = {AVERAGE + name: each for name, each in like(self.weights).items()}
        return {**ensemble, AVERAGE + "count": Wanted(torch.int64, (), low=0)}

    def load_state(self, tasks: list[TaskInfo], sealed: list[dict[str, Tensor]], working: dict[str, Tensor]) -> None:
        """Restore the student and the weight ensemble."""
        student = {name: value for name, value in working.items() if not name.startswith(AVERAGE)}
        super().load_state(tasks, sealed, student)
        self.average = None
        if AVERAGE + "count" in working:
            self.average = RunningAverage(self.weights.values())
            assign(self.average.tensors, [working[AVERAGE + name] for name in self.weights])
            self.average.count = int(working[AVERAGE + "count"])
