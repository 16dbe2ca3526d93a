"""Tensors from files: a safetensors file is read once its header was looked at, and held against what is wanted of it.

The header says how long the file must be, so of a file that claims too much nothing more is read. What a method or a
selector wants of its tensors is a mapping from names to `Wanted`; `require` compares.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor

from everclip.errors import EverclipError
from everclip.storage.reading import Malformed, Schema, fitting, json_of, shown, size_of

HEADER_LIMIT = 1 << 26
"""Bytes of a header: what half a million tensors take."""
LARGEST = 1e18
"""Of a floating-point number: larger ones overflow when float32 squares them, and nothing that learns comes near."""

ITEM_BYTES = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8},
    **{"F16": 2, "BF16": 2, "F32": 4, "F64": 8},
}
"""Of the types that EverCLIP writes; safetensors has more, and torch knows not all of them."""


class _Entry(Schema):
    dtype: str
    shape: list[int]
    data_offsets: list[int]


class MisfitError(EverclipError):
    """Tensors are not what they are wanted to be.

    Attributes:
        part: the position of the finished task that they belong to, or `working`, `selector` or `optimizer`.
        reason: what is wrong, naming the tensor.
    """

    def __init__(self, part: int | str, reason: str) -> None:
        of = f"finished task {part + 1}" if isinstance(part, int) else f"the {part} state"
        super().__init__(f"the tensors of {of} are not what is needed ({reason}); put them back from a copy.")
        self.part = part
        self.reason = reason


FOREIGN = (LookupError, RuntimeError, ValueError, TypeError, AttributeError, ArithmeticError)
"""What Python and torch raise on tensors that are not what the code was written for."""


@contextlib.contextmanager
def misfits(part: int | str) -> Iterator[None]:
    """What code raises inside, on tensors that are not what it was written for, is a `MisfitError`.

    For what no check before has seen: a matrix without an inverse, or a plug-in that checks nothing.
    """
    try:
        yield
    except FOREIGN as error:
        reason = " ".join(str(error).split())[:200]
        raise MisfitError(part, f"{type(error).__name__}: {reason}") from error


# -- files -------------------------------------------------------------------------------------------------------------


def check_tensors(path: Path) -> None:
    """Look at the header of a safetensors file, and at nothing else of it.

    Raises:
        Malformed: it is none, or has another length than its header says.
        OSError: there is no such file, or it may not be read.
    """
    size = size_of(path)
    with path.open("rb") as file:
        _check_header(file, size)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped into memory.

    Raises:
        Malformed, OSError: as for `check_tensors`.
    """
    check_tensors(path)
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise Malformed(f"is not a safetensors file ({error})") from error


def read_tensor_bytes(path: Path) -> bytes:
    """The bytes of a file of tensors, not read where its header says that it is none.

    Raises:
        Malformed, OSError: as for `check_tensors`.
    """
    check_tensors(path)
    return path.read_bytes()


def tensors_of(content: bytes) -> dict[str, Tensor]:
    """The tensors in what `read_tensor_bytes` gave.

    Raises:
        Malformed: they are none.
    """
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise Malformed(f"is not a safetensors file ({error})") from error


def _check_header(file: BinaryIO, size: int) -> None:
    """Hold the length of a file against its header; the order of the data is left to the library."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(HEADER_LIMIT, size - 8):
        raise Malformed("is not a safetensors file (it has no header)")
    header = json_of(file.read(length))
    if not isinstance(header, dict):
        raise Malformed("is not a safetensors file (its header is no object)")
    header.pop("__metadata__", None)
    end = 0
    for name, value in header.items():
        try:
            entry = fitting(_Entry, value)
        except Malformed as error:
            raise Malformed(f"describes tensor {shown(name)} wrongly ({error})") from error
        if entry.dtype not in ITEM_BYTES:
            raise Malformed(f"gives tensor {shown(name)} the type {shown(entry.dtype)}, which EverCLIP does not read")
        if len(entry.data_offsets) != 2 or len(entry.shape) > 16 or min(entry.shape, default=0) < 0:
            raise Malformed(f"describes tensor {shown(name)} wrongly (its shape or its place)")
        start, stop = entry.data_offsets
        if start < 0 or stop - start != ITEM_BYTES[entry.dtype] * math.prod(entry.shape):
            raise Malformed(f"gives tensor {shown(name)} a place of another size than its shape")
        end = max(end, stop)
    if size != 8 + length + end:
        raise Malformed(f"has {size:,} bytes, but its header speaks of {8 + length + end:,}")


# -- what is wanted ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """What a tensor must be. All floating-point numbers must be finite and no larger than `LARGEST` besides.

    Attributes:
        dtype: its type.
        shape: its sizes; a name stands for a size that is not known, the same wherever the name stands.
        low: its numbers are this or more.
        below: its numbers are less than this.
        optional: it may be missing.
    """

    dtype: torch.dtype
    shape: tuple[int | str, ...]
    low: float | None = None
    below: float | None = None
    optional: bool = False


def like(tensors: Mapping[str, Tensor]) -> dict[str, Wanted]:
    """What tensors must be that take the place of these."""
    return {name: Wanted(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def require(
    part: int | str,
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Wanted],
    sizes: dict[str, int] | None = None,
) -> dict[str, int]:
    """Hold tensors against what is wanted: exactly these names, and each as it should be.

    Args:
        part: they belong to; see `MisfitError`.
        tensors: by name.
        wanted: by name.
        sizes: what names in shapes stand for, as far as it is known.

    Returns:
        What they stand for now.

    Raises:
        MisfitError: something differs.
    """
    sizes = dict(sizes or {})
    missing = [name for name, each in wanted.items() if name not in tensors and not each.optional]
    if missing:
        raise MisfitError(part, f"tensor {shown(missing[0])} is missing")
    unknown = [name for name in tensors if name not in wanted]
    if unknown:
        raise MisfitError(part, f"there is no place for tensor {shown(unknown[0])}")
    for name, tensor in tensors.items():
        _require_one(part, name, tensor, wanted[name], sizes)
    return sizes


def _require_one(part: int | str, name: str, tensor: Tensor, wanted: Wanted, sizes: dict[str, int]) -> None:
    if tensor.dtype != wanted.dtype:
        raise MisfitError(part, f"tensor {shown(name)} is {_short(tensor.dtype)}, not {_short(wanted.dtype)}")
    known = dict(sizes)
    fits = len(wanted.shape) == tensor.dim() and all(
        found == (known.setdefault(size, found) if isinstance(size, str) else size)
        for size, found in zip(wanted.shape, tensor.shape, strict=True)
    )
    if not fits:
        shape = [sizes.get(size, size) if isinstance(size, str) else size for size in wanted.shape]
        raise MisfitError(part, f"tensor {shown(name)} has shape {_sizes(tensor.shape)}, not {_sizes(shape)}")
    sizes |= known
    require_finite(part, {name: tensor})
    if not tensor.numel():
        return
    if wanted.low is not None and float(tensor.min()) < wanted.low:
        raise MisfitError(part, f"tensor {shown(name)} has a number below {wanted.low:g}")
    if wanted.below is not None and float(tensor.max()) >= wanted.below:
        raise MisfitError(part, f"tensor {shown(name)} has a number that is not below {wanted.below:g}")


def require_finite(part: int | str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse floating-point numbers that are NaN, infinite, or larger than `LARGEST`.

    Raises:
        MisfitError: there is one.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            low, high = (float(end) for end in tensor.aminmax())  # NaN where there is one
            if not (low >= -LARGEST and high <= LARGEST):
                raise MisfitError(part, f"tensor {shown(name)} has a number that is not finite, or far too large")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _sizes(shape: Sequence[int | str]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"
