"""Adapters with parameter retention: the base of `linear-adapter`, `attention-adapter` and `prompt-tuning`.

A reconstruction from the abstract of Liu et al., arXiv 2310.20348, one third-party re-implementation and the same
group's successor RAPF (ECCV 2024, arXiv 2407.14143).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from everclip.backbone import Backbone
from everclip.backbone.features import Feed, FrozenFeatures, FrozenImages
from everclip.functional.retention import fuse, retain
from everclip.methods.joint import JointClassifier, joint_columns, joint_keys, joint_texts
from everclip.methods.method import ORIGINAL, Batch, Loss, MethodConfig, as_cpu
from everclip.methods.replay import ExemplarReplay, GaussianReplay, Replay
from everclip.storage.tensors import like, require
from everclip.streams.stream import TaskInfo


class RetainedConfig(MethodConfig):
    """Settings of all adapters with parameter retention."""

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="ε of the cross-entropy CE_ε")
    retention: Literal["hard", "soft", "none"] = Field(
        "soft",
        description="after every task but the first: old and new are mixed by how much they changed (soft), or the "
        "least changed entries go back (hard)",
    )
    ratio: float = Field(0.8, ge=0, le=1, description="retention=hard: share of the entries that go back")
    b: float = Field(0.6, ge=0, le=1, description="retention=soft: least share of the new value")
    replay: Literal["gaussian", "exemplars", "none"] = Field(
        "gaussian",
        description="what stands for the classes of earlier tasks: a Gaussian per class, real examples, or nothing",
    )
    exemplars: int = Field(2000, ge=1, description="replay=exemplars: examples kept in total")


class Retained(JointClassifier):
    """Base: a small module beside the frozen CLIP, trained over all classes seen so far.

    **Loss.** CE_ε of the step's images, over the classes of all tasks begun, plus CE_ε of as many replayed samples,
    drawn uniformly over the classes of finished tasks. The two are weighted by the number of classes that each speaks
    for. In expectation this is a batch that old and new classes share in proportion to their number, but the cost of a
    step does not grow with that number.

    **Retention.** At the end of every task but the first, each tensor of the module is partly put back to what it was
    before the task (see `everclip.functional.retention`).

    The sealed state of a task is its statistics, for Gaussians. The working state is the module, the exemplars, and,
    within a task, what the module was when the task began.

    Subclasses give the module (`adapter`), the image side and the text side.
    """

    Config = RetainedConfig
    config: RetainedConfig
    defaults: ClassVar[dict[str, Any]] = {"epochs": 15, "batch": 100, "lr": 3e-3}
    feed: Feed = "embeddings"
    adapter: nn.Module

    def __init__(self, backbone: Backbone, config: RetainedConfig, features: FrozenFeatures | None = None) -> None:
        super().__init__(backbone, config, features)
        kinds = {"gaussian": GaussianReplay, "exemplars": lambda: ExemplarReplay(config.exemplars), "none": Replay}
        self.replay: Replay = kinds[config.replay]()
        self.before: dict[str, Tensor] = {}
        self._columns = torch.empty(0, dtype=torch.int64)

    # -- learning --------------------------------------------------------------------------------------------------

    def check_stream(self, tasks: Sequence[TaskInfo], images: Sequence[int]) -> None:
        """The replay must have room for all classes."""
        super().check_stream(tasks, images)
        self.replay.check(len(joint_keys(tasks)))

    def begin_task(self, task: TaskInfo) -> None:
        """Note where the module stands, and get ready to replay the classes before."""
        super().begin_task(task)
        if len(self.tasks) > 1 and self.config.retention != "none":
            self.before = {name: value.detach().clone() for name, value in self.adapter.named_parameters()}
        self._prepare()

    def _prepare(self) -> None:
        *finished, self._columns = joint_columns(self.tasks)
        self.replay.begin(finished, len(joint_keys(self.tasks)))
        self.begin_texts()

    def begin_texts(self) -> None:
        """Get ready to encode the classes of all tasks begun."""
        raise NotImplementedError

    def image_side(self, inputs: Tensor) -> Tensor:
        """What the method is fed with (B, …) → image features (B, D)."""
        raise NotImplementedError

    def text_side(self) -> Tensor:
        """Text features of the classes of all tasks begun (C, D)."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Loss:
        """CE_ε over all classes seen; with replay in training mode only, so that the evaluated loss draws nothing."""
        inputs, targets, count = batch.images, self._columns.to(batch.labels.device)[batch.labels], len(batch.labels)
        replayed = self.training and len(self.replay.classes) > 0
        if replayed:
            old, columns = self.replay.draw(count)
            inputs, targets = torch.cat([inputs, old.to(inputs)]), torch.cat([targets, columns.to(targets)])
        images, texts = F.normalize(self.image_side(inputs), dim=-1), F.normalize(self.text_side(), dim=-1)
        logits = self.backbone.logit_scale * images @ texts.T
        losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=self.config.label_smoothing)
        ce = losses[:count].mean()
        if not replayed:
            return Loss(ce, {"ce": ce.detach()})
        share = len(self.replay.classes) / (len(self.replay.classes) + len(batch.task.class_names))
        again = losses[count:].mean()
        return Loss(torch.lerp(ce, again, share), {"ce": ce.detach(), "replay": again.detach()})

    def remember(self, task: TaskInfo, images: FrozenImages) -> None:
        """Let the replay keep something of the task."""
        self.replay.remember(images, self._columns)

    @torch.no_grad()
    def end_task(self) -> None:
        """Retain."""
        for name, parameter in self.adapter.named_parameters():
            if name in self.before:
                parameter.copy_(self._retained(self.before[name], parameter))
        self.before = {}

    def _retained(self, old: Tensor, new: Tensor) -> Tensor:
        if self.config.retention == "hard":
            return retain(old, new, self.config.ratio)
        return fuse(old, new, self.config.b)

    # -- state -----------------------------------------------------------------------------------------------------

    def sealed_state(self, index: int) -> dict[str, Tensor]:
        """What the replay keeps of task `index` for good."""
        return self.replay.sealed(index)

    def working_state(self) -> dict[str, Tensor]:
        """The module, its values before the task in training, and what the replay changes with every task."""
        parts = {"adapter": self.adapter.state_dict(), "before": self.before, "replay": self.replay.working()}
        return as_cpu({f"{part}.{name}": value for part, own in parts.items() for name, value in own.items()})

    def check_state(self, tasks: list[TaskInfo], sealed: list[dict[str, Tensor]], working: dict[str, Tensor]) -> None:
        """The module, perhaps as it was before the task in training, and what the replay keeps.

        Raises:
            MisfitError: a tensor is missing or not what it must be.
        """
        super().check_state(tasks, sealed, working)
        width, classes = self.backbone.embed_dim, len(joint_keys(tasks))
        for number, (task, part) in enumerate(zip(tasks, sealed, strict=False)):
            require(number, part, self.replay.sealed_wanted(len(task.class_names), width))
        if not working:
            return
        wanted = {f"adapter.{name}": each for name, each in like(self.adapter.state_dict()).items()}
        if any(name.startswith("before.") for name in working):
            module = dict(self.adapter.named_parameters())
            wanted |= {f"before.{name}": each for name, each in like(module).items()}
        shape = next((tensor.shape[1:] for name, tensor in working.items() if name == "replay.features"), ())
        wanted |= {f"replay.{name}": each for name, each in self.replay.working_wanted(shape, classes).items()}
        require("working", working, wanted)

    def load_state(self, tasks: list[TaskInfo], sealed: list[dict[str, Tensor]], working: dict[str, Tensor]) -> None:
        """Restore module and replay."""
        super().load_state(tasks, sealed, working)
        parts: dict[str, dict[str, Tensor]] = {"adapter": {}, "before": {}, "replay": {}}
        for full_name, value in working.items():
            part, _, name = full_name.partition(".")
            parts[part][name] = value
        if working:
            self.adapter.load_state_dict(parts["adapter"])
        self.before = {name: value.to(self.backbone.device) for name, value in parts["before"].items()}
        self.replay.load(sealed, parts["replay"])
        if len(tasks) > len(sealed):
            self._prepare()


class ImageAdapter(Retained):
    """Base: the module follows the image tower; classes are encoded as in evaluation, by the frozen CLIP."""

    def begin_texts(self) -> None:
        """Class embeddings of the original CLIP."""
        self._texts = joint_texts(self, self.tasks).to(self.backbone.device)

    def text_side(self) -> Tensor:
        """Class embeddings of the original CLIP (C, D)."""
        return self._texts

    def original(self, inputs: Tensor) -> Tensor:
        """The frozen tower's normalized embeddings (B, D) in what the method is fed with."""
        return F.normalize(inputs if inputs.dim() == 2 else inputs[:, 0], dim=-1)

    def embed(self, pixels: Tensor, route: int) -> Tensor:
        """Adapted embeddings (B, D), normalized; those of the original CLIP before the first task."""
        if route == ORIGINAL or not self.tasks:
            return self.original(pixels)
        return F.normalize(self.image_side(pixels), dim=-1)

    def route_key(self, route: int) -> str:
        """The module differs after every task."""
        return "original" if route == ORIGINAL or not self.tasks else f"after {len(self.tasks)} tasks"
