"""Orthogonal LoRA: what a task adds to a layer has low rank, and lies across what earlier tasks added."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures
from everclip.methods.full_model import FullModel
from everclip.methods.method import Batch, PromptedConfig
from everclip.streams import TaskInfo


class OLoRAConfig(PromptedConfig):
    """Settings of orthogonal LoRA."""

    rank: int = Field(4, ge=1, description="r, the rank of what a task adds to a layer")
    orthogonality: float = Field(0.5, ge=0, description="weight of Σ |A_s Aᵀ| over layers and earlier tasks s")


class OLoRA(FullModel):
    """Every linear layer of the image tower becomes W + B A, A (r, in), B (out, r); a finished task is added to W."""

    name = "olora"
    summary = "low-rank additions to the image tower, each orthogonal to those of earlier tasks"
    paper = "Wang et al., Findings of EMNLP 2023, arXiv 2310.14152"
    Config = OLoRAConfig
    defaults: ClassVar[dict[str, float]] = {"lr": 1e-3}

    def __init__(self, backbone: Backbone, config: OLoRAConfig, features: FrozenFeatures | None = None) -> None:
        super().__init__(backbone, config, features)
        self.student.requires_grad_(False)
        # The output layer of torch's attention is a subclass, and is applied without a call: hooks never see it.
        self.layers = [m for block in self.student.image_blocks for m in block.modules() if type(m) is nn.Linear]
        self.pairs = nn.ParameterList()  # A, B of the first layer, A, B of the second, …: of the task in training
        self.finished: list[list[Tensor]] = []  # the same of every finished task
        for number, layer in enumerate(self.layers):
            layer.register_forward_hook(partial(self._added, 2 * number))

    def _added(self, place: int, layer: nn.Module, given: tuple[Tensor, ...], said: Tensor) -> Tensor:
        return said + given[0] @ self.pairs[place].T @ self.pairs[place + 1].T if len(self.pairs) else said

    def begin_task(self, task: TaskInfo) -> None:
        """A at random, B zero: the first step starts where the last task ended."""
        super().begin_task(task)
        self.pairs = nn.ParameterList()
        for layer in self.layers:
            down = torch.randn(self.config.rank, layer.in_features) / layer.in_features**0.5
            self.pairs.extend([down.to(layer.weight), layer.weight.new_zeros(layer.out_features, self.config.rank)])

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The cross-entropy, and how far A is from lying across the A of earlier tasks."""
        pairs = [(earlier[n], self.pairs[n]) for earlier in self.finished for n in range(0, len(earlier), 2)]
        overlap = sum(((old @ new.T).abs().sum() for old, new in pairs), torch.zeros((), device=self.backbone.device))
        return super().terms(batch) | {"orthogonality": self.config.orthogonality * overlap}

    def end_task(self) -> None:
        """Add what was learned to the layers: answering costs what it cost before."""
        self._finish([pair.detach().clone() for pair in self.pairs])

    @torch.no_grad()
    def _finish(self, pairs: list[Tensor]) -> None:
        for layer, down, up in zip(self.layers, pairs[::2], pairs[1::2], strict=True):
            layer.weight += up @ down
        self.finished.append(pairs)
        self.pairs = nn.ParameterList()

    def trained_parameters(self) -> int:
        """Of one task, whether in training or over."""
        return sum(self.config.rank * (layer.in_features + layer.out_features) for layer in self.layers)

    def trained_in_total(self, per_task: list[int]) -> int:
        """Every task trains its own."""
        return sum(per_task)

    def sealed_state(self, index: int) -> dict[str, Tensor]:
        """A and B of a finished task."""
        return {str(place): pair for place, pair in enumerate(self.finished[index])}

    def working_state(self) -> dict[str, Tensor]:
        """A and B of the task in training; the layers follow from the backbone and the finished tasks."""
        return {str(place): pair for place, pair in enumerate(self.pairs)}

    def load_state(self, tasks: list[TaskInfo], sealed: list[dict[str, Tensor]], working: dict[str, Tensor]) -> None:
        """Add the finished tasks once more, in order."""
        super().load_state(tasks, sealed, {})
        self.student.load_state_dict(self.backbone.state_dict())
        self.finished, device = [], self.backbone.device
        for state in sealed:
            self._finish([state[str(place)].to(device) for place in range(len(state))])
        self.pairs = nn.ParameterList(working[str(place)].to(device) for place in range(len(working)))
