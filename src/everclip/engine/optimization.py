"""A method's optimizer at work: the rate of every step, clipping, and its state as tensors that a checkpoint holds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from everclip.engine.recipe import TrainingConfig, lr_at
from everclip.errors import EverclipError, InputError
from everclip.methods import Method
from everclip.storage.tensors import misfits

GROUP = ".group"
"""Begins the names of what a parameter group keeps: no parameter is called so, for a dot ends its module's name."""
NUMBERS: dict[type, torch.dtype] = {bool: torch.bool, int: torch.int64, float: torch.float64}
"""Python numbers that optimizers keep, and the tensors that stand for them without loss."""


class Optimization:
    """The optimizer of a stage under the recipe.

    Args:
        method: after `begin_task`.
        config: the recipe.
        peak: peak learning rate of the stage.
        total: steps of the stage.

    Raises:
        InputError: the method's optimizer is none, or trains what is no parameter of the method.
    """

    def __init__(self, method: Method, config: TrainingConfig, peak: float, total: int) -> None:
        self.method = method
        self.config = config
        self.total = total
        self.named = {name: p for name, p in method.named_parameters() if p.requires_grad}
        self.optimizer = method.optimizer(config.descent(peak))
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            kind = type(self.optimizer).__name__
            raise InputError(f"`optimizer` of method '{method.name}' returns {kind}; let it return a torch optimizer.")
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        own = {id(p) for p in self.named.values()}
        if not all(id(p) in own for p in self.parameters):
            raise InputError(
                f"the optimizer of method '{method.name}' trains a tensor that is no parameter of the method which "
                "requires a gradient; let it train those alone."
            )
        self._peaks = [float(group["lr"]) if "lr" in group else None for group in self.optimizer.param_groups]
        self._at_first = [_options(group) for group in self.optimizer.param_groups]

    def set_rates(self, step: int) -> None:
        """Give every group the rate of a step, from a peak of its own."""
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            if peak is not None:
                group["lr"] = lr_at(step, peak, self.config.warmup, self.total, self.config.schedule)

    def rates(self) -> tuple[float, ...]:
        """The present rate of every group that has one."""
        return tuple(float(group["lr"]) for group in self.optimizer.param_groups if "lr" in group)

    def step(self) -> None:
        """Shorten the gradient where it is too long, and take the step."""
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """What the optimizer keeps, as `PARAMETER/KEY` (`weight/exp_avg`), of what is still trained.

        Options of a group that the optimizer changed by itself are `.groupN/KEY`; where a Python number stands, the
        key says its type.

        Raises:
            EverclipError: it keeps something that is neither a tensor nor a number.
        """
        kept: dict[str, Any] = {}
        for name, parameter in self.named.items():
            if parameter.requires_grad:
                kept |= {f"{name}/{key}": v for key, v in self.optimizer.state.get(parameter, {}).items()}
        for number, (group, before) in enumerate(zip(self.optimizer.param_groups, self._at_first, strict=True)):
            kept |= {
                f"{GROUP}{number}/{key}": value
                for key, value in _options(group).items()
                if key not in before or not _same(value, before[key])
            }
        tensors = {}
        for place, value in kept.items():
            if isinstance(value, Tensor):
                tensors[place] = value
            elif type(value) in NUMBERS:
                tensors[f"{place}:{type(value).__name__}"] = torch.tensor(value, dtype=NUMBERS[type(value)])
            elif value is not None:  # None says as much as nothing
                raise EverclipError(
                    f"the optimizer of method '{self.method.name}' keeps a {type(value).__name__} ({place}), which no "
                    "checkpoint can hold; let it keep tensors and numbers."
                )
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave.

        Raises:
            MisfitError: a tensor of something that is not trained.
        """
        with misfits("optimizer"):
            self._load(tensors)

    def _load(self, tensors: dict[str, Tensor]) -> None:
        for full_name, tensor in tensors.items():
            place, key = full_name.rsplit("/", 1)
            key, _, number = key.partition(":")
            if place.startswith(GROUP):
                group = self.optimizer.param_groups[int(place.removeprefix(GROUP))]
                group[key] = tensor.item() if number else tensor.to(group["params"][0].device, copy=True)
                continue
            parameter = self.named[place]
            if tensor.dim() == parameter.dim() > 1 and tensor.shape != parameter.shape:
                raise ValueError(f"{full_name} has shape {tuple(tensor.shape)}, not {tuple(parameter.shape)}")
            # fused and capturable optimizers keep their step counts where the parameter is, others on the host
            device = parameter.device if key != "step" or self._counts_on_device(parameter) else torch.device("cpu")
            self.optimizer.state[parameter][key] = tensor.item() if number else tensor.to(device, copy=True)

    def _counts_on_device(self, parameter: Tensor) -> bool:
        groups = self.optimizer.param_groups
        own = next((group for group in groups if any(p is parameter for p in group["params"])), {})
        return bool(own.get("fused") or own.get("capturable"))


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """All of a group but its parameters and its rate, which the schedule sets."""
    options = {key: value for key, value in group.items() if key not in ("params", "lr")}
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in options.items()}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)
