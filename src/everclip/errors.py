"""What EverCLIP raises when the world is not as it should be.

Every message is one sentence that says what is wrong, where, and what to do. The command line prints the message
and exits with `exit_code`; a library user catches `EverclipError`.
"""

from __future__ import annotations


class EverclipError(Exception):
    """Base of every error raised on purpose: something went wrong while working (exit code 1)."""

    exit_code = 1

    def __str__(self) -> str:
        """The sentence, in one line: what a file or a name puts into it moves no cursor and breaks no line."""
        sentence = super().__str__()
        if sentence.isprintable():
            return sentence
        return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in sentence)


class InputError(EverclipError):
    """The request itself is wrong: an argument, a setting, a folder, a file (exit code 2). Nothing was changed."""

    exit_code = 2
