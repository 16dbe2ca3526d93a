"""How this process gets memory from the system."""

from __future__ import annotations

import ctypes

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
