"""The log of a run: whatever is read of it is what was written."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from everclip.errors import EverclipError
from everclip.storage.events import append_event, read_events

EVENTS = [
    {"event": "start", "name": 'grüße "x", "sha256": "0123456789abcdef"}'},
    {"event": "step", "stage": 0, "step": 10, "loss": 1.5},
    {"event": "learned", "stage": 0, "tasks": ["a"], "seconds": 2.0},
]
KNOWN = {name for event in EVENTS for name in event}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    for event in EVENTS:
        append_event(tmp_path / "events.jsonl", event)
    return tmp_path / "events.jsonl"


def plain(events: list[dict]) -> list[dict]:
    return [{name: value for name, value in event.items() if name != "sha256"} for event in events]


def test_what_is_appended_is_read(log: Path) -> None:
    assert plain(read_events(log)) == EVENTS
    assert all(json.loads(line)["sha256"] for line in log.read_text().splitlines()), "lines are JSON to everybody"
    assert read_events(log.with_name("nothing")) == []


def test_no_flipped_bit_changes_an_event(log: Path) -> None:
    """It is refused or read as it was; two lines may be missing: the first, and the last that has lost its end."""
    content = log.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(content)), 500):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        log.write_bytes(flipped)
        try:
            found = read_events(log)
        except EverclipError:
            continue
        read = [{name: value for name, value in event.items() if name in KNOWN} for event in found]
        if bit // 8 == len(content) - 1:
            assert read == EVENTS[:2]
        else:
            assert read in (EVENTS, EVENTS[1:])


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_line_that_was_cut_off_is_taken_off(log: Path, cut: int) -> None:
    log.write_bytes(log.read_bytes()[:-cut])
    whole = cut == 1
    assert plain(read_events(log)) == (EVENTS if whole else EVENTS[:2])
    append_event(log, EVENTS[0])
    assert plain(read_events(log)) == [*(EVENTS if whole else EVENTS[:2]), EVENTS[0]]


def test_a_lost_line_end_in_the_middle_is_damage(log: Path) -> None:
    lines = log.read_bytes().split(b"\n")
    log.write_bytes(b"\n".join([lines[0], lines[1][:-5], *lines[2:]]))
    with pytest.raises(EverclipError, match="line 2 of"):
        read_events(log)


def test_lines_without_digests_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    log.write_text('{"event": "start"}\n{"event": "st\n{"event": "step", "stage": 0}\n{"event": "le')
    assert read_events(log) == [{"event": "start"}, {"event": "step", "stage": 0}]
    append_event(log, {"event": "start", "resumed": True})
    assert plain(read_events(log)) == [
        {"event": "start"},
        {"event": "step", "stage": 0},
        {"event": "start", "resumed": True},
    ]
