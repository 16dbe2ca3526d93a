"""Texts that belong to no task: one per line of a text file."""

from __future__ import annotations

from pathlib import Path

from everclip.errors import InputError
from everclip.system.paths import expanded


def read_texts(path: str | Path) -> tuple[str, ...]:
    """Read the lines of a UTF-8 text file that are not blank, without the white space around them.

    Raises:
        InputError: there is no such file, it cannot be read, it is not UTF-8, or it holds no text.
    """
    file = expanded(path)
    try:
        lines = file.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"the text file {file} cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"the text file {file} is not UTF-8 (line {line}); save it as UTF-8") from error
    texts = tuple(line.strip() for line in lines if line.strip())
    if not texts:
        raise InputError(f"the text file {file} holds no text; write one text per line")
    return texts
