"""The log of a run, `events.jsonl`: a line of JSON per event, each with a digest of itself.

A process that is killed leaves at most one line without its end, the last; it is taken off when the log goes on. Any
other line that is not as it was written is damage. Lines of EverCLIP 0.1 have no digest; they stand before the first
that has one, and may have been cut off anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everclip.errors import EverclipError
from everclip.storage.reading import Malformed, json_of, size_of

EVENTS = "events.jsonl"
_SEALED = re.compile(rb'(\{.*), "sha256": "([0-9a-f]{16})"\}')
"""A line and its digest: the first 64 bits of the SHA-256 of what the line would be without it."""


def append_event(path: Path, event: Mapping[str, Any]) -> None:
    """Add a line to a log, which is made if it is absent.

    Raises:
        OSError: the disk is full or refuses.
    """
    content = json.dumps(event).encode()
    line = content[:-1] + f', "sha256": "{_digest(content)}"}}\n'.encode()
    with open(path, "ab+") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
        if end and file.read(1) != b"\n":  # whoever wrote it was cut off
            kept = path.read_bytes()
            start = kept.rfind(b"\n") + 1
            if _is_intact(kept[start:]):
                line = b"\n" + line
            else:
                file.truncate(start)
        file.write(line)


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a log, in order; none where there is no such file.

    Raises:
        EverclipError: a line is damaged.
    """
    try:
        size_of(path)
        *lines, last = path.read_bytes().split(b"\n")
    except (OSError, Malformed):
        return []
    events: list[dict[str, Any]] = []
    sealed = False
    for number, line in enumerate((*lines, last), 1):
        if _is_intact(line):
            sealed = True
        elif _SEALED.match(line) or (sealed and number <= len(lines)):
            raise EverclipError(
                f"line {number} of {path} is damaged (it differs from what was written); put it back from a copy, or "
                "remove it: then only the run's times and the course of its losses are unknown."
            )
        try:
            event = json_of(line)
        except Malformed:  # cut off by a kill, or of no EverCLIP
            continue
        if isinstance(event, dict) and "event" in event:
            events.append(event)
    return events


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _is_intact(line: bytes) -> bool:
    """Whether a line has the digest of what it says."""
    found = _SEALED.fullmatch(line)
    return found is not None and _digest(found[1] + b"}") == found[2].decode()
