"""Texts that belong to no task: one per line of a text file."""

from __future__ import annotations

from pathlib import Path

from everclip.errors import InputError
from everclip.storage.reading import Malformed, read_bytes, text_of
from everclip.system.paths import expanded

LIMIT = 1 << 32
"""Bytes: the captions of the largest public collections take a third of it."""


def read_texts(path: str | Path) -> tuple[str, ...]:
    """Read the lines of a UTF-8 text file that are not blank, without the white space around them.

    Raises:
        InputError: there is no such file, it cannot be read, it is not UTF-8, or it holds no text.
    """
    file = expanded(path)
    try:
        lines = text_of(read_bytes(file, LIMIT)).splitlines()
    except OSError as error:
        raise InputError(f"the text file {file} cannot be read ({error.strerror}); check the path") from error
    except Malformed as error:
        raise InputError(f"the text file {file} {error}; save it as a text file in UTF-8") from error
    texts = tuple(line.strip() for line in lines if line.strip())
    if not texts:
        raise InputError(f"the text file {file} holds no text; write one text per line")
    return texts
