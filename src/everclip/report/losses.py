"""How the losses of a run went, from its `events.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Losses:
    """The losses of one stage, at the steps that were recorded.

    Attributes:
        tasks: what was learned in the stage.
        steps: how many steps had been taken.
        total: the loss of the last of these; None where it was not finite.
        parts: name → the same of each named part; None where a step had no such part.
    """

    tasks: tuple[str, ...]
    steps: tuple[int, ...]
    total: tuple[float | None, ...]
    parts: Mapping[str, tuple[float | None, ...]]


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a run directory, without lines that were cut off; none where there is no such file."""
    try:
        lines = (path / "events.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # cut off by a kill
            continue
        if isinstance(event, dict) and "event" in event:
            events.append(event)
    return events


def read_losses(path: Path, stages: Sequence[Sequence[str]]) -> list[Losses]:
    """The losses of every stage that was trained by gradient.

    Of a step that was taken again after a break, the later record counts: both are the same.

    Args:
        path: the run directory.
        stages: the tasks of each stage.
    """
    found: dict[int, dict[int, dict[str, Any]]] = {}
    for event in read_events(path):
        if event["event"] == "step":
            found.setdefault(event["stage"], {})[event["step"]] = event
    losses = []
    for stage, tasks in enumerate(stages):
        steps = sorted(found.get(stage, {}))
        if not steps:
            continue
        events = [found[stage][step] for step in steps]
        names = dict.fromkeys(name for event in events for name in event.get("parts", {}))
        parts = {name: tuple(event.get("parts", {}).get(name) for event in events) for name in names}
        losses.append(Losses(tuple(tasks), tuple(steps), tuple(event["loss"] for event in events), parts))
    return losses
