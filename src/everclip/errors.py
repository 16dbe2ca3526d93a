"""What EverCLIP raises when the world is not as it should be.

Every message is one sentence that says what is wrong, where, and what to do. The command line prints the message
and exits with `exit_code`; a library user catches `EverclipError`.
"""

from __future__ import annotations


class EverclipError(Exception):
    """Base of every error raised on purpose: something went wrong while working (exit code 1)."""

    exit_code = 1


class InputError(EverclipError):
    """The request itself is wrong: an argument, a setting, a folder, a file (exit code 2). Nothing was changed."""

    exit_code = 2
