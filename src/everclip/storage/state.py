"""Where a run stands, as `checkpoints/state.json` says it, and what the files of a run are called."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FORMAT = 6
"""Version of the checkpoint layout; raised whenever an older EverCLIP could misread a newer run."""
READS = (3, 4, 5, FORMAT)
"""Versions that this one reads: 3 lacks `State.start`, which it had no method for; 4 lacks `State.training`; 5 lacks
`State.written` and `State.replaced`."""

STATE = "checkpoints/state.json"
CONFIG = "config.yaml"
MATRIX = "matrix.csv"
RESULTS = "results.json"
PAGE = "report.html"
DERIVED = (MATRIX, RESULTS, PAGE)
"""What follows from the rows that were judged, and is written anew by a resume."""


@dataclass
class State:
    """Where a run stands: the content of `state.json`.

    Attributes:
        method: name of the method. `backbone` is the digest of the model, `data` that of test images, labels, class
            names and templates, `reference` that of what is looked at besides. A checkpoint fits only a run in which
            all four are the same.
        training: for each task whose training images were read, by name, the digest of these. Data are known by what
            they are, so they may lie elsewhere when the run goes on.
        stages_learned: stages whose learning ended (a stage is a task, or all tasks of an all-at-once method).
        rows: names of the evaluation files that are complete, in order.
        step: steps taken in the current stage, where it is under way.
        files: every tensor file the state consists of → its SHA-256. The next six attributes say which file is what.
        sealed: per learned task the file of what it fixed for good, where there is anything.
        working: what later steps or tasks may still change, where there is anything.
        start: what `working` was before the current stage, for a method that needs it to continue within a stage.
        optimizer: the optimizer's moments, within a stage.
        stages: per stage what `working` was at its end, if that is kept.
        selector: what the selector fitted, where it did.
        learned: per learned task, what the results will say about its training.
        finished: the results are written.
        written: the configuration, and what follows from the rows → its SHA-256; empty where an earlier version of
            EverCLIP wrote the state.
        replaced: of those in `written` that are written right after this state: the SHA-256 of what they take the
            place of, None where there was nothing. A run that is cut off in between has that one still.
    """

    method: str
    backbone: str
    data: str
    reference: str = ""
    stages_learned: int = 0
    rows: list[str] = field(default_factory=list)
    step: int | None = None
    files: dict[str, str] = field(default_factory=dict)
    sealed: list[str | None] = field(default_factory=list)
    working: str | None = None
    start: str | None = None
    optimizer: str | None = None
    stages: list[str | None] = field(default_factory=list)
    selector: str | None = None
    learned: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False
    training: dict[str, str] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, str | None] = field(default_factory=dict)
