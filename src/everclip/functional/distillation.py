"""Keeping a trained model close to what it was: distillation, weight drift, averages and interpolation of weights.

Pure functions on logits and on weights, shared by every method that trains the whole model. Weights are tensors in one
fixed order.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Iterable[Tensor]


def distillation(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """KD(p, q) = T² · mean over rows of CE(softmax(p / T), log_softmax(q / T)) (ZSCL, arXiv 2303.06628).

    Cross-entropy and not KL divergence: its least value is the teacher's entropy, not 0; the gradients are the same.

    Args:
        teacher: logits p (N, C), a constant.
        student: logits q (N, C).
        temperature: T > 0.

    Returns:
        Scalar.
    """
    target = (teacher.detach() / temperature).softmax(dim=1)
    return temperature**2 * F.cross_entropy(student / temperature, target)


def weight_drift(weights: Weights, anchors: Weights) -> Tensor:
    """Σ ‖θ − θ_anchor‖² over all tensors: scalar, with gradient for `weights` (ZSCL's L_wc without its factor λ)."""
    # mse_loss keeps no difference for the backward pass: one more copy of the model would be kept otherwise.
    pairs = zip(weights, anchors, strict=True)
    return torch.stack([F.mse_loss(weight, anchor, reduction="sum") for weight, anchor in pairs]).sum()


def snapshot(weights: Weights) -> list[Tensor]:
    """A detached copy where the weights are, which training does not change."""
    return [weight.detach().clone() for weight in weights]


@torch.no_grad()
def assign(weights: Weights, values: Weights) -> None:
    """Set the weights to the values, in place."""
    torch._foreach_copy_(list(weights), list(values))


def interpolated(new: Weights, old: Weights, share: float) -> list[Tensor]:
    """share · θ_new + (1 − share) · θ_old, tensor by tensor (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903)."""
    return [share * a.detach() + (1 - share) * b.detach() for a, b in zip(new, old, strict=True)]


class RunningAverage:
    """The mean of the weights it starts from and of all that were added: w ← (w·n + θ) / (n + 1).

    ZSCL's weight ensemble.

    Attributes:
        tensors: the mean w so far.
        count: n, how often weights were added.
    """

    def __init__(self, start: Weights) -> None:
        self.tensors = snapshot(start)
        self.count = 0

    @torch.no_grad()
    def add(self, weights: Weights) -> None:
        """Take one more set of weights into the mean."""
        self.count += 1
        torch._foreach_lerp_(self.tensors, [weight.detach() for weight in weights], 1 / (self.count + 1))
