"""The callbacks that EverCLIP brings, TensorBoard and Weights & Biases, and the registry of all callbacks.

The packages they write for are imported when one is made (`pip install everclip[trackers]`). Other packages add
callbacks under the entry points `everclip.callbacks`.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from everclip.errors import InputError
from everclip.experiment.callbacks import Callback, Row, Start, Step
from everclip.registry import Registry, enter, from_place, is_place, subclasses_of


class TensorBoard(Callback):
    """Scalars below RUN/tensorboard: `tensorboard --logdir RUN` shows them, several runs side by side.

    After a resume TensorBoard itself passes over what it was told of steps that are taken again.
    """

    name = "tensorboard"
    summary = "writes losses, rates and accuracies to RUN/tensorboard"

    def __init__(self) -> None:
        self._module = _package("torch.utils.tensorboard", self.name)
        self._writer: Any = None

    def on_start(self, run: Start) -> None:
        """Open the file; the settings are a text."""
        again = run.step + 1 if run.resumed and run.step else None
        self._writer = self._module.SummaryWriter(str(run.path / "tensorboard"), purge_step=again)
        settings = json.dumps(dict(run.config), indent=1, ensure_ascii=False)
        self._writer.add_text("settings", f"```\n{settings}\n```", run.step)

    def on_step(self, step: Step) -> None:
        """Loss, parts, rates and speed over the steps of the run."""
        for tag, value in _figures(step):
            self._writer.add_scalar(tag, value, step.step)

    def on_task(self, row: Row) -> None:
        """Accuracies over the number of learned tasks."""
        for tag, value in _accuracies(row):
            self._writer.add_scalar(tag, value, row.learned)
        self._writer.flush()

    def on_end(self, results: Mapping[str, Any]) -> None:
        """Transfer, Average and Last."""
        for tag, value in _results(results):
            self._writer.add_scalar(tag, value, len(results["datasets"]))

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases(Callback):
    """A run of the project `everclip` below RUN/wandb, kept on this machine: `wandb sync RUN/wandb/offline-run-…`.

    Nothing is sent unless the environment says so by WANDB_MODE=online; other variables of wandb hold as well. A run
    that is resumed keeps the id it began with.
    """

    name = "wandb"
    summary = "writes losses, rates and accuracies to RUN/wandb, offline unless WANDB_MODE says otherwise"

    def __init__(self) -> None:
        self._module = _package("wandb", self.name)
        self._run: Any = None

    def on_start(self, run: Start) -> None:
        """Begin, or go on with, a run of wandb."""
        stream = str(run.config["stream"])
        self._run = self._module.init(
            project=os.environ.get("WANDB_PROJECT", "everclip"),
            name=os.environ.get("WANDB_NAME", f"{run.config['method']} {stream} seed {run.config['seed']}"),
            mode=os.environ.get("WANDB_MODE", "offline"),
            dir=str(run.path),
            config=dict(run.config),
            id=_id_of(run.path) if run.resumed else None,
            resume="allow",
            settings=self._module.Settings(silent=True, console="off"),
        )
        for axis, tags in (("step", ("loss", "rate", "speed")), ("learned", ("accuracy",))):
            self._run.define_metric(axis, hidden=True)
            for tag in tags:
                self._run.define_metric(f"{tag}/*", step_metric=axis)

    def on_step(self, step: Step) -> None:
        """Loss, parts, rates and speed over the steps of the run."""
        self._run.log({"step": step.step, **dict(_figures(step))})

    def on_task(self, row: Row) -> None:
        """Accuracies over the number of learned tasks."""
        self._run.log({"learned": row.learned, **dict(_accuracies(row))})

    def on_end(self, results: Mapping[str, Any]) -> None:
        """Transfer, Average and Last are the summary."""
        self._run.summary.update(dict(_results(results)))

    def close(self) -> None:
        """Let wandb write what it holds."""
        if self._run is not None:
            self._run.finish()


CALLBACKS: Registry[type[Callback]] = Registry(
    "callback",
    "everclip.callbacks",
    {kind.name: kind for kind in (TensorBoard, WeightsAndBiases)},
    subclasses_of(Callback, "callback"),
)


def callbacks_of(given: Iterable[Callback | type[Callback] | str]) -> list[Callback]:
    """Callbacks, ready to be called.

    Args:
        given: callbacks, classes of them, or what somebody typed: names, and `package.module:Class`, which is imported.

    Raises:
        InputError: there is no such callback, or it cannot be made, for example for want of a package.
    """
    made: list[Callback] = []
    for each in given:
        if isinstance(each, Callback):
            made.append(each)
            continue
        kind = CALLBACKS.find(_typed(each) if isinstance(each, str) else enter(each))
        if kind not in map(type, made):
            made.append(_made(kind))
    return made


def _typed(name: str) -> str:
    return from_place(name) if is_place(name) else name


def _made(kind: type[Callback]) -> Callback:
    try:
        return kind()
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # somebody else's code, as in `Registry.find`
        said = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": .")
        raise InputError(f"callback '{kind.name}' can't be made ({said}); repair it, or leave it out.") from error


def _package(module: str, callback: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"callback '{callback}' needs {error.name or callback}, which is not installed; get it by "
            "pip install 'everclip[trackers]'."
        ) from error


def _id_of(path: Path) -> str | None:
    """Of the run of wandb that was begun below a run directory: the end of a folder's name, `run-DATE_TIME-ID`."""
    folders = sorted((path / "wandb").glob("*run-*-*"))
    return folders[0].name.rpartition("-")[2] if folders else None


def _figures(step: Step) -> Iterator[tuple[str, float]]:
    yield "loss/total", step.loss
    for name, value in step.parts.items():
        yield f"loss/{name}", value
    for number, rate in enumerate(step.rates):
        yield f"rate/{number}" if len(step.rates) > 1 else "rate/lr", rate
    yield "speed/images per second", step.images_per_second


def _accuracies(row: Row) -> Iterator[tuple[str, float]]:
    accuracy = row.accuracy[row.candidates]
    for task, percent in accuracy.items():
        yield f"accuracy/{task}", percent
    learned = list(accuracy.values())[: row.learned]
    yield "accuracy/mean of the learned tasks", sum(learned) / len(learned)


def _results(results: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name in ("transfer", "average", "last", "forgetting"):
        if results[name] is not None:
            yield f"result/{name}", results[name]
