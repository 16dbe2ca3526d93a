"""Numbered places where a test can end the process, to prove that a resume loses nothing.

`EVERCLIP_FAULT=7` ends the process at the seventh fault point it reaches, without any clean-up, as SIGKILL or a power
cut would; `EVERCLIP_FAULT=7:disk-full` raises the error of a full disk there instead. Unset, fault points do nothing.
"""

from __future__ import annotations

import errno
import os

EXIT_CODE = 97
"""Exit status of a process that ended at a fault point."""

_reached = 0


def fault_point(name: str) -> None:
    """Mark a place where a run may be cut off; `name` says which, for the reader of the error.

    Raises:
        OSError: ENOSPC, where a full disk is simulated.
    """
    global _reached
    wanted = os.environ.get("EVERCLIP_FAULT")
    if wanted is None:
        return
    _reached += 1
    number, _, kind = wanted.partition(":")
    if _reached == int(number):
        if kind == "disk-full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        os._exit(EXIT_CODE)
