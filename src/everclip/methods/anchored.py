"""Baselines that keep the weights near those after the last task: weight consolidation and WiSE-FT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures
from everclip.functional.distillation import assign, interpolated, snapshot, weight_drift
from everclip.methods.full_model import FullModel
from everclip.methods.method import Batch, PromptedConfig
from everclip.streams.stream import TaskInfo


class Anchored(FullModel):
    """Keeps the weights that a task starts from while it trains.

    Attributes:
        start: those weights, in the order of `weights`; None between tasks.
    """

    needs_start = True
    start: Sequence[Tensor] | None = None

    @property
    def anchors(self) -> Sequence[Tensor]:
        """`start`, while a task is learned."""
        assert self.start is not None, "no task is being learned"
        return self.start

    def begin_task(self, task: TaskInfo) -> None:
        """Remember where the task starts."""
        super().begin_task(task)
        self.start = snapshot(self.weights.values())

    def end_task(self) -> None:
        """Nothing of the start is needed any more."""
        super().end_task()
        self.start = None


class WeightConsolidationConfig(PromptedConfig):
    """Settings of weight consolidation."""

    consolidation: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="λ of λ Σ‖θ − θ_start‖², θ_start the weights a task starts from"
    )


class WeightConsolidation(Anchored):
    """Finetuning with L_wc = λ Σ‖θ − θ_start‖², which pulls every weight back to where the task started."""

    name = "wc"
    summary = "finetuning that pulls the weights back to where the task started"
    paper = "baseline of ZSCL, Zheng et al. 2023, arXiv 2303.06628"
    Config = WeightConsolidationConfig
    config: WeightConsolidationConfig
    # Published for steps a twentieth as long.
    defaults: ClassVar[dict[str, Any]] = FullModel.defaults | {"consolidation": 0.1}

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """L_wc beside what is inherited, unless its weight is 0."""
        terms = super().terms(batch)
        if self.config.consolidation:
            terms["wc"] = self.config.consolidation * weight_drift(self.weights.values(), self.anchors)
        return terms


class WiSEFTConfig(PromptedConfig):
    """Settings of WiSE-FT."""

    new_share: float = Field(
        0.8, ge=0, le=1, description="after a task θ ← share · θ + (1 − share) · θ_start, θ_start the weights before it"
    )
    zero_shot_share: float = Field(
        0.0, ge=0, le=1, description="share of the pretrained weights in the model that answers; training goes on as is"
    )


class WiSEFT(Anchored):
    """Finetuning; after each task the weights are interpolated with those before it."""

    name = "wise-ft"
    summary = "finetuning, interpolated after each task with the weights before it"
    paper = "Wortsman et al. 2022, arXiv 2109.01903; as baseline of ZSCL, arXiv 2303.06628"
    Config = WiSEFTConfig
    config: WiSEFTConfig

    def __init__(self, backbone: Backbone, config: WiSEFTConfig, features: FrozenFeatures | None = None) -> None:
        super().__init__(backbone, config, features)
        self._blend: tuple[Backbone] | None = None  # in a tuple, so that it is no submodule

    def end_task(self) -> None:
        """Go back a part of the way."""
        weights = self.weights.values()
        assign(weights, interpolated(weights, self.anchors, self.config.new_share))
        self._blend = None
        super().end_task()

    def load_state(self, tasks: list[TaskInfo], sealed: list[dict[str, Tensor]], working: dict[str, Tensor]) -> None:
        """Restore the student."""
        super().load_state(tasks, sealed, working)
        self._blend = None

    @property
    def answering(self) -> Backbone:
        """The student, or with `zero_shot_share` its interpolation with the pretrained weights."""
        if not self.config.zero_shot_share:
            return self.student
        if self._blend is None:
            blend = self.student.clone()
            ours, theirs = list(blend.parameters()), list(self.backbone.parameters())
            assign(ours, interpolated(theirs, ours, self.config.zero_shot_share))
            self._blend = (blend.requires_grad_(False).eval(),)
        return self._blend[0]
