"""The contract that every method fulfills.

A method is one file: a `Config` with a help line per field, and a `Method`. The training loop calls

    begin_task → optimizer → (forward → after_backward → step → after_step) × N → end_task
    begin_task → forward … step × N → remember → end_task           (methods that are fed with frozen features)
    begin_task → accumulate × N → solve → end_task                  (closed-form methods, on frozen features)

and evaluation calls `embed`, `classifier` and `posterior`. Neither knows a method by name. What a method has learned is
tensors plus JSON, in two parts: what a finished task fixed for good (`sealed_state`), and what later tasks may still
change (`working_state`). A run directory stores the first part once and rewrites only the second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from everclip.backbone import Backbone
from everclip.backbone.features import Feed, FrozenFeatures, FrozenImages, embed_features, embed_images
from everclip.backbone.prompts import class_tokens
from everclip.data import LabeledEmbeddings, ViewedImages
from everclip.errors import InputError
from everclip.methods.descent import Descent
from everclip.storage.tensors import misfits, require_finite
from everclip.streams.stream import TaskInfo
from everclip.system.processes import by_main

ORIGINAL = -1
"""The route to the original CLIP."""

Promise = Literal["zero_shot_kept", "finished_tasks_constant", "order_free"]

Forgetting = Literal["exactly", "answers"]

Requirement = Literal["reference", "reference_texts"]

_REQUIRED: dict[Requirement, str] = {
    "reference": "reference images; name any folder of unlabeled images by --set reference=DIR",
    "reference_texts": "reference texts; name a text file with one text per line by --set reference_texts=FILE",
}


class MethodConfig(BaseModel):
    """Settings of a method beyond the training recipe; subclasses add fields with a description each."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PromptedConfig(MethodConfig):
    """Settings of methods that descend the cross-entropy of images against class prompts."""

    label_smoothing: float = Field(0.2, ge=0, lt=1, description="ε of the cross-entropy CE_ε")
    training_prompt: Literal["first", "random"] = Field(
        "first", description="template of the class prompts in training: a task's first, or another one at every step"
    )


@dataclass(frozen=True)
class Reference:
    """The reference images of one training step.

    Attributes:
        images: normalized pixels (R, 3, S, S) under the evaluation view, on the model's device. If there are several
            processes, these are the share of this one (`processes.gathered` brings together what all say of theirs).
        rows: which images of `Method.reference` they are (R,), int64, on the host.
    """

    images: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    Attributes:
        task: whose images these are.
        images: what the method is fed (`Method.feed`), on the model's device: normalized pixels (B, 3, S, S), or
            un-normalized frozen features, which are embeddings (B, D) or output tokens (B, T, D). If there are several
            processes, these are this one's share of the pixels, but all of the features.
        labels: class indices within the task (B,), int64.
        reference: as many reference images, where the method has `reference`.
    """

    task: TaskInfo
    images: Tensor
    labels: Tensor
    reference: Reference | None = None


@dataclass(frozen=True)
class Sources:
    """What a learner may look at besides the images of a step.

    Attributes:
        views: tasks → their training images under the evaluation view, one task after the other: all of a task, or
            those at some rows of its training split. A method with a memory asks an earlier task only for the rows that
            it remembers.
        reference: images of no task (setting `reference`), under the evaluation view.
        reference_texts: texts of no task (setting `reference_texts`).
    """

    views: Callable[[Mapping[TaskInfo, Sequence[int] | None]], ViewedImages]
    reference: ViewedImages | None = None
    reference_texts: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Loss:
    """Loss of a batch: the scalar to descend, and its named parts (detached) for the log."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class Method(nn.Module):
    """Base of all methods.

    Args:
        backbone: the pretrained CLIP, frozen. A method never changes it; it trains a copy or modules of its own.
        config: an instance of the class's `Config`.
        features: frozen features of the backbone, computed once; made here unless shared.
    """

    name: ClassVar[str]
    """Name in the registry and on the command line."""
    summary: ClassVar[str]
    """One line for `everclip methods`."""
    paper: ClassVar[str] = ""
    """Where it comes from."""
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    defaults: ClassVar[dict[str, Any]] = {}
    """Where this method departs from the default recipe and protocol (for example `lr`)."""
    trains: ClassVar[bool] = True
    """False: nothing is learned by gradient; the training loop is skipped."""
    closed_form: ClassVar[bool] = False
    """True: learns by `accumulate` and `solve` from frozen features of the training images, seen once."""
    reads: ClassVar[frozenset[str]] = frozenset({"images"})
    """Kinds of data it can learn from and answer on: `images`, `embeddings`."""
    feed: Feed = "images"
    """What `forward` and `embed` are fed: augmented images, or features of the frozen tower, computed once."""
    routed: bool = False
    """True: answers differ by task, so a selector chooses the task of each image; False: one answer for all. Settings
    may make an instance differ from its class."""
    all_at_once: ClassVar[bool] = False
    """True: all tasks are learned together, in one stage."""
    upper_bound: ClassVar[bool] = False
    """True: uses what a continual learner does not have; set apart in comparisons."""
    requires: ClassVar[frozenset[Requirement]] = frozenset()
    """Settings that name what it learns from besides the stream, and that must be given."""
    needs_start: ClassVar[bool] = False
    """True: to go on within a task, it must first be put back to where the task began and begin it again."""
    promises: ClassVar[frozenset[Promise]] = frozenset()
    """What holds by construction; the tests check it."""
    forgets: ClassVar[Forgetting | None] = None
    """What `drop` takes back, where there is one: `exactly` all of a task, or its `answers` alone."""

    reference: ViewedImages | None = None
    """Images that accompany those of every step (`Batch.reference`) of a method fed images; set by `begin_task`."""

    def __init__(self, backbone: Backbone, config: MethodConfig, features: FrozenFeatures | None = None) -> None:
        super().__init__()
        # In a tuple, so that the frozen backbone is no submodule: not in parameters(), not in state_dict().
        self._frozen = (backbone, features or FrozenFeatures(backbone))
        self.config = config
        self.tasks: list[TaskInfo] = []
        self._sources: Sources | None = None
        self._training_tokens: dict[TaskInfo, Tensor] = {}  # (C, templates, context)

    @property
    def backbone(self) -> Backbone:
        """The original CLIP."""
        return self._frozen[0]

    @property
    def features(self) -> FrozenFeatures:
        """Frozen features of the original CLIP."""
        return self._frozen[1]

    @property
    def sources(self) -> Sources:
        """What the method may look at besides the images of a step."""
        assert self._sources is not None, f"'{self.name}' needs `provide` before the first task"
        return self._sources

    # -- learning --------------------------------------------------------------------------------------------------

    @classmethod
    def check_requirements(cls, given: object) -> None:
        """Refuse if something is missing that the method `requires`.

        Args:
            given: has an attribute for each, None where it is missing: `Sources`, or the setup of a run.

        Raises:
            InputError: something is missing.
        """
        for name in sorted(cls.requires):
            if getattr(given, name) is None:
                raise InputError(f"method '{cls.name}' needs {_REQUIRED[name]}.")

    def provide(self, sources: Sources) -> None:
        """Give the method what it may look at besides the images of a step; called once, before everything else.

        Raises:
            InputError: something that it `requires` is missing.
        """
        self.check_requirements(sources)
        self._sources = sources

    def check_stream(self, tasks: Sequence[TaskInfo], images: Sequence[int]) -> None:
        """Refuse now what the method would refuse hours later, at a later task; called before the first task.

        Here: prompts that the backbone cannot read.

        Args:
            tasks: the whole stream.
            images: how many training images each has.

        Raises:
            InputError: the stream cannot be learned to its end.
        """
        for task in tasks:
            class_tokens(self.backbone, task.class_names, task.templates)

    def begin_task(self, task: TaskInfo) -> None:
        """Prepare what this task trains. With `all_at_once`, called for every task before the training."""
        self.tasks.append(task)

    def optimizer(self, descent: Descent) -> torch.optim.Optimizer:
        """What takes the steps of a stage; by default the recipe's optimizer, over all that requires a gradient.

        Parameters with a rate of their own are a group, whose `lr` is its peak; the schedule moves every rate:

            head, rest = self.head.parameters(), self.tower.parameters()
            return descent.optimizer([{"params": head, "lr": 10 * descent.lr}, {"params": rest}])

        An optimizer of another kind is returned as it is. It takes steps without a closure, and keeps all that a resume
        needs in its `state` and its `param_groups`, as tensors and numbers.

        Args:
            descent: what the recipe says; `descent.optimizer` makes its optimizer.
        """
        return descent.optimizer([p for p in self.parameters() if p.requires_grad])

    def forward(self, batch: Batch) -> Loss:
        """Loss of one batch. Under `accumulate` a step calls it for one part of its images after the other."""
        raise NotImplementedError(f"{self.name} does not learn by gradient")

    def phases(self, iterations: int) -> list[int]:
        """Steps of each phase of a task's training, given the recipe's iterations."""
        return [iterations]

    def begin_phase(self, phase: int) -> None:
        """Called before the first step of every phase but the first (phase 0 begins with `begin_task`)."""

    def after_backward(self) -> None:
        """Called between the backward pass and the optimizer's step; gradients are those of the whole batch."""

    def after_step(self, step: int) -> None:
        """Called after optimizer step `step` (0-based)."""

    def remember(self, task: TaskInfo, images: FrozenImages) -> None:
        """Methods fed with features: look at a task's training images once more after the last step, before `end_task`.

        What replay in later tasks needs is taken here; with `all_at_once`, called for every task in turn.
        """

    def accumulate(self, features: Tensor, labels: Tensor, identities: Tensor | None = None) -> None:
        """Closed-form methods: add un-normalized frozen features (B, D) of the current task, class indices (B,).

        `identities` (B,), int64, know the images by what they show (`everclip.data.identities`): for methods that keep
        some of them, which must be the same ones on every machine.
        """
        raise NotImplementedError(f"{self.name} does not learn in closed form")

    def solve(self) -> None:
        """Closed-form methods: learn from all that was accumulated, of this task and the earlier ones."""
        raise NotImplementedError(f"{self.name} does not learn in closed form")

    def end_task(self) -> None:
        """Freeze, merge, retain: the task (or the stage of all tasks) is learned."""

    def drop(self, index: int) -> None:
        """Forget a finished task, as far as `forgets` says. Between tasks only.

        Args:
            index: position in `tasks`. Later tasks move up, but keep their `TaskInfo.index`.
        """
        raise NotImplementedError(f"{self.name} cannot forget")

    def training_tokens(self, task: TaskInfo) -> Tensor:
        """Token ids (C, context) of the task's classes under the template of this step (`training_prompt`)."""
        if task not in self._training_tokens:
            config = cast(PromptedConfig, self.config)  # of every method that trains on class prompts
            templates = task.templates if config.training_prompt == "random" else task.templates[:1]
            self._training_tokens[task] = class_tokens(self.backbone, task.class_names, templates)
        tokens = self._training_tokens[task]
        # No draw where there is no choice: the generator's later draws (dropout, noise) stay what they were.
        template = by_main(lambda: int(torch.randint(tokens.shape[1], ()))) if tokens.shape[1] > 1 else 0
        return tokens[:, template]

    # -- answering -------------------------------------------------------------------------------------------------

    def embed(self, pixels: Tensor, route: int) -> Tensor:
        """Image side: normalized pixels (B, 3, S, S) → normalized embeddings (B, D) under a route (`ORIGINAL` = −1).

        A method that is fed with features (`feed`) takes those instead of pixels.
        """
        return F.normalize(self.backbone.encode_image(pixels), dim=-1)

    def embed_each(self, pixels: Tensor, routes: Tensor) -> Tensor:
        """As `embed`, but each image (B, 3, S, S) has a route (B,) of its own, of a learned task; int64 on the host."""
        embeddings = pixels.new_empty(len(pixels), self.backbone.embed_dim)
        for route in routes.unique().tolist():
            embeddings[routes == route] = self.embed(pixels[routes == route], route)
        return embeddings

    def embed_all(self, data: ViewedImages | LabeledEmbeddings, route: int, rows: np.ndarray | None = None) -> Tensor:
        """What `embed` says of N images (or of some rows), in batches and fed as it wants: (N, D) on the CPU."""
        encode = partial(self.embed, route=route)
        if self.feed == "images":
            images = cast(ViewedImages, data)  # what is fed images learns from nothing else
            return embed_images(images, encode, self.backbone, rows)
        return embed_features(self.features.frozen(data, self.feed), encode, self.backbone, rows)

    def classifier(self, task: TaskInfo, route: int) -> Tensor:
        """Text side: the classes of a task as normalized embeddings (C, D) under a route.

        On the route of a learned task, each class is encoded with the text side of the task it belongs to; classes of
        tasks not learned yet, and all classes on the route `ORIGINAL`, with the original CLIP.
        """
        return self.features.classes(task.class_names, task.templates)

    def posterior(
        self,
        embeddings: Tensor,
        logits: Tensor,
        original: Callable[[], Tensor],
        classes: Sequence[tuple[int, int]],
        candidates: Mapping[str, Sequence[int]],
    ) -> dict[str, Tensor]:
        """p(c|x) over each candidate set, of a method without routes; one joint classifier answers here.

        Args:
            embeddings: what `embed` gives (B, D).
            logits: s · embeddings · classifierᵀ over all classes (B, C).
            original: gives the logits of the original CLIP (B, C); they are computed when asked for.
            classes: what identifies the C classes (`TaskInfo.keys`).
            candidates: name → which of the C classes are candidates.

        Returns:
            name → (B, candidates), rows sum to 1.
        """
        return {name: logits[:, list(columns)].softmax(dim=1) for name, columns in candidates.items()}

    def route_key(self, route: int) -> str:
        """Names what `embed` computes on a route: as long as it is the same, embeddings may be reused.

        `original` stands for the frozen backbone in every method.
        """
        return "original"

    # -- state -----------------------------------------------------------------------------------------------------

    def sealed_state(self, index: int) -> dict[str, Tensor]:
        """Tensors that task `index` fixed for good when it ended."""
        return {}

    def working_state(self) -> dict[str, Tensor]:
        """Tensors that later steps or tasks may still change."""
        return {}

    def check_state(self, tasks: list[TaskInfo], sealed: list[dict[str, Tensor]], working: dict[str, Tensor]) -> None:
        """Refuse tensors from a file that `load_state` can't use; called before it, for a file may come from anybody.

        Here: numbers that are not finite. A method that says which tensors it wants (`storage.tensors.require`) is
        safe from files that only look like its own.

        Args:
            tasks, sealed, working: as for `load_state`.

        Raises:
            MisfitError: a tensor is missing or not what it must be.
        """
        for number, part in enumerate(sealed):
            require_finite(number, part)
        require_finite("working", working)

    def load_state(self, tasks: list[TaskInfo], sealed: list[dict[str, Tensor]], working: dict[str, Tensor]) -> None:
        """Restore the method as it was when its state was taken, in the middle of a task too.

        In the middle of a task, a method with `needs_start` is restored twice: first as it was before the task, which
        then begins again (`begin_task`), and then with what the steps up to that point had changed.

        Args:
            tasks: all tasks begun; those beyond `len(sealed)` were in training. `begin_task` is not called for them.
            sealed: `sealed_state` of each finished task.
            working: `working_state`.
        """
        self.tasks = list(tasks)

    def promised(self) -> frozenset[Promise]:
        """What this instance promises: the `promises` of the class, and what its settings add."""
        return self.promises

    def trained_parameters(self) -> int:
        """How many parameters the current task trains."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def trained_in_total(self, per_task: list[int]) -> int:
        """How many distinct parameters were ever trained, given what each task trained: one shared set by default."""
        return max(per_task, default=0)


def load_checked(
    method: Method, tasks: list[TaskInfo], sealed: list[dict[str, Tensor]], working: dict[str, Tensor]
) -> None:
    """`check_state`, then `load_state`: the way in for what was read from files.

    Raises:
        MisfitError: the tensors are not what the method needs.
    """
    method.check_state(tasks, sealed, working)
    with misfits("working"):
        method.load_state(tasks, sealed, working)


def classification_loss(images: Tensor, texts: Tensor, labels: Tensor, scale: Tensor, smoothing: float) -> Tensor:
    """CE_ε of s·f̄(x)·ḡ(t)ᵀ: un-normalized image features (B, D), text features (C, D), labels (B,) → scalar."""
    logits = scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def as_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A detached copy on the CPU that later training cannot change."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}
