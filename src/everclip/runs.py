"""The run directory: what a run leaves behind, and how it goes on after being cut off at any moment.

    config.yaml          the complete configuration
    events.jsonl         what happened when (times, losses, speeds); for reading, never read back
    matrix.csv           accuracies at full precision, one line per (after task, data set, candidates)
    evaluation/          right or wrong of every test image, one file per row of the matrix
    checkpoints/         state.json and the tensors it names, each with its SHA-256
    results.json         the figures
    report.html          the same to look at

`state.json` is the one truth: it is replaced atomically after the files it names are on disk, and files it does not
name are left-overs. No file holds code: tensors are safetensors, the rest is JSON and YAML.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from everclip.errors import EverclipError, InputError
from everclip.files import sha256, write_atomic

FORMAT = 4
"""Version of the checkpoint layout; raised whenever an older EverCLIP could misread a newer run."""
READS = (3, FORMAT)
"""Versions that this one reads: 3 lacks `State.start`, which it had no method for."""

STATE = "checkpoints/state.json"


@dataclass
class State:
    """Where a run stands: the content of `state.json`.

    Attributes:
        method: name of the method, `backbone` the digest of its weights, `data` of test images, labels, class names
            and templates, `reference` of what is looked at besides: a checkpoint fits no other.
        stages_learned: stages whose learning ended (a stage is a task, or all tasks of an all-at-once method).
        rows: names of the evaluation files that are complete, in order.
        step: steps taken in the current stage, where it is under way.
        files: every file the state consists of → its SHA-256; the next six say which is what.
        sealed: per learned task the file of what it fixed for good, where there is anything.
        working: what later steps or tasks may still change, where there is anything.
        start: what `working` was before the current stage, within one that cannot go on without.
        optimizer: the optimizer's moments, within a stage.
        stages: per stage what `working` was at its end, where it is to be kept.
        selector: what the selector fitted, where it did.
        learned: per learned task, what the results will say of its training.
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
    learned: list[dict] = field(default_factory=list)
    finished: bool = False


class RunDirectory:
    """One run on disk. Use as a context manager: the lock is held inside.

    Args:
        path: the directory; made on entering if it is absent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    # -- opening ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> RunDirectory:
        """Make the directory and take the lock.

        Raises:
            InputError: the directory cannot be made.
            EverclipError: another process holds the lock.
        """
        try:
            for part in ("checkpoints", "evaluation"):
                (self.path / part).mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise InputError(
                f"run directory {self.path} cannot be made ({error.strerror}); choose another --out."
            ) from error
        try:
            # The kernel drops the lock with its owner, so a dead process never keeps anybody out.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._lock, 64, 0).decode(errors="replace").strip() or "another process"
            os.close(self._lock)
            self._lock = None
            raise EverclipError(
                f"run directory {self.path} is in use by {owner}; wait for it to end or choose another --out."
            ) from None
        for leftover in self.path.rglob("*.tmp"):  # of writes that were cut off; nobody else writes here now
            leftover.unlink()
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def exists(self) -> bool:
        """Whether a run was started here."""
        return (self.path / "config.yaml").exists()

    def refuse_foreign_files(self) -> None:
        """Keep out of a folder that holds something else.

        Raises:
            InputError: the path is a file, or a folder with files but no run.
        """
        if self.path.is_file():
            raise InputError(f"{self.path} is a file; choose another --out for the run directory.")
        ours = {"lock", "checkpoints", "evaluation"}
        if self.path.is_dir() and not self.exists():
            others = [p.name for p in self.path.iterdir() if p.name not in ours and not p.name.endswith(".tmp")]
            if others:
                raise InputError(f"{self.path} holds other files ({others[0]}, …); choose another --out.")

    # -- configuration and events ----------------------------------------------------------------------------------

    def write_config(self, config: Mapping) -> None:
        """Write `config.yaml`."""
        self.write("config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))

    def read_config(self) -> dict:
        """Read `config.yaml`.

        Raises:
            InputError: it is not readable YAML.
        """
        try:
            config = yaml.safe_load((self.path / "config.yaml").read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            config = None
        if not isinstance(config, dict):
            raise InputError(f"{self.path / 'config.yaml'} is damaged; start anew with another --out.")
        return config

    def event(self, kind: str, **fields: object) -> None:
        """Append a line to `events.jsonl`."""
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **fields})
        path = self.path / "events.jsonl"
        # A line cut off by a kill stays alone on its line.
        torn = path.exists() and path.read_bytes()[-1:] not in (b"\n", b"")
        try:
            with open(path, "a") as file:
                file.write(("\n" if torn else "") + line + "\n")
        except OSError as error:
            raise self._unwritable("events.jsonl", error) from error

    def write(self, name: str, content: bytes | str) -> None:
        """Write one of the run's files, whole or not at all.

        Raises:
            EverclipError: the disk is full or refuses.
        """
        try:
            write_atomic(self.path / name, content)
        except OSError as error:
            raise self._unwritable(name, error) from error

    def write_json(self, name: str, content: object) -> None:
        """Write one of the run's files as JSON, in a form that equal content makes equal."""
        self.write(name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def write_tensors(self, state: State, name: str, tensors: Mapping[str, Tensor]) -> str | None:
        """Store tensors under a name that `state` will refer to; returns the name, or None where there are none."""
        if not tensors:
            return None
        content = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
        self.write(name, content)
        state.files[name] = hashlib.sha256(content).hexdigest()
        return name

    def read_tensors(self, name: str | None) -> dict[str, Tensor]:
        """Load what `write_tensors` stored (its SHA-256 was checked by `load_state`).

        Raises:
            EverclipError: not a safetensors file.
        """
        if name is None:
            return {}
        try:
            return load_file(self.path / name)
        except (OSError, SafetensorError) as error:
            raise self._damaged(name) from error

    def save_state(self, state: State) -> None:
        """Make `state` the truth, then remove the files that it does not name."""
        named = {*state.sealed, *state.rows, *state.stages}
        named |= {state.working, state.start, state.optimizer, state.selector}
        state.files = {name: digest for name, digest in state.files.items() if name in named}
        body = {"format": FORMAT, **asdict(state)}
        self.write(STATE, json.dumps({"sha256": _body_digest(body), "state": body}, indent=1))
        for folder in ("checkpoints", "evaluation"):
            for path in (self.path / folder).iterdir():
                if path.name != "state.json" and f"{folder}/{path.name}" not in state.files:
                    path.unlink(missing_ok=True)

    def peek_state(self) -> State | None:
        """The last state, without a look at the files it names; None where nothing was saved yet.

        Raises:
            EverclipError: it is damaged, or of another version.
        """
        path = self.path / STATE
        if not path.exists():
            return None
        try:
            stored = json.loads(path.read_bytes())
            body, digest = stored["state"], stored["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(STATE) from error
        if digest != _body_digest(body):
            raise self._damaged(STATE)
        if body.pop("format") not in READS:
            raise EverclipError(
                f"{path} was written by another version of EverCLIP, whose checkpoints this one (format {FORMAT}) does "
                "not read; resume with the version that wrote it."
            )
        return State(**body)

    def load_state(self, method: str, backbone: str, data: str, reference: str | None = None) -> State | None:
        """The last state, with every file it names checked; None where nothing was saved yet.

        Without `reference` it may be any: what was learned does not depend on it.

        Raises:
            EverclipError: a file is damaged or missing, or the state belongs to another method, backbone, version or
                to other data.
        """
        state = self.peek_state()
        if state is None:
            return None
        path = self.path / STATE
        if state.method != method:
            raise EverclipError(f"{path} belongs to method '{state.method}', not '{method}'; choose another --out.")
        if state.backbone != backbone:
            raise EverclipError(
                f"{path} was made with other backbone weights (digest {state.backbone}, now {backbone}); resume with "
                "the same weights or choose another --out."
            )
        if state.data != data:
            raise EverclipError(
                f"{path} was made on other images, labels, class names or templates than the stream has now; restore "
                "the data or choose another --out."
            )
        if reference is not None and state.reference != reference:
            raise EverclipError(
                f"{path} was made with other reference images, reference texts or AlexNet weights than are given now; "
                "restore them or choose another --out."
            )
        for file, expected in state.files.items():
            if not (self.path / file).is_file():
                raise EverclipError(
                    f"{self.path / file} is missing; put it back from a copy or start anew with another --out."
                )
            if sha256(self.path / file) != expected:
                raise self._damaged(file)
        return state

    def _unwritable(self, name: str, error: OSError) -> EverclipError:
        return EverclipError(
            f"{self.path / name} could not be written ({error.strerror}); nothing is lost: make room, then go on with "
            "--resume."
        )

    def _damaged(self, name: str) -> EverclipError:
        return EverclipError(
            f"{self.path / name} is damaged (it differs from what was written); put it back from a copy or start anew "
            "with another --out."
        )


def _body_digest(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
