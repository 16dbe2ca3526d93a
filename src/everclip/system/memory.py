"""How this process gets memory from the system."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of `mallopt`'s parameters in glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of giving them back and getting them zeroed again, at every training step.

    On a CPU that is a tenth to a fifth of a step's time. The process then holds on to the most it ever had, which a
    command may and a library may not decide. Other C libraries are left alone.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
        libc.mallopt(parameter, 2**31 - 1)


@contextlib.contextmanager
def collector_held() -> Iterator[None]:
    """Import inside without garbage collection, and never look at what was imported again.

    Half a million objects that stay are gone through dozens of times while torch is imported, and once more when the
    process ends: a quarter of what starting costs. A command may decide that for its process, a library may not.
    """
    held = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if held:
            gc.enable()
