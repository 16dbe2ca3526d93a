"""Parameter retention: which weights go back to their values before the task. Pure functions on single tensors.

A reconstruction from the abstract of Liu et al., arXiv 2310.20348, one third-party re-implementation, and the
decomposed fusion of RAPF (ECCV 2024, arXiv 2407.14143).
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1e-9
"""Added to ratio · N, so that 0.8 · 5 counts 4 whatever the float says."""


def retain(old: Tensor, new: Tensor, ratio: float) -> Tensor:
    """Hard retention: a share of the entries, those that changed least, goes back; the others stay new.

    Args:
        old: values before the task, any shape.
        new: values after it, same shape.
        ratio: share of the N entries that goes back, which is int(ratio · N + 1e-9) of them. If several changed
            equally, the first of them go back.

    Returns:
        A new tensor, every entry taken from `old` or `new`.
    """
    count = int(ratio * new.numel() + ROUNDING)
    back = (new - old).abs().flatten().argsort(stable=True)[:count]
    kept = new.flatten().clone()
    kept[back] = old.flatten()[back]
    return kept.view_as(new)


def fuse(old: Tensor, new: Tensor, b: float) -> Tensor:
    """Soft retention: old and new mixed entry by entry, in the basis of the old matrix's left singular vectors.

    W_old = U S Vᵀ, P = Uᵀ W, D = |P_new − P_old|, M = min(D / max D + b, 1): W = U (P_new ⊙ M + P_old ⊙ (1 − M)). What
    changed most becomes new, what changed least keeps 1 − b of the old. U is square, so that it loses nothing.

    Args:
        old: values before the task: a matrix, or a vector (then U = 1).
        new: values after it, same shape.
        b: least share of the new value, 0 to 1.

    Returns:
        A new tensor of the same shape and type, computed in float64.
    """
    before, after = old.double(), new.double()
    if old.dim() == 1:
        return _mixed(before, after, b).to(new.dtype)
    basis: Tensor = torch.linalg.svd(before).U
    return (basis @ _mixed(basis.T @ before, basis.T @ after, b)).to(new.dtype)


def _mixed(old: Tensor, new: Tensor, b: float) -> Tensor:
    change = (new - old).abs()
    largest = change.max()
    share = change / largest if largest > 0 else change
    return torch.lerp(old, new, (share + b).clamp(max=1))
