"""The run directory: what a run leaves behind, and how a run that was killed at any moment continues.

    config.yaml          the complete configuration
    events.jsonl         what happened when (times, losses, speeds); nothing that is learned depends on it;
                         steps taken again after a break are in it again
    matrix.csv           accuracies at full precision, one line per (after task, data set, candidates)
    evaluation/          right or wrong of every test image, one file per row of the matrix
    checkpoints/         state.json and the tensors it names, each with its SHA-256
    results.json         the figures
    report.html          the same to look at

`state.json` is the one truth. It names every other file with its SHA-256, but for the log, whose lines have digests of
their own. It is replaced atomically: after the tensor files it names are on disk, and before the other files it names
are written, which a resume can write anew. Tensor files that it does not name are leftovers. No file holds code:
tensors are safetensors, the rest is JSON and YAML.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import yaml
from torch import Tensor

from everclip.errors import EverclipError, InputError
from everclip.registry import refuse_places
from everclip.storage.directory import Checked, Directory, tensor_bytes
from everclip.storage.events import EVENTS, append_event, read_events
from everclip.storage.files import as_bytes, sha256
from everclip.storage.identity import Identity
from everclip.storage.reading import TEXT_LIMIT, Malformed, fitting, read_bytes, settings_of, yaml_of
from everclip.storage.state import CONFIG, DERIVED, FORMAT, READS, RESULTS, STATE, State
from everclip.storage.stated import check_learned, check_names
from everclip.system.processes import is_main


class OtherContent(EverclipError):
    """A run was made with something else than what is given now.

    Attributes:
        what: the field of `State` that differs: `backbone`, `data`, `training` or `reference`.
    """

    def __init__(self, what: str, sentence: str) -> None:
        super().__init__(sentence)
        self.what = what


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
        return (self.path / CONFIG).exists()

    # -- configuration and events ----------------------------------------------------------------------------------

    def begin(self, state: State, config: Mapping[str, Any]) -> None:
        """Write `config.yaml` and the first state; a run that has tensors and no state has lost it."""
        content = config_text(config)
        if (self.path / STATE).exists():  # of one that was cut off before it learned anything
            self.save_state(state, {CONFIG: content})
            return
        self.write(CONFIG, content)
        state.written = {CONFIG: _digest(content)}
        self.save_state(state)

    def read_config(self) -> dict[str, Any]:
        """Read `config.yaml`.

        Raises:
            InputError: it is not readable YAML, or names code.
            EverclipError: it is not the one that the run's state names.
        """
        try:
            content = read_bytes(self.path / CONFIG, TEXT_LIMIT)
            self.require_as_written(CONFIG, content)
            config = settings_of(yaml_of(content))
        except PermissionError as error:
            raise self.unreadable(CONFIG, error) from error
        except (OSError, Malformed) as error:
            why = f"it {error}" if isinstance(error, Malformed) else error.strerror
            raise InputError(f"{self.path / CONFIG} is damaged ({why}); start anew with another --out.") from error
        refuse_places(config, str(self.path / CONFIG))
        return config

    def event(self, kind: str, **fields: object) -> None:
        """Append a line to `events.jsonl`; of several processes the main one does."""
        if not is_main():
            return
        try:
            append_event(self.path / EVENTS, {"time": round(time.time(), 3), "event": kind, **fields})
        except OSError as error:
            raise self.unwritable(EVENTS, error) from error

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

    def save_state(self, state: State, texts: Mapping[str, str] = MappingProxyType({})) -> None:
        """Make `state` the truth, then remove the files that it does not name; the main process does.

        Args:
            state: `written` and `replaced` are brought up to date.
            texts: name → content of files to be written right after: the state names what it will be of them, and what
                is there now, so that a run that is cut off in between is known for that.
        """
        if not is_main():
            return
        state.replaced = {name: self._digest_of(name) for name in texts}
        state.written = state.written | {name: _digest(content) for name, content in texts.items()}
        named = {*state.sealed, *state.rows, *state.stages}
        named |= {state.working, state.start, state.optimizer, state.selector}
        state.files = {name: digest for name, digest in state.files.items() if name in named}
        self.write_state({"format": FORMAT, **asdict(state)})
        for folder in ("checkpoints", "evaluation"):
            for path in (self.path / folder).iterdir():
                if path.name != "state.json" and f"{folder}/{path.name}" not in state.files:
                    self.remove(path)
        for name, content in texts.items():
            self.write(name, content)

    def peek_state(self) -> State | None:
        """The last state, without a look at the files it names; None where nothing was saved yet.

        Raises:
            EverclipError: it is damaged, of another version, or missing beside checkpoints.
        """
        path = self.path / STATE
        # Listed before the state is looked for: a run that begins meanwhile has not lost what it is about to write.
        others = [each for each in path.parent.glob("*") if not each.name.endswith(".tmp")]
        if not path.exists():
            if others:
                raise self.missing(STATE)
            return None
        body = self.read_state()
        if body.pop("format", None) not in READS:
            raise EverclipError(
                f"{path} was written by another version of EverCLIP, whose checkpoints this one (format {FORMAT}) does "
                "not read; resume with the version that wrote it."
            )
        try:
            state = fitting(State, body)
            check_names(state)
        except Malformed as error:
            raise self.damaged(STATE, error) from error
        return state

    def load_state(
        self, method: str, backbone: Identity, data: Identity, reference: Identity | None = None
    ) -> State | None:
        """The last state, with every file it names checked; None where nothing was learned yet.

        Without `reference` it may be any: what was learned does not depend on it. Digests that an earlier version of
        EverCLIP wrote are accepted and replaced in what is returned, so that today's are in the file as soon as the
        state is saved again; nothing is written here.

        Raises:
            OtherContent: the state belongs to another backbone or to other data.
            EverclipError: a file is damaged or missing, or the state belongs to another method or version.
        """
        state = self.peek_state()
        if state is None:
            self.refuse_lost_state()
            return None
        if not state.stages_learned and state.step is None:
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
        try:
            check_learned(state)
        except Malformed as error:
            raise self.damaged(STATE, error) from error
        for name in state.files:
            self.require_intact(state, name)
        if not state.written:  # of an earlier version; from its next checkpoint on, the state names the configuration
            state.written = {CONFIG: sha256(self.path / CONFIG)}
        state.backbone, state.data = backbone.digest, data.digest
        if reference is not None:
            state.reference = reference.digest
        return state

    def refuse_lost_state(self) -> None:
        """Refuse a run whose state is gone: what it learned would be learned, and what it left be written, once more.

        Raises:
            EverclipError: there is what only a run with a state leaves behind.
        """
        left = [self.path / name for name in DERIVED] + list((self.path / "evaluation").glob("*.safetensors"))
        if any(path.exists() for path in left):
            raise self.missing(STATE)

    # -- is it what was written? -----------------------------------------------------------------------------------

    def require_intact(self, state: State, name: str) -> None:
        """Refuse one of the files in `State.files` that is not the one that was written.

        Raises:
            EverclipError: it is damaged or missing.
        """
        if problem := self._problem(name, state.files[name]):
            raise problem

    def is_complete(self, state: State) -> bool:
        """Whether the run is finished, and all that follows from its rows is on disk as it was written."""
        if not state.written:  # of an earlier version
            return state.finished and (self.path / RESULTS).is_file()
        return state.finished and all(self.is_as_written(state, name) for name in DERIVED)

    def is_as_written(self, state: State, name: str) -> bool:
        """Whether a file is there and is the one that the state names in `written`."""
        return self._digest_of(name) == state.written.get(name, "")

    def require_as_written(self, name: str, content: bytes) -> None:
        """Refuse the content of one of the files in `State.written` where it is not the one that was written.

        Runs of earlier versions, and results that were kept without their checkpoints, have nothing to compare with.

        Raises:
            InputError: the run is not finished.
            EverclipError: the file is damaged, or the state is.
        """
        state = self.peek_state()
        if state is None or not state.written:
            return
        if name not in state.written:
            raise InputError(
                f"{self.path / name} is not the last that its run writes: the run is not finished and needs "
                "`everclip run --resume`."
            )
        digest = hashlib.sha256(content).hexdigest()
        if digest != state.written[name] and not (name == CONFIG and digest == state.replaced.get(CONFIG)):
            raise self.damaged(name)

    def damaged(self, name: str, reason: Exception | None = None) -> EverclipError:
        """A file is not what was written; some can be had again."""
        if name not in DERIVED:
            return super().damaged(name, reason)
        return EverclipError(
            f"{self.path / name} is damaged (it differs from what {STATE} says was written); put it back from a copy, "
            "or give the command of the run again with --resume, which writes it anew."
        )

    def verify(self) -> Iterator[Checked]:
        """Compare every file of the run with its digest; a run that was cut off is sound."""
        try:
            state = self.peek_state()
            if state is None:
                self.refuse_lost_state()
                return
        except EverclipError as error:
            yield Checked(STATE, str(error))
            return
        yield Checked(STATE)
        for name, expected in state.files.items():
            yield Checked.of(name, self._problem(name, expected))
        for name, expected in state.written.items():
            before = name in state.replaced and self._digest_of(name) == state.replaced[name]
            yield Checked.of(name, None if before else self._problem(name, expected))
        if not state.written:
            for name in (CONFIG, *DERIVED):
                if (self.path / name).is_file():
                    yield Checked(name, has_digest=False)
        if (self.path / EVENTS).exists():
            try:
                read_events(self.path / EVENTS)
            except EverclipError as error:
                yield Checked(EVENTS, str(error))
            else:
                yield Checked(EVENTS, has_digest=bool(state.written))

    def _problem(self, name: str, expected: str) -> EverclipError | None:
        """What is wrong with a file of which the SHA-256 is known, if anything."""
        try:
            return None if sha256(self.path / name) == expected else self.damaged(name)
        except FileNotFoundError:
            return self.missing(name)
        except PermissionError as error:
            return self.unreadable(name, error)
        except OSError:
            return self.damaged(name)

    def _digest_of(self, name: str) -> str | None:
        """The SHA-256 of a file as it is now; None where there is none."""
        try:
            return sha256(self.path / name)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self.unreadable(name, error) from error


def config_text(config: Mapping[str, Any]) -> str:
    """A configuration as `config.yaml` holds it."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def json_text(content: object) -> str:
    """JSON for people, in a form that equal content makes equal."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _digest(content: str) -> str:
    return hashlib.sha256(as_bytes(content)).hexdigest()
