"""The run directory: what a run leaves behind, and how a run that was killed at any moment continues.

    config.yaml          the complete configuration
    events.jsonl         what happened when (times, losses, speeds); nothing that is learned depends on it;
                         steps taken again after a break are in it again
    matrix.csv           accuracies at full precision, one line per (after task, data set, candidates)
    evaluation/          right or wrong of every test image, one file per row of the matrix
    checkpoints/         state.json and the tensors it names, each with its SHA-256
    results.json         the figures
    report.html          the same to look at

`state.json` is the one truth: it is replaced atomically after the files it names are on disk. Files that it does not
name are leftovers. No file holds code: tensors are safetensors, the rest is JSON and YAML.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import yaml
from torch import Tensor

from everclip.errors import EverclipError, InputError
from everclip.registry import refuse_places
from everclip.storage.directory import Directory, tensor_bytes
from everclip.storage.files import sha256
from everclip.storage.identity import Identity
from everclip.system.processes import is_main

FORMAT = 5
"""Version of the checkpoint layout; raised whenever an older EverCLIP could misread a newer run."""
READS = (3, 4, FORMAT)
"""Versions that this one reads: 3 lacks `State.start`, which it had no method for; 4 lacks `State.training`."""

STATE = "checkpoints/state.json"


class OtherContent(EverclipError):
    """A run was made with something else than what is given now.

    Attributes:
        what: the field of `State` that differs: `backbone`, `data`, `training` or `reference`.
    """

    def __init__(self, what: str, sentence: str) -> None:
        super().__init__(sentence)
        self.what = what


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
        files: every file the state consists of → its SHA-256. The next six attributes say which file is what.
        sealed: per learned task the file of what it fixed for good, where there is anything.
        working: what later steps or tasks may still change, where there is anything.
        start: what `working` was before the current stage, for a method that needs it to continue within a stage.
        optimizer: the optimizer's moments, within a stage.
        stages: per stage what `working` was at its end, if that is kept.
        selector: what the selector fitted, where it did.
        learned: per learned task, what the results will say about its training.
        finished: the results are written.
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


class RunDirectory(Directory):
    """One run on disk. Use as a context manager: the lock is held inside."""

    kind = "run directory"
    elsewhere = "choose another --out"
    anew = "start anew with another --out"
    again = "go on with --resume"
    state = STATE
    folders = ("checkpoints", "evaluation")

    def exists(self) -> bool:
        """Whether a run was started here."""
        return (self.path / "config.yaml").exists()

    # -- configuration and events ----------------------------------------------------------------------------------

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write `config.yaml`."""
        self.write("config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))

    def read_config(self) -> dict[str, Any]:
        """Read `config.yaml`.

        Raises:
            InputError: it is not readable YAML, or names code.
        """
        try:
            config = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        except PermissionError as error:
            raise self.unreadable("config.yaml", error) from error
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            config = None
        if not isinstance(config, dict):
            raise InputError(f"{self.path / 'config.yaml'} is damaged; start anew with another --out.")
        refuse_places(config, str(self.path / "config.yaml"))
        return config

    def event(self, kind: str, **fields: object) -> None:
        """Append a line to `events.jsonl`; of several processes the main one does."""
        if not is_main():
            return
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **fields})
        path = self.path / "events.jsonl"
        # A line cut off by a kill stays alone on its line.
        torn = path.exists() and path.read_bytes()[-1:] not in (b"\n", b"")
        try:
            with open(path, "a", encoding="utf-8", newline="\n") as file:
                file.write(("\n" if torn else "") + line + "\n")
        except OSError as error:
            raise self.unwritable("events.jsonl", error) from error

    def write_json(self, name: str, content: object) -> None:
        """Write a file as JSON, in a form that equal content makes equal."""
        self.write(name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def write_tensors(self, state: State, name: str, tensors: Mapping[str, Tensor]) -> str | None:
        """Store tensors under a name that `state` will refer to; returns the name, or None where there are none."""
        if not tensors:
            return None
        if is_main():  # the bytes of a whole model, and their hash, take time
            content = tensor_bytes(tensors)
            self.write(name, content)
            state.files[name] = hashlib.sha256(content).hexdigest()
        return name

    def read_tensors(self, name: str | None) -> dict[str, Tensor]:
        """Load what `write_tensors` stored (its SHA-256 was checked by `load_state`).

        Raises:
            EverclipError: not a safetensors file.
        """
        return {} if name is None else super().read_tensors(name)

    def save_state(self, state: State) -> None:
        """Make `state` the truth, then remove the files that it does not name; the main process does."""
        if not is_main():
            return
        named = {*state.sealed, *state.rows, *state.stages}
        named |= {state.working, state.start, state.optimizer, state.selector}
        state.files = {name: digest for name, digest in state.files.items() if name in named}
        self.write_state({"format": FORMAT, **asdict(state)})
        for folder in ("checkpoints", "evaluation"):
            for path in (self.path / folder).iterdir():
                if path.name != "state.json" and f"{folder}/{path.name}" not in state.files:
                    self.remove(path)

    def peek_state(self) -> State | None:
        """The last state, without a look at the files it names; None where nothing was saved yet.

        Raises:
            EverclipError: it is damaged, or of another version.
        """
        path = self.path / STATE
        if not path.exists():
            return None
        body = self.read_state()
        if body.pop("format") not in READS:
            raise EverclipError(
                f"{path} was written by another version of EverCLIP, whose checkpoints this one (format {FORMAT}) does "
                "not read; resume with the version that wrote it."
            )
        return State(**body)

    def load_state(
        self, method: str, backbone: Identity, data: Identity, reference: Identity | None = None
    ) -> State | None:
        """The last state, with every file it names checked; None where nothing was saved yet.

        Without `reference` it may be any: what was learned does not depend on it. Digests that an earlier version of
        EverCLIP wrote are accepted and replaced in what is returned, so that today's are in the file as soon as the
        state is saved again; nothing is written here.

        Raises:
            OtherContent: the state belongs to another backbone or to other data.
            EverclipError: a file is damaged or missing, or the state belongs to another method or version.
        """
        state = self.peek_state()
        if state is None:
            return None
        path = self.path / STATE
        if state.method != method:
            raise EverclipError(f"{path} belongs to method '{state.method}', not '{method}'; choose another --out.")
        if not backbone.is_called(state.backbone):
            raise OtherContent(
                "backbone",
                f"{path} was made with other backbone weights (digest {state.backbone}, now {backbone.digest}); resume "
                "with the same weights or choose another --out.",
            )
        if not data.is_called(state.data):
            raise OtherContent(
                "data",
                f"{path} was made on other images, labels, class names or templates than the stream has now; restore "
                "the data or choose another --out.",
            )
        if reference is not None and not reference.is_called(state.reference):
            raise OtherContent(
                "reference",
                f"{path} was made with other reference images, reference texts or AlexNet weights than are given now; "
                "restore them or choose another --out.",
            )
        for file, expected in state.files.items():
            if not (self.path / file).is_file():
                raise self.missing(file)
            if sha256(self.path / file) != expected:
                raise self.damaged(file)
        state.backbone, state.data = backbone.digest, data.digest
        if reference is not None:
            state.reference = reference.digest
        return state
