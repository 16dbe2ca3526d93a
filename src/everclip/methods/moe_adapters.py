"""MoE-Adapters: a frozen CLIP with mixture-of-experts adapters, one router per task; used experts are frozen.

Yu et al., CVPR 2024, arXiv 2403.11549; the formulas are in docs/methods/moe-adapters.md. `strict` and
`experts: grow` are ours.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures
from everclip.backbone.prompts import class_tokens, encode_classes
from everclip.errors import InputError
from everclip.layers.moe import ModulesOf, MoEBranch, Routes
from everclip.methods.method import ORIGINAL, Batch, Loss, Method, Promise, PromptedConfig, classification_loss
from everclip.storage.reading import shown
from everclip.storage.tensors import MisfitError, Wanted, require
from everclip.streams.stream import TaskInfo
from everclip.system.processes import is_main, summed, world

MOST_ROWS = 65_536
"""Of all experts that are made at once in one block, 46 times the paper's: more is a slip, or somebody's malice."""


class MoEAdaptersConfig(PromptedConfig):
    """Settings of MoE-Adapters."""

    experts: Literal["grow"] | int = Field(
        "grow", description="experts per block: a fixed number (22 in the paper), or grow by new_experts with each task"
    )
    new_experts: int = Field(2, ge=1, description="experts each task adds to a block when experts=grow")
    lead: float = Field(
        3.0,
        ge=0,
        allow_inf_nan=False,
        description="experts=grow: added to a new router's logits of the task's own new experts, so that a task starts "
        "from CLIP and not from what other tasks made of the frozen ones (0: the paper's router)",
    )
    top_k: int = Field(2, ge=1, description="experts per sample and block")
    freeze: int = Field(2, ge=0, description="most-hit experts of each block frozen after a task (0: none)")
    bottleneck: int = Field(64, ge=1, description="width r of an expert")
    scale: float = Field(0.1, allow_inf_nan=False, description="factor on what the experts add")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout inside an expert, in training")
    text_tower: bool = Field(True, description="experts in the text tower too")
    text_router_token: Literal["first", "eot"] = Field(
        "first", description="token the text routers read; first is the paper's: the same for every prompt of a task"
    )
    shared_router: bool = Field(
        False,
        description="one router and one answer for all tasks, no selector (the paper's class-incremental variant)",
    )
    strict: bool = Field(
        False, description="restrict a task to its frozen experts, so that its outputs never change again"
    )
    training_prompt: Literal["first", "random"] = Field(
        "random",
        description="template of the class prompts in training: a task's first (the paper's), or another one at every "
        "step: experts of the text tower fitted to one template fail on the others",
    )
    balance_weight: float = Field(0.0, ge=0, description="weight of cv²(importance) + cv²(load); unused in the paper")


class MoEAdapters(Method):
    """Experts beside every block of both towers; the original CLIP stays as it is and answers on the route −1."""

    name = "moe-adapters"
    summary = "frozen CLIP with mixture-of-experts adapters, one router per task"
    paper = "Yu et al. 2024, arXiv 2403.11549"
    Config = MoEAdaptersConfig
    config: MoEAdaptersConfig
    defaults: ClassVar[dict[str, Any]] = {"lr": 1e-3}
    routed = True
    promises = frozenset({"zero_shot_kept"})
    forgets = "answers"

    def __init__(self, backbone: Backbone, config: MoEAdaptersConfig, features: FrozenFeatures | None = None) -> None:
        super().__init__(backbone, config, features)
        if config.shared_router and (config.freeze or config.strict):
            raise InputError("shared_router=true needs freeze=0 and strict=false: one router cannot seal a task.")
        fixed = config.new_experts if config.experts == "grow" else config.experts
        if fixed * config.bottleneck > MOST_ROWS:
            raise InputError(
                f"{fixed} experts of bottleneck={config.bottleneck} make {fixed * config.bottleneck:,} rows per block, "
                f"more than {MOST_ROWS:,}; lower one of them."
            )
        if config.strict and not config.freeze:
            raise InputError("strict=true with freeze=0 leaves a task without experts; set freeze=2.")
        self.routed = not config.shared_router
        # The same weights in other modules: only this twin's blocks carry hooks, the backbone stays untouched.
        self._twin = (backbone.clone(share_weights=True).requires_grad_(False),)
        towers = {"image": self.twin.image_blocks}
        if config.text_tower:
            towers["text"] = self.twin.text_blocks
        self.towers = nn.ModuleDict()
        self._context: dict[str, tuple[Routes, Tensor | int | None] | None] = {"image": None, "text": None}
        for tower, blocks in towers.items():
            self.towers[tower] = ModulesOf(self._attach(tower, block) for block in blocks)
        self._used: tuple[Tensor, torch.cuda.Event | None] | None = None
        self._finished = 0
        if config.experts != "grow":
            self._grow(config.experts)

    @property
    def twin(self) -> Backbone:
        """The CLIP whose blocks carry the experts."""
        return self._twin[0]

    @property
    def branches(self) -> list[MoEBranch]:
        """Every block's branch, image tower first."""
        return [branch for tower in self.towers for branch in self._branches_of(tower)]

    def _branches_of(self, tower: str) -> ModulesOf[MoEBranch]:
        return cast(ModulesOf[MoEBranch], self.towers[tower])

    def _attach(self, tower: str, block: nn.Module) -> MoEBranch:
        """Put a branch beside a block: read h where LN2 does, add to what the block returns."""
        norm = cast(nn.LayerNorm, block.ln_2 if hasattr(block, "ln_2") else block.norm2)
        cfg = self.config
        branch = MoEBranch(norm.weight.shape[0], cfg.bottleneck, cfg.top_k, cfg.scale, cfg.dropout)
        branch.balanced = cfg.balance_weight > 0
        branch.shared_out = tower == "image"
        branch.to(norm.weight.device)
        residual: list[Tensor] = []

        def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if self._context[tower] is not None:
                residual.append(inputs[0])

        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            context = self._context[tower]
            if context is None:
                return None
            h = residual.pop()
            routes, token = context
            return self._with_experts(branch, output, h, routes, token)

        norm.register_forward_pre_hook(keep)
        block.register_forward_hook(add)
        return branch

    def _with_experts(
        self, branch: MoEBranch, output: Tensor, h: Tensor, routes: Routes, token: Tensor | int | None
    ) -> Tensor:
        if token is None:
            c = h.mean(dim=1)
        else:
            c = h[:, token] if isinstance(token, int) else h[torch.arange(len(h), device=h.device), token]
        rows = routes.routed
        if rows is None:
            output = output + branch(h, c, routes).to(output.dtype)
            return output
        # Rows on the route to the original CLIP are not touched at all: they stay equal to the last bit.
        return output.index_add(0, rows, branch(h[rows], c[rows], routes).to(output.dtype))

    def _encode(self, tower: str, inputs: Tensor, route: Tensor | int, token: Tensor | int | None) -> Tensor:
        encode = self.twin.encode_image if tower == "image" else self.twin.encode_text
        routes = Routes.of(route, inputs.device) if tower in self.towers else None
        if routes is None:
            return encode(inputs)
        self._context[tower] = (routes, token)
        try:
            return encode(inputs)
        finally:
            self._context[tower] = None

    def encode_images(self, pixels: Tensor, route: Tensor | int) -> Tensor:
        """Normalized pixels (B, 3, S, S) → features (B, D).

        Args:
            pixels: images.
            route: one task id per image (B,), best given on the host, where they are sorted out; or one for all. −1 is
                the original CLIP.
        """
        return self._encode("image", pixels, route, 0 if self.twin.has_class_token else None)

    def encode_texts(self, tokens: Tensor, route: Tensor | int) -> Tensor:
        """Token ids (P, context) → features (P, D); `route` as for `encode_images`."""
        token = self.twin.eot_position(tokens) if self.config.text_router_token == "eot" else 0
        return self._encode("text", tokens, route, token)

    def _router(self, route: int) -> int:
        """Which router a route takes."""
        if self.config.shared_router and route != ORIGINAL:
            return 0 if self.tasks else ORIGINAL  # before the first task, the answer is the original's
        return route

    # -- learning --------------------------------------------------------------------------------------------------

    def _grow(self, count: int) -> None:
        for branch in self.branches:
            branch.add_experts(count)

    def begin_task(self, task: TaskInfo) -> None:
        """Add this task's router (and its experts), and train them with all experts that are not frozen.

        Raises:
            InputError: a fixed number of experts, and all of them are frozen.
        """
        if self.config.experts != "grow" and all(bool((branch.frozen_by >= 0).all()) for branch in self.branches):
            raise InputError(
                f"all {self.config.experts} experts are frozen before task '{task.name}'; set experts=grow, or more."
            )
        super().begin_task(task)
        self._prepare()

    def _prepare(self) -> None:
        favored = 0
        if self.config.experts == "grow" and not (self.config.shared_router and len(self.tasks) > 1):
            favored = self.config.new_experts
            self._grow(favored)
        for branch in self.branches:
            branch.hits.zero_()
            if not (self.config.shared_router and branch.routers):
                for router in branch.routers:
                    router.requires_grad_(False)
                branch.add_router(self.config.lead, favored)

    def forward(self, batch: Batch) -> Loss:
        """CE_ε over the task's class prompts; both towers on the route of the task."""
        before = torch.stack([branch.hits for branch in self.branches])
        tokens = self.training_tokens(batch.task)
        router = self._router(self.tasks.index(batch.task))
        images = self.encode_images(batch.images, router)
        texts = self.encode_texts(tokens, router)
        scale = self.twin.logit_scale
        loss = classification_loss(images, texts, batch.labels, scale, self.config.label_smoothing)
        parts = {"ce": loss.detach()}
        if self.config.balance_weight:
            balance = torch.stack([branch.balance for branch in self.branches if branch.balance is not None]).sum()
            loss = loss + self.config.balance_weight * balance
            parts["balance"] = balance.detach()
        self._count_together(before)
        self._ask_who_rests()
        return Loss(loss, parts)

    def _count_together(self, before: Tensor) -> None:
        """Add up what the samples of all processes selected in this step, given the hits before it (blocks, E).

        An image is one process's own; prompts are the same for all, so those of the main process count.
        """
        if world() == 1:
            return
        selected = torch.stack([branch.hits for branch in self.branches]) - before
        counted = selected.clone()
        if not is_main():
            counted[len(self._branches_of("image")) :] = 0
        selected, counted = summed(torch.stack([selected, counted]))
        for branch, hits, count in zip(self.branches, before + counted, selected, strict=True):
            branch.hits.copy_(hits)
            if branch.used is not None:
                branch.used = branch.used | (count > 0)  # what an earlier part of the step selected does not rest

    def _ask_who_rests(self) -> None:
        """Begin to bring to the host which experts the forward pass selected; the device goes on meanwhile."""
        self._used = None
        selected = [branch.used for branch in self.branches if branch.used is not None]
        if selected:
            used = torch.stack(selected).to("cpu", non_blocking=True)
            arrived = torch.cuda.Event() if self.backbone.device.type == "cuda" else None
            if arrived is not None:
                arrived.record()
            self._used = (used, arrived)

    def after_backward(self) -> None:
        """Experts that this step did not select rest. The forward pass is long over: the host hardly waits."""
        if self._used is not None:
            used, arrived = self._used
            if arrived is not None:
                arrived.synchronize()
            for branch, row in zip(self.branches, used.tolist(), strict=True):
                branch.rest_unused(row)

    def phases(self, iterations: int) -> list[int]:
        """In strict mode the router is trained a tenth longer on the frozen experts alone."""
        return [iterations, math.ceil(iterations / 10)] if self.config.strict else [iterations]

    def begin_phase(self, phase: int) -> None:
        """Strict mode: freeze, and restrict the task's routers to what is frozen."""
        self._freeze()
        for branch in self.branches:
            branch.restrict()

    def end_task(self) -> None:
        """Activate-freeze, in every block of both towers."""
        if not self.config.strict:
            self._freeze()
        self._finished = len(self.tasks)

    def drop(self, index: int) -> None:
        """Remove a task's router and its classes. The experts stay as they are: later tasks build on them."""
        del self.tasks[index]
        for branch in self.branches:
            branch.drop_router(index)
        self._finished -= 1

    def _freeze(self) -> None:
        for branch in self.branches:
            branch.freeze_most_hit(self.config.freeze)

    # -- answering -------------------------------------------------------------------------------------------------

    def embed(self, pixels: Tensor, route: int) -> Tensor:
        """Normalized embeddings (B, D) with the experts of task `route`, or of the original CLIP."""
        return F.normalize(self.encode_images(pixels, self._router(route)), dim=-1)

    def embed_each(self, pixels: Tensor, routes: Tensor) -> Tensor:
        """As `embed`, with the experts of a task of its own (B,) for each image, in one forward pass."""
        return F.normalize(self.encode_images(pixels, routes), dim=-1)

    def classifier(self, task: TaskInfo, route: int) -> Tensor:
        """Class embeddings (C, D): a learned task's with its own router, any other's by the original CLIP.

        A shared router encodes the classes of every task: images and texts of one answer belong together.
        """
        learned = bool(self.tasks) if self.config.shared_router else task in self.tasks
        if route == ORIGINAL or not learned or "text" not in self.towers:
            return super().classifier(task, route)
        router = 0 if self.config.shared_router else self.tasks.index(task)
        tokens = class_tokens(self.backbone, task.class_names, task.templates)
        return encode_classes(lambda part: self.encode_texts(part, router), tokens)

    def route_key(self, route: int) -> str:
        """Unless strict, experts that are not frozen change with every task, and with them what older tasks answer."""
        if route == ORIGINAL or not self.tasks:
            return "original"
        return f"task {route}" if self.config.strict else f"task {route} after {len(self.tasks)} tasks"

    def promised(self) -> frozenset[Promise]:
        """Strict mode seals finished tasks; a shared router answers for classes that no task taught, too."""
        if self.config.shared_router:
            return frozenset()
        return self.promises | ({"finished_tasks_constant"} if self.config.strict else set())

    def trained_parameters(self) -> int:
        """This task's router, and the experts that were free when it began."""
        now = len(self.tasks) - 1
        parts: list[nn.Module] = [branch.routers[-1] for branch in self.branches]
        for branch in self.branches:
            owners = branch.frozen_by.tolist()
            parts += [expert for expert, task in zip(branch.experts, owners, strict=True) if task in (-1, now)]
        return sum(p.numel() for part in parts for p in part.parameters())

    def trained_in_total(self, per_task: list[int]) -> int:
        """Every expert and every router."""
        return sum(p.numel() for p in self.parameters()) if per_task else 0

    # -- state -----------------------------------------------------------------------------------------------------

    def sealed_state(self, index: int) -> dict[str, Tensor]:
        """Router of task `index` and the experts that it froze."""
        return {name: value for name, value in self.state_dict().items() if self._sealed_by(name) == index}

    def working_state(self) -> dict[str, Tensor]:
        """Experts that are not frozen, the router in training, counts."""
        return {name: value for name, value in self.state_dict().items() if self._sealed_by(name) is None}

    def _sealed_by(self, name: str) -> int | None:
        """The finished task that fixed a tensor of the state for good, if one did."""
        tower, block, kind, unit, *_ = [*name.split(".")[1:], "", ""]
        branch = self._branches_of(tower)[int(block)]
        if kind == "experts":
            task = int(branch.frozen_by[int(unit)])
        elif kind == "routers" and not self.config.shared_router:
            task = int(unit)
        else:
            return None
        return task if 0 <= task < self._finished else None

    def check_state(self, tasks: list[TaskInfo], sealed: list[dict[str, Tensor]], working: dict[str, Tensor]) -> None:
        """As many experts in each block as `frozen_by` is long, and a router per task.

        Raises:
            MisfitError: a tensor is missing or not what it must be.
        """
        state = {name: tensor for part in (working, *sealed) for name, tensor in part.items()}
        if len(state) < sum(map(len, (working, *sealed))):
            raise MisfitError("working", "a tensor is in two files")
        routers = min(1, len(tasks)) if self.config.shared_router else len(tasks)
        wanted: dict[str, Wanted] = {}
        for tower in self.towers:
            for block, branch in enumerate(self._branches_of(tower)):
                start = f"towers.{tower}.{block}."
                own = {name.removeprefix(start): t for name, t in state.items() if name.startswith(start)}
                wanted |= {start + name: each for name, each in branch.wanted(own, routers, len(tasks)).items()}
        require("working", state, wanted)
        for name, tensor in state.items():
            if name.endswith(".allowed") and not bool(tensor.any()):
                raise MisfitError("working", f"{shown(name)} allows no expert at all")

    def load_state(self, tasks: list[TaskInfo], sealed: list[dict[str, Tensor]], working: dict[str, Tensor]) -> None:
        """Restore experts and routers, as many as there are tensors of."""
        self.tasks = list(tasks)
        state = dict(working)
        for part in sealed:
            state |= part
        for tower in self.towers:
            for block, branch in enumerate(self._branches_of(tower)):
                start = f"towers.{tower}.{block}."
                branch.make_room({name.removeprefix(start): t for name, t in state.items() if name.startswith(start)})
        self.load_state_dict(state)
        self._finished = len(sealed)
        for branch in self.branches:
            branch.loaded()
