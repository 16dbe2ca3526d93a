"""Methods that train every weight of CLIP: continual finetuning and the two upper bounds.

They share one model (`student`), one cross-entropy and one state. They differ in where a task starts and in what is
kept. The methods that keep a model near what it was (`anchored.py`, `distilled.py`, `zscl.py`, `icarl.py`) are built on
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures
from everclip.backbone.prompts import class_tokens, encode_classes
from everclip.layers.context import encode_alike
from everclip.methods.method import ORIGINAL, Batch, Loss, Method, PromptedConfig, as_cpu, classification_loss
from everclip.storage.tensors import Wanted, like, require
from everclip.streams.stream import TaskInfo

NEVER_TRAINED = ("model.logit_scale", "model.logit_bias")


class FullModel(Method):
    """All weights but logit_scale are trained with CE_ε over the class prompts of the batch's task."""

    Config = PromptedConfig
    config: PromptedConfig
    defaults: ClassVar[dict[str, Any]] = {"lr": 2e-4}

    def __init__(self, backbone: Backbone, config: PromptedConfig, features: FrozenFeatures | None = None) -> None:
        super().__init__(backbone, config, features)
        self.student = backbone.clone()
        for name, parameter in self.student.named_parameters():
            parameter.requires_grad_(name not in NEVER_TRAINED)

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """What is trained: the student's parameters by name."""
        return {name: p for name, p in self.student.named_parameters() if p.requires_grad}

    @property
    def answering(self) -> Backbone:
        """The model that answers on learned routes."""
        return self.student

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss by name, each with its weight. Subclasses add to those they inherit.

        Here CE_ε of the batch against its task's classes under the training prompt.
        """
        images = self.student.encode_image(batch.images)
        texts = encode_alike(self.student, self.training_tokens(batch.task))
        scale = self.student.logit_scale
        return {"ce": classification_loss(images, texts, batch.labels, scale, self.config.label_smoothing)}

    def forward(self, batch: Batch) -> Loss:
        """The sum of all terms."""
        terms = self.terms(batch)
        return Loss(torch.stack(list(terms.values())).sum(), {name: term.detach() for name, term in terms.items()})

    def embed(self, pixels: Tensor, route: int) -> Tensor:
        """Normalized embeddings (B, D) of the trained image tower, or of the original CLIP."""
        tower = self.backbone if route == ORIGINAL else self.answering
        return F.normalize(tower.encode_image(pixels), dim=-1)

    def classifier(self, task: TaskInfo, route: int) -> Tensor:
        """Class embeddings (C, D) of the trained text tower, or of the original CLIP."""
        if route == ORIGINAL:
            return super().classifier(task, route)
        tokens = class_tokens(self.backbone, task.class_names, task.templates)
        return encode_classes(self.answering.encode_text, tokens)

    def route_key(self, route: int) -> str:
        """The student differs after every task."""
        return "original" if route == ORIGINAL or not self.tasks else f"after {len(self.tasks)} tasks"

    def working_state(self) -> dict[str, Tensor]:
        """The student's weights."""
        return self.student.state_dict()

    def check_state(self, tasks: list[TaskInfo], sealed: list[dict[str, Tensor]], working: dict[str, Tensor]) -> None:
        """Weights as those of the model, and what a subclass keeps beside it, as far as it says.

        Which of them there must be is the business of `load_state`: a subclass may keep those alone that it trains.

        Raises:
            MisfitError: a tensor is missing or not what it must be.
        """
        super().check_state(tasks, sealed, working)
        model = like(self.student.state_dict())
        parts: list[tuple[int | str, dict[str, Tensor]]] = [*enumerate(sealed), ("working", working)]
        for part, tensors in parts:
            wanted = model | (self.beside(tensors) if part == "working" else {})
            known = {name: tensor for name, tensor in tensors.items() if name in wanted}
            require(part, known, {name: wanted[name] for name in known})

    def beside(self, working: Mapping[str, Tensor]) -> dict[str, Wanted]:
        """What tensors of the working state must be that are not the student's: here there are none."""
        return {}

    def load_state(self, tasks: list[TaskInfo], sealed: list[dict[str, Tensor]], working: dict[str, Tensor]) -> None:
        """Restore the student."""
        super().load_state(tasks, sealed, working)
        if working:
            self.student.load_state_dict(working)


class Finetune(FullModel):
    """Continual finetuning: each task starts where the last one ended, and nothing protects the old ones."""

    name = "finetune"
    summary = "continual finetuning of the whole model; the lower bound on forgetting"
    paper = "baseline of ZSCL, Zheng et al. 2023, arXiv 2303.06628"


class Joint(FullModel):
    """All tasks at once, one task per step in a shuffled order: the upper bound of one shared model."""

    name = "joint"
    summary = "the whole model on all tasks at once; an upper bound"
    paper = "upper bound of ZSCL, Zheng et al. 2023, arXiv 2303.06628"
    all_at_once = True
    upper_bound = True


class Separate(FullModel):
    """Each task alone, from the pretrained CLIP: the upper bound of each task, with one model per task."""

    name = "separate"
    summary = "one whole model per task, each from the original CLIP; an upper bound"
    paper = "per-task upper bound of ZSCL, Zheng et al. 2023, arXiv 2303.06628"
    defaults: ClassVar[dict[str, Any]] = FullModel.defaults | {"selector": "oracle"}
    routed = True
    upper_bound = True
    promises = frozenset({"zero_shot_kept", "finished_tasks_constant"})

    def __init__(self, backbone: Backbone, config: PromptedConfig, features: FrozenFeatures | None = None) -> None:
        super().__init__(backbone, config, features)
        self.finished: list[dict[str, Tensor]] = []
        self._loaded: int | None = None
        self._classifiers: dict[TaskInfo, Tensor] = {}

    def begin_task(self, task: TaskInfo) -> None:
        """Start from the original CLIP again."""
        super().begin_task(task)
        self.student.load_state_dict(self.backbone.state_dict())
        self._loaded = None

    def end_task(self) -> None:
        """Keep this task's model."""
        self.finished.append(as_cpu(self.student.state_dict()))
        self._loaded = len(self.finished) - 1

    def _load(self, route: int) -> None:
        if self._loaded != route:
            self.student.load_state_dict(self.finished[route])
            self._loaded = route

    def embed(self, pixels: Tensor, route: int) -> Tensor:
        """Normalized embeddings (B, D) of the model of task `route`, or of the original CLIP."""
        if route != ORIGINAL:
            self._load(route)
        return super().embed(pixels, route)

    def classifier(self, task: TaskInfo, route: int) -> Tensor:
        """Class embeddings (C, D): a learned task's by its own model, any other's by the original CLIP."""
        if route == ORIGINAL or task.index >= len(self.finished):
            return super().classifier(task, ORIGINAL)
        if task not in self._classifiers:
            self._load(task.index)
            self._classifiers[task] = super().classifier(task, task.index)
        return self._classifiers[task]

    def route_key(self, route: int) -> str:
        """A finished task's model never changes."""
        return "original" if route == ORIGINAL else f"task {route}"

    def sealed_state(self, index: int) -> dict[str, Tensor]:
        """The model of task `index`."""
        return self.finished[index]

    def working_state(self) -> dict[str, Tensor]:
        """The model in training; nothing between tasks."""
        return super().working_state() if len(self.finished) < len(self.tasks) else {}

    def load_state(self, tasks: list[TaskInfo], sealed: list[dict[str, Tensor]], working: dict[str, Tensor]) -> None:
        """Restore the finished models and the one in training."""
        super().load_state(tasks, sealed, working)
        self.finished = list(sealed)
        self._loaded = None

    def trained_in_total(self, per_task: list[int]) -> int:
        """One model per task."""
        return sum(per_task)
