"""Several processes, started by `torchrun`, that do the work of one. With a single process, all of this does nothing.

All processes run the same program on the same settings. They share out the images of every step and of every
extraction, add up their gradients, and hold the same weights at all times. The main process alone writes and speaks.
Every function that exchanges something must be called by all processes, in the same order.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from everclip.errors import EverclipError, InputError

TIMEOUT = timedelta(hours=2)
"""How long a process waits for the others, of which the main one may decode images for long. A dead one is noticed at
once."""

Result = TypeVar("Result")


def join(device: str) -> None:
    """Find the other processes that `torchrun` has started. Without it, or when called again, this does nothing.

    Args:
        device: as in the configuration; unless it is the CPU, each process of a machine takes a GPU of its own.

    Raises:
        InputError: more processes than GPUs.
        EverclipError: the others cannot be reached.
    """
    if not dist.is_torchelastic_launched() or dist.is_initialized():
        return
    backend = "gloo"
    if device != "cpu" and torch.cuda.is_available():
        place, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= there:
            raise InputError(
                f"process {place} of this machine finds no GPU left (there are {there}); start at most {there} with "
                "--nproc-per-node, or give --device cpu."
            )
        torch.cuda.set_device(place)
        backend = "cpu:gloo,cuda:nccl"  # what the host decides is exchanged without waiting for the device
    with _together():
        dist.init_process_group(backend, timeout=TIMEOUT)
    atexit.register(dist.destroy_process_group)


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0


@contextmanager
def _together() -> Iterator[None]:
    """An exchange; torch says only on some lines of C++ that another process is gone."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0][:200]
        raise EverclipError(
            f"another process of this run has ended or does not answer ({reason}); its own message says why: put that "
            "right, then give the command again with --resume."
        ) from error


# -- taking turns ------------------------------------------------------------------------------------------------------


def barrier() -> None:
    """Wait for all processes.

    Raises:
        EverclipError: one of them is gone.
    """
    summed(torch.zeros(1))


@contextmanager
def main_first() -> Iterator[None]:
    """A block that the main process runs before the others, so that they find on disk what it downloads."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def by_main(function: Callable[[], Result]) -> Result:
    """What a function returns in the main process, for all processes; the others wait and do not call it.

    Args:
        function: exchanges nothing itself; what it returns can be pickled.

    Raises:
        EverclipError: the main process is gone.
    """
    if world() == 1:
        return function()
    box: list[Any] = [function() if is_main() else None]
    with _together():
        dist.broadcast_object_list(box)
    said: Result = box[0]
    return said


# -- sharing out and putting together ----------------------------------------------------------------------------------


def share(count: int) -> slice:
    """This process's part of `count` rows; all parts are consecutive and differ by one row at most."""
    size, more = divmod(count, world())
    start = rank() * size + min(rank(), more)
    return slice(start, start + size + (rank() < more))


def summed(tensor: Tensor) -> Tensor:
    """The sum of the processes' tensors, which are of one shape; not differentiable.

    Raises:
        EverclipError: a process is gone.
    """
    if world() == 1:
        return tensor
    total = tensor.clone(memory_format=torch.contiguous_format)
    with _together():
        dist.all_reduce(total)
    return total


def gathered(rows: Tensor) -> Tensor:
    """The rows (n, …) of all processes, one process after the other: (N, …), differentiable.

    What each process computes from them is its own loss; the gradient that reaches its rows is that of the sum of all
    losses.

    Raises:
        EverclipError: a process is gone.
    """
    return rows if world() == 1 else _Gathered.apply(rows)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        own = torch.zeros(world(), dtype=torch.int64)
        own[rank()] = len(rows)
        counts = summed(own).tolist()
        start = sum(counts[: rank()])
        ctx.own = slice(start, start + len(rows))
        padded = rows.new_zeros(max(counts), *rows.shape[1:])  # all send as many rows
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        with _together():
            dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return summed(gradient)[ctx.own]


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Give every parameter the sum of its gradients in all processes; if none has one, it stays without.

    Args:
        parameters: the same ones in the same order everywhere.

    Raises:
        EverclipError: a process is gone.
    """
    if world() == 1:
        return
    parameters = list(parameters)
    present = summed(torch.tensor([p.grad is not None for p in parameters], dtype=torch.int64)).tolist()
    moved = [p for p, count in zip(parameters, present, strict=True) if count]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in moved]
    total = summed(torch.cat([gradient.flatten() for gradient in gradients]))
    for parameter, part in zip(moved, total.split([p.numel() for p in moved]), strict=True):
        parameter.grad = part.view_as(parameter)
