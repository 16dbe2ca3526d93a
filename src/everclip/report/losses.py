"""How the losses of a run went, from its `events.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everclip.storage.events import EVENTS, read_events


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


def _has_parts(event: Mapping[str, Any]) -> bool:
    """Whether the parts of a step's loss, if it has any, are numbers by name, or None."""
    parts = event.get("parts", {})
    return isinstance(parts, dict) and all(part is None or isinstance(part, int | float) for part in parts.values())


def read_losses(path: Path, stages: Sequence[Sequence[str]]) -> list[Losses]:
    """The losses of every stage that was trained by gradient.

    Of a step that was taken again after a break, the later record counts: both are the same.

    Args:
        path: the run directory.
        stages: the tasks of each stage.

    Raises:
        EverclipError: the log is damaged.
    """
    found: dict[int, dict[int, dict[str, Any]]] = {}
    for event in read_events(path / EVENTS):
        match event:
            case {"event": "step", "stage": int(stage), "step": int(step), "loss": int() | float() | None}:
                if _has_parts(event):
                    found.setdefault(stage, {})[step] = event
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
