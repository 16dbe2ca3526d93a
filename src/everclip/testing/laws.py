"""What a law is: a function that looks at something finished, and raises `LawBroken` with what it saw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec

import torch
from safetensors.torch import load, save
from torch import Tensor

Given = ParamSpec("Given")


class LawBroken(AssertionError):
    """Something does not do what its contract says."""


class _NotPromised:
    """What a law returns that does not concern what it was shown."""


NOT_PROMISED = _NotPromised()


def expect(holds: object, what: str) -> None:
    """Raise `LawBroken` unless something holds. No `assert`: `python -O` would leave those out.

    Args:
        holds: true where the law is kept.
        what: what should be so, as a sentence.
    """
    if not holds:
        raise LawBroken(what)


def expect_same(one: Mapping[Any, Tensor], other: Mapping[Any, Tensor], what: str = "the two") -> None:
    """The same tensors under the same names, bit for bit."""
    expect(one.keys() == other.keys(), f"{what}: {sorted(map(str, one.keys() ^ other.keys()))} are in one of them only")
    for key, value in one.items():
        expect(torch.equal(value, other[key]), f"{what}: {key} differs")


def expect_close(one: Tensor, other: Tensor, tolerance: float, what: str) -> None:
    """Equal up to an absolute tolerance."""
    expect(one.shape == other.shape, f"{what}: shapes {tuple(one.shape)} and {tuple(other.shape)}")
    largest = float((one - other).abs().max()) if one.numel() else 0.0
    expect(largest <= tolerance, f"{what}: they differ by {largest:.2g}, more than {tolerance:g}")


def stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors through safetensors and back, as a checkpoint goes."""
    return load(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def kept_laws(
    laws: Iterable[Callable[Given, object]], whose: str, *args: Given.args, **kwargs: Given.kwargs
) -> tuple[str, ...]:
    """Apply laws in turn; returns the names of those that were kept, without those that were not promised.

    Raises:
        LawBroken: by the first law that is not kept; names it.
    """
    kept = []
    for law in laws:
        name = getattr(law, "__name__", str(law))
        try:
            if law(*args, **kwargs) is not NOT_PROMISED:
                kept.append(name)
        except LawBroken as broken:
            raise LawBroken(f"{whose} breaks the law '{name}': {broken}.") from broken
    return tuple(kept)
