"""How the weights of a task descend: what the recipe says of it, and the optimizer that it means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

OptimizerName = Literal["adamw", "sgd"]


@dataclass(frozen=True)
class Descent:
    """What the recipe says of a task's optimizer; `Method.optimizer` is given it.

    Attributes:
        name: `adamw` or `sgd`.
        lr: peak learning rate of the task. The schedule takes every rate from its peak: warm-up, then down.
        weight_decay: of all parameters; decoupled in AdamW, added to the gradient in SGD.
        momentum: of SGD.
    """

    name: OptimizerName
    lr: float
    weight_decay: float
    momentum: float

    def optimizer(self, parameters: Iterable[Tensor] | Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        """The recipe's optimizer.

        Args:
            parameters: what it trains: parameters, or groups of them as torch takes them, `{"params": …}`. A group may
                have an `lr` (its peak) and a `weight_decay` of its own; those of the recipe hold where it has none.
        """
        if self.name == "sgd":
            return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        return torch.optim.AdamW(parameters, lr=self.lr, betas=(0.9, 0.999), weight_decay=self.weight_decay, fused=True)
