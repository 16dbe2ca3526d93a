"""What a run cost: numbers trained, seconds, bytes kept.

Seconds come from `events.jsonl` and bytes from the checkpoints, because results hold nothing that differs from machine
to machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everclip.storage.events import EVENTS, read_events
from everclip.storage.run import RunDirectory


@dataclass(frozen=True)
class Cost:
    """The cost of one run, or of several that differ only by seed.

    Attributes:
        trained: how many numbers a task trains, or how many its solution consists of; the largest of all tasks.
        seconds: of every task that was learned without an interruption, including what had to be embedded for it.
        kept: bytes on disk per task at the end: what later tasks and predictions need, the selector's share included;
            the mean over seeds, None where no checkpoints are left, or where they are another run's (`everclip judge`).
    """

    trained: int
    seconds: tuple[float, ...]
    kept: float | None

    @property
    def ends(self) -> tuple[float, float] | tuple[None, None]:
        """Seconds of the quickest and of the slowest task; None where no task's are known."""
        return (min(self.seconds), max(self.seconds)) if self.seconds else (None, None)


def cost(runs: Sequence[tuple[Path, Mapping[str, Any]]]) -> Cost:
    """Read the cost of run directories, each given with its results.

    Raises:
        EverclipError: a log, a state or a checkpoint is damaged.
    """
    kept = [_kept(path) for path, _ in runs]
    known = [size for size in kept if size is not None]
    return Cost(
        trained=max(most for _, results in runs for most in (0, *results["trained_parameters"]["per_task"])),
        seconds=tuple(second for path, _ in runs for second in _seconds(path)),
        kept=None if len(known) < len(kept) else sum(known) / len(known),
    )


def _seconds(path: Path) -> list[float]:
    """Per task, stages learned at once shared out evenly; a stage that went on after a break is left out."""
    seconds: list[float] = []
    begun: set[int] = set()
    broken: set[int] = set()
    for event in read_events(path / EVENTS):
        match event:
            case {"event": "start"}:
                broken |= begun
            case {"event": "step", "stage": int(stage)}:
                begun.add(stage)
            case {
                "event": "learned",
                "stage": int(stage),
                "tasks": [_, *_] as tasks,
                "seconds": int(took) | float(took),
            }:
                if stage not in broken:
                    seconds += [took / len(tasks)] * len(tasks)
    return seconds


def _kept(path: Path) -> float | None:
    directory = RunDirectory(path)
    state = directory.peek_state()
    if state is None or len(state.sealed) < len(state.learned):
        return None
    names = {name for name in (*state.sealed, state.working, state.selector) if name is not None}
    if not all((directory.path / name).exists() for name in names):
        return None
    for name in names:  # one that was cut short would make the run look cheap
        directory.require_intact(state, name)
    return sum((directory.path / name).stat().st_size for name in names) / len(state.learned)
