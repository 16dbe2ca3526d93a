"""Mixture-of-experts adapters: gating, experts, and the branch they form beside a transformer block.

Source: MoE-Adapters, Yu et al., CVPR 2024 (arXiv 2403.11549), in the form of its published code. With h = x +
Attn(LN1(x)) a block returns h + MLP(LN2(h)) + MoE(h): the branch reads the un-normalized residual h.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everclip.functional.ties import first_largest
from everclip.storage.tensors import Wanted
from everclip.system.processes import gathered

NOISE_FLOOR = 0.01
"""Added to the learned noise level, so that gating noise never vanishes in training."""


def noisy_top_k(logits: Tensor, noise_std: Tensor | None, k: int, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """Keep the k largest (noisy) logits of each row and share the weight among them by softmax.

    Args:
        logits: (B, E) router logits c·W_g.
        noise_std: (B, E) noise level softplus(c·W_n) + 0.01; None without noise.
        k: experts per sample, at most E.
        noise: (B, E) standard normal draws; None without noise.

    Returns:
        gates (B, k), which sum to 1 per row, and the experts they belong to (B, k), int64.
    """
    noisy = logits if noise is None or noise_std is None else logits + noise * noise_std
    # One after the other instead of `topk`: a router that starts at zero ties all experts, and `topk` leaves open which
    # of equal ones it takes.
    left, chosen = noisy.detach(), []
    for _ in range(min(k, logits.shape[1])):
        chosen.append(first_largest(left, tolerance=0.0)[:, None])
        left = left.scatter(1, chosen[-1], float("-inf"))
    experts = torch.cat(chosen, dim=1)
    return noisy.gather(1, experts).softmax(dim=1), experts


def importance(gates: Tensor, experts: Tensor, count: int) -> Tensor:
    """Sum of the gates of each expert over the batch: (B, k), (B, k) → (count,)."""
    return gates.new_zeros(count).index_add(0, experts.flatten(), gates.flatten())


def smooth_load(logits: Tensor, noise_std: Tensor, k: int, noise: Tensor) -> Tensor:
    """Expected number of samples that select each expert, differentiable: (B, E), (B, E) → (E,).

    Shazeer et al. 2017 (arXiv 1701.06538), appendix A: the probability that a fresh draw of an expert's own noise keeps
    it in the top k, the noise of the others being as drawn. Defined for k < E.
    """
    noisy = logits + noise * noise_std
    largest = noisy.topk(k + 1, dim=1).values
    inside = noisy > largest[:, k : k + 1]
    threshold = torch.where(inside, largest[:, k : k + 1], largest[:, k - 1 : k])
    kept: Tensor = torch.special.ndtr((logits - threshold) / noise_std)
    return kept.sum(dim=0)


def squared_variation(values: Tensor) -> Tensor:
    """cv² = Var(v) / (mean(v)² + 1e-10), the imbalance of importance or load over the experts; unbiased variance."""
    return values.float().var() / (values.float().mean() ** 2 + 1e-10)


@dataclass(frozen=True)
class Routes:
    """Which router each sample of a batch takes, sorted out once for all blocks.

    Attributes:
        routed: the samples that take a router at all (R,), on the device; None if all do.
        task: the task whose router they take: one for all of these samples, or one for each (R,), on the device.
    """

    routed: Tensor | None
    task: int | Tensor

    @classmethod
    def of(cls, route: Tensor | int, device: torch.device) -> Routes | None:
        """Task ids (B,) int64, −1 = no router, or one for all samples; None where no sample takes a router.

        A graph that is exported has no ids to look at: there all samples take a router.
        """
        if isinstance(route, int):
            return cls(None, route) if route >= 0 else None
        if torch.compiler.is_exporting():
            return cls(None, route)
        route = route.cpu()
        routed = (route >= 0).nonzero().flatten()
        if len(routed) == 0:
            return None
        tasks = route[routed]
        one = int(tasks[0]) if bool((tasks == tasks[0]).all()) else None
        return cls(None if len(routed) == len(route) else routed.to(device), tasks.to(device) if one is None else one)


M = TypeVar("M", bound=nn.Module)


class ModulesOf(nn.ModuleList, Generic[M]):
    """An `nn.ModuleList` whose type says what is in it."""

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[M]: ...

        def __getitem__(self, index: int) -> M: ...  # type: ignore[override]  # nobody takes a slice of one


class Expert(nn.Module):
    """Bottleneck adapter: Linear(d → r) → ReLU → dropout → Linear(r → d), times `scale` (applied by the branch).

    The down weight starts Kaiming-uniform(a = √5), everything else at zero: a new expert adds exactly nothing.
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)  # nn.Linear's own start is Kaiming-uniform(a = √5)
        self.up = nn.Linear(bottleneck, width)
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)


class Router(nn.Module):
    """Gate and noise matrices W_g, W_n (d, E) of one task, zero at the start.

    Attributes:
        visible: the allowed experts' indices, on the host.
        allowed: (E,) bool; experts outside are never selected (strict mode seals a task on its frozen experts).
        lead: (E,) added to the logits, never trained; zero unless some experts are to be preferred from the start.
    """

    allowed: Tensor
    lead: Tensor

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(width, experts))
        self.noise = nn.Parameter(torch.zeros(width, experts))
        self.register_buffer("allowed", torch.ones(experts, dtype=torch.bool))
        self.register_buffer("lead", torch.zeros(experts))
        self.visible = list(range(experts))

    def allow(self, experts: Tensor) -> None:
        """Select among these (E,) bool only."""
        self.allowed.copy_(experts)
        self.visible = self.allowed.nonzero().flatten().tolist()

    def forward(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Router inputs (B, d) → logits (B, E) and noise levels (B, E), float32 under autocast too."""
        with torch.autocast(c.device.type, enabled=False):
            c = c.float()
            logits = (c @ self.gate + self.lead).masked_fill(~self.allowed, float("-inf"))
            return logits, F.softplus(c @ self.noise) + NOISE_FLOOR


class MoEBranch(nn.Module):
    """The experts of one block, shared by all tasks, and one router per task.

    Attributes:
        frozen_by: (E,) int64, the task that froze an expert for good, −1 for experts that still learn.
        hits: (E,) int64, samples of the current task that selected each expert in training.
    """

    frozen_by: Tensor
    hits: Tensor

    def __init__(self, width: int, bottleneck: int, top_k: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.width, self.bottleneck, self.top_k = width, bottleneck, top_k
        self.scale, self.dropout = scale, dropout
        self.experts: ModulesOf[Expert] = ModulesOf()
        self.routers: ModulesOf[Router] = ModulesOf()
        self.register_buffer("frozen_by", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("hits", torch.zeros(0, dtype=torch.int64))
        self.used: Tensor | None = None
        """Which experts this step's samples selected (E,) bool, where the host does not look while it computes."""
        self._places: dict[tuple[int, ...], Tensor] = {}
        self.balanced = False
        """Whether `balance` is computed: the imbalance of the last batch, cv²(importance) + cv²(load)."""
        self.balance: Tensor | None = None
        self.shared_out = False
        """Whether several processes each see a part of the samples (images), or all of them (prompts)."""

    def loaded(self) -> None:
        """Bring what follows from the tensors up to date with them."""
        for router in self.routers:
            router.allow(router.allowed.clone())
        self.train_what_is_free()

    def wanted(self, state: Mapping[str, Tensor], routers: int, tasks: int) -> dict[str, Wanted]:
        """What the tensors of a state of this branch must be.

        Args:
            state: says by `frozen_by` how many experts there are, and by its gates how many each router sees.
            routers: how many there must be.
            tasks: how many may have frozen an expert.
        """
        width, inner = self.width, self.bottleneck
        # No more than there are tensors of: whoever claims a million must bring them.
        experts = min(_length(state.get("frozen_by"), 0), sum(name.startswith("experts.") for name in state))
        wanted = {
            "frozen_by": Wanted(torch.int64, (experts,), low=-1, below=max(tasks, 1)),
            "hits": Wanted(torch.int64, (experts,), low=0),
        }
        for unit in range(experts):
            shapes = {"down.weight": (inner, width), "down.bias": (inner,), "up.weight": (width, inner)}
            shapes["up.bias"] = (width,)
            wanted |= {f"experts.{unit}.{name}": Wanted(torch.float32, shape) for name, shape in shapes.items()}
        for unit in range(routers):
            seen = min(experts, _length(state.get(f"routers.{unit}.gate"), 1))
            for name, shape in {"gate": (width, seen), "noise": (width, seen), "lead": (seen,)}.items():
                wanted[f"routers.{unit}.{name}"] = Wanted(torch.float32, shape)
            wanted[f"routers.{unit}.allowed"] = Wanted(torch.bool, (seen,))
        return wanted

    def make_room(self, state: Mapping[str, Tensor]) -> None:
        """Have as many experts and routers as a state of this branch; only the last router is still trained."""
        self.experts, self.routers = ModulesOf(), ModulesOf()
        self.frozen_by, self.hits = self.frozen_by[:0], self.hits[:0]
        self.add_experts(len(state["frozen_by"]))
        while (name := f"routers.{len(self.routers)}.gate") in state:
            self.routers.requires_grad_(False)
            self.routers.append(Router(self.width, state[name].shape[1]).to(self.hits.device))

    def drop_router(self, index: int) -> None:
        """Remove the router of task `index`; what that task froze stays frozen, as if by the task before it."""
        del self.routers[index]
        self.frozen_by[self.frozen_by >= max(index, 1)] -= 1

    def add_experts(self, count: int) -> None:
        """Append new experts; routers that exist stay blind to them."""
        for _ in range(count):
            self.experts.append(Expert(self.width, self.bottleneck).to(self.hits.device))
        self.frozen_by = torch.cat([self.frozen_by, self.frozen_by.new_full((count,), -1)])
        self.hits = self.hits.new_zeros(len(self.experts))

    def add_router(self, lead: float = 0.0, favored: int = 0) -> None:
        """Append the router of a new task, which sees the experts that exist now and favors the latest ones.

        Args:
            lead: added to the logits of the favored experts.
            favored: how many of the latest experts that are.
        """
        router = Router(self.width, len(self.experts)).to(self.hits.device)
        router.lead[len(self.experts) - favored :] = lead
        self.routers.append(router)

    def freeze_most_hit(self, count: int) -> Tensor:
        """Activate-freeze: freeze the `count` most-hit experts for good (ties: lowest index); returns them (count,)."""
        chosen = self.hits.sort(descending=True, stable=True).indices[:count]
        new = chosen[self.frozen_by[chosen] < 0]
        self.frozen_by[new] = len(self.routers) - 1
        self.train_what_is_free()
        return chosen

    def rest_unused(self, used: list[bool]) -> None:
        """Take the (zero) gradient from experts that no sample selected: without one, no optimizer moves them."""
        for expert, was_used in zip(self.experts, used, strict=True):
            if not was_used:
                expert.zero_grad(set_to_none=True)
        self.used = None

    def train_what_is_free(self) -> None:
        """Let gradients reach the experts that are not frozen, and no others."""
        for expert, task in zip(self.experts, self.frozen_by.tolist(), strict=True):
            expert.requires_grad_(task < 0)

    def restrict(self) -> None:
        """Strict mode: the latest router sees frozen experts only from now on."""
        router = self.routers[-1]
        router.allow(self.frozen_by[: len(router.allowed)] >= 0)

    def gates(self, c: Tensor, routes: Routes) -> tuple[Tensor, Tensor]:
        """Gates (R, k) and experts (R, k) of the routed samples' router inputs (R, d)."""
        if isinstance(routes.task, Tensor):
            return noisy_top_k(self._logits_of_each(c, routes.task), None, self.top_k, None)
        logits, level = self.routers[routes.task](c)
        noise = draw_noise(logits) if self.training else None
        gates, experts = noisy_top_k(logits, level, self.top_k, noise)
        if noise is not None:
            self._count(experts)
            if self.balanced:
                self._weigh(logits, level, noise, gates, experts)
        return gates, experts

    def _logits_of_each(self, c: Tensor, tasks: Tensor) -> Tensor:
        """Logits (R, E) of samples with a router each; what a router does not see has −∞.

        All routers are computed for all samples: they are small, and then nobody has to look which sample takes which.
        """
        assert not self.training, "a training step is one task's"
        count = len(self.experts)
        every = [F.pad(router(c)[0], (0, count - router.gate.shape[1]), value=float("-inf")) for router in self.routers]
        return torch.stack(every)[tasks, torch.arange(c.shape[0], device=c.device)]

    def _count(self, experts: Tensor) -> None:
        chosen = experts.flatten()
        self.hits.index_add_(0, chosen, torch.ones_like(chosen))

    def _weigh(self, logits: Tensor, level: Tensor, noise: Tensor, gates: Tensor, experts: Tensor) -> None:
        """Imbalance of this batch over the experts that the current router may select."""
        seen = torch.tensor(self.routers[-1].visible, device=logits.device)
        weight = self._of_all(importance(gates, experts, logits.shape[1])[seen])
        if self.top_k < len(seen):
            load = smooth_load(logits[:, seen], level[:, seen], self.top_k, noise[:, seen])
        else:
            load = torch.bincount(experts.flatten(), minlength=logits.shape[1])[seen]
        self.balance = squared_variation(weight) + squared_variation(self._of_all(load))

    def _of_all(self, sums: Tensor) -> Tensor:
        """Sums over the samples of all processes, from those over the samples of this one (E,)."""
        return gathered(sums[None]).sum(dim=0) if self.shared_out else sums

    def candidates(self, experts: Tensor, routes: Routes) -> tuple[list[int], Tensor]:
        """The experts that take part, and where among them the selected ones (R, k) stand.

        On a CPU these are the selected ones, since looking costs nothing there. On a device a look would stall every
        block, so all experts that the routers may select take part; `rest_unused` settles the difference.
        """
        if looking_is_free(experts):
            active, place = experts.unique(return_inverse=True)
            return active.tolist(), place
        asked = [self.routers[routes.task]] if isinstance(routes.task, int) else self.routers
        visible = sorted({expert for router in asked for expert in router.visible})
        if self.training:
            self.used = torch.zeros_like(self.hits, dtype=torch.bool) if self.used is None else self.used
            self.used.index_fill_(0, experts.flatten(), True)
        key = (len(self.experts), *visible)
        if key not in self._places:
            place = torch.zeros(len(self.experts), dtype=torch.int64)
            place[visible] = torch.arange(len(visible))
            self._places = {key: place.to(experts.device)}
        return visible, self._places[key][experts]

    def forward(self, h: Tensor, c: Tensor, routes: Routes) -> Tensor:
        """Sum of gated experts on all tokens: routed samples h (R, T, d), their router inputs (R, d) → (R, T, d).

        The two experts of a sample are computed as one bottleneck of twice the width. This is possible because gates
        are positive and can move in front of the up-projection.
        """
        gates, experts = self.gates(c, routes)
        active, place = self.candidates(experts, routes)
        chosen = [self.experts[index] for index in active]
        down = torch.stack([e.down.weight for e in chosen])
        down_bias = torch.stack([e.down.bias for e in chosen])
        up = torch.stack([e.up.weight for e in chosen])
        up_bias = torch.stack([e.up.bias for e in chosen])
        batch, slots = gates.shape
        gates = gates.to(h.dtype)
        if len(chosen) == slots:
            # Every sample has the same experts: one weight for all of them, no copy per sample.
            weight = gates.new_zeros(batch, slots).scatter_add(1, place, gates)
            down, up = down.flatten(0, 1), up.transpose(0, 1).flatten(1)
            hidden = F.relu(F.linear(h, down, down_bias.flatten()))
            hidden = hidden * weight.repeat_interleave(self.bottleneck, dim=1)[:, None]
            hidden = F.dropout(hidden, self.dropout, self.training)
            out = F.linear(hidden, up) + (weight @ up_bias)[:, None]
        else:
            wide = slots * self.bottleneck
            hidden = torch.baddbmm(
                down_bias[place].view(batch, 1, wide), h, down[place].view(batch, wide, self.width).transpose(1, 2)
            )
            hidden = F.relu(hidden) * gates.repeat_interleave(self.bottleneck, dim=1)[:, None]
            hidden = F.dropout(hidden, self.dropout, self.training)
            rows = up.transpose(1, 2)[place].reshape(batch, wide, self.width)
            out = torch.baddbmm((gates[:, None] @ up_bias[place]), hidden, rows)
        return self.scale * out


def _length(tensor: Tensor | None, dimension: int) -> int:
    return tensor.shape[dimension] if tensor is not None and tensor.dim() > dimension else 0


def looking_is_free(tensor: Tensor) -> bool:
    """Whether the host can read a tensor without waiting for a device. A graph that is exported has none to read."""
    return tensor.device.type == "cpu" and not torch.compiler.is_exporting()


def draw_noise(logits: Tensor) -> Tensor:
    """Standard normal draws (B, E) for gating in training."""
    return torch.randn_like(logits)
