"""What a finished run learned, stage by stage, so that it can be judged again without training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everclip.errors import InputError
from everclip.experiment.config import HOW_NOT_WHAT, Config
from everclip.experiment.moving import Moved, moved, refused
from everclip.methods import Method, load_checked
from everclip.storage.identity import Identity
from everclip.storage.run import OtherContent, RunDirectory
from everclip.storage.stated import needed_by
from everclip.streams import TaskInfo
from everclip.system.paths import expanded

HOW_JUDGED = frozenset({"candidates", "routing", "selector", "reference"})
"""Settings that decide how a learner is judged and not what it learns; those of the selector belong to them too."""


class LearnedRun:
    """The stages of a run that was made with `keep_stages`.

    Args:
        config: of the new judgment. Everything except how to judge, and where things lie, must be as in the run.
        method, backbone, data: of the new judgment. They must be those of the run.

    Raises:
        InputError: no such run, not finished, its stages were not kept, or it learned something else.
        EverclipError: it is damaged, or was made with other weights or data.
    """

    def __init__(self, config: Config, method: str, backbone: Identity, data: Identity) -> None:
        path = expanded(str(config.setup.learned))
        self.directory = RunDirectory(path)
        learned = self.directory.peek_state() if _is_run(self.directory) else None
        if learned is None or not learned.finished:
            raise InputError(f"{path} holds no finished run; finish it by --resume, then judge it.")
        if len(learned.stages) != learned.stages_learned:
            raise InputError(f"{path} kept its last stage only; learn it anew with --set keep_stages=true.")
        theirs, ours = _what_is_learned(stored_config(self.directory)), _what_is_learned(config)
        self.places: Moved = moved(theirs, ours, ours)
        for name in ours:
            if name not in self.places and theirs[name] != ours[name]:
                raise InputError(
                    f"{path} learned with {name}={theirs[name]}, not {ours[name]}; a judgment may change only "
                    f"{', '.join(sorted(HOW_JUDGED | HOW_NOT_WHAT))} and the settings of the selector."
                )
        try:
            self.learned = self.directory.load_state(method, backbone, data) or learned
        except OtherContent as error:
            raise refused(error, self.places, path) from None

    def load(self, method: Method, stage: int, tasks: list[TaskInfo]) -> None:
        """Bring a method to where it stood at the end of a stage, after `tasks`."""
        sealed = [self.directory.read_tensors(name) for name in self.learned.sealed[: len(tasks)]]
        working = self.learned.stages[stage]
        with needed_by(f"method '{method.name}'", self.directory, self.learned, working):
            load_checked(method, tasks, sealed, self.directory.read_tensors(working))


def judgment(run: Path, changes: Mapping[str, Any]) -> Config:
    """The configuration that judges a run again.

    Args:
        run: its directory; of a judgment, what that one judged is judged again.
        changes: how to judge it now, and where what it needs lies now; what they leave out stays as it was.

    Raises:
        InputError: no run there, or a change that is not about judging.
    """
    directory = RunDirectory(run)
    if not _is_run(directory):
        raise InputError(f"{run} holds no run; name a run directory.")
    before = stored_config(directory)
    values = before.flat()
    if changes.get("selector", before.protocol.selector) != before.protocol.selector:
        values = {name: value for name, value in values.items() if name not in before.selector_settings.model_dump()}
    learned = before.setup.learned or str(run)
    return Config.of(values | {"keep_stages": False, "learned": learned} | dict(changes))


def stored_config(directory: RunDirectory) -> Config:
    """The configuration of a run.

    Raises:
        InputError: it can't be read, or a setting is none; the message names the file.
    """
    values = directory.read_config()
    try:
        return Config.of(values)
    except InputError as error:
        raise InputError(f"{directory.path / 'config.yaml'}: {error}") from error


def _what_is_learned(config: Config) -> dict[str, Any]:
    """The settings that decide what a run learns. Both runs are of one method, so their names are the same."""
    judged = HOW_JUDGED | HOW_NOT_WHAT | {"keep_stages", "learned"} | set(config.selector_settings.model_dump())
    return {name: value for name, value in config.flat().items() if name not in judged}


def _is_run(directory: RunDirectory) -> bool:
    return directory.path.is_dir() and directory.exists()
