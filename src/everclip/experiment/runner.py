"""One method over one stream: configuration in, run directory out."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch

from everclip._version import __version__
from everclip.backbone import Backbone, resolve_device
from everclip.backbone.features import FrozenFeatures, FrozenImages
from everclip.data import (
    DecodedImages,
    Images,
    ImageSource,
    Joined,
    LabeledEmbeddings,
    ViewedImages,
    read_texts,
    read_unlabeled,
)
from everclip.data.identities import identities
from everclip.engine.batches import TrainingSet, mix
from everclip.engine.evaluation import Evaluator, Outcome, TestSet
from everclip.engine.material import Material, data_identity, reference_identity
from everclip.engine.training import Position, Progress, Trainer, accumulate
from everclip.errors import InputError
from everclip.experiment.callbacks import Audience, Callback, Row, Start, Step
from everclip.experiment.config import Config
from everclip.experiment.learned import LearnedRun
from everclip.experiment.moving import Moved, moved, refused, told
from everclip.experiment.outcomes import matrix_csv, pack, padded, unpack
from everclip.experiment.trackers import callbacks_of
from everclip.methods import Method, MethodConfig, Sources, method_class
from everclip.report import load_run, read_losses, render, summarize
from everclip.selectors import Selector, selector_class
from everclip.storage.run import OtherContent, RunDirectory, State
from everclip.streams import CANDIDATES, Stream, Task, TaskInfo, open_stream
from everclip.system.display import Display
from everclip.system.processes import barrier, is_main, join, main_first, world


def run(
    config: Config,
    out: str | Path,
    resume: bool = False,
    display: Display | None = None,
    stream: Stream | None = None,
    callbacks: Iterable[Callback | type[Callback] | str] = (),
) -> dict[str, Any]:
    """Run an experiment, or continue one; under `torchrun`, together with the other processes.

    Args:
        config: what to run; where `stream` is given it names none, and what it leaves to defaults is as that one says.
        out: the run directory.
        resume: continue the run that `out` holds. If there is none, it is started; if it is finished, this returns at
            once.
        display: shows progress.
        stream: one that a program made, by `Stream.of`. It is given again to resume the run or to judge what it
            learned, and must hold the same data then.
        callbacks: who looks on: objects or classes of `Callback`, or names (`tensorboard`). One that fails is named,
            on the display or else as a warning of Python's, and left out. None is called for a run that is done.

    Returns:
        The content of `results.json`.

    Raises:
        InputError: the request cannot be met; nothing was written to `out`.
        EverclipError: the run stopped; what it had done is kept.
    """
    join(config.setup.device)
    config, out = config if stream is None else config.on(stream), Path(out)
    config.stream_name()  # there must be one
    onlookers = callbacks_of(callbacks)
    warn = display.note if display else _python_warning
    display = display if display and is_main() else Display(quiet=True)
    directory = RunDirectory(out)
    out = directory.path
    directory.refuse_foreign_files()

    def refuse_another_run() -> Moved:
        if directory.exists() and not resume:
            raise InputError(f"{out} already holds a run; go on with it by --resume or choose another --out.")
        return _moved(config, directory) if directory.exists() else {}

    places = refuse_another_run()
    state = directory.peek_state() if directory.exists() else None
    finished = state is not None and state.finished and (out / "results.json").is_file()
    if not finished:
        directory.require_writable()
    with torch.random.fork_rng():
        if finished:
            if places:
                Experiment(config, directory, display, stream, places).stored()
            display.note(f"{out} is finished already.")
            return load_run(out)
        experiment = Experiment(config, directory, display, stream, places)
        with directory:
            refuse_another_run()  # again: another process may have begun one while this one loaded

            def report(sentence: str) -> None:
                directory.event("callback failed", reason=sentence)
                warn(sentence)

            experiment.audience = Audience(onlookers if is_main() else [], report)
            try:
                return experiment.run()
            finally:
                experiment.audience.close()


def _python_warning(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=2)


def _moved(config: Config, directory: RunDirectory) -> Moved:
    """Settings that name other places than those of the run; any other difference is refused."""
    differing = {name: (before, wanted) for name, before, wanted in config.differing(directory.read_config())}
    before, wanted = ({name: pair[side] for name, pair in differing.items()} for side in (0, 1))
    places = moved(before, wanted, differing)
    for name in differing:
        if name not in places:
            raise InputError(
                f"{directory.path} holds a run with {name}={before[name]}, not {wanted[name]}; give the same settings "
                "to resume it, or choose another --out."
            )
    return places


class Experiment:
    """A configured run: everything is loaded and checked, and nothing is written yet.

    Args:
        config: of the run.
        directory: where it goes, or where it was begun.
        display: shows progress.
        stream: one that a program made, under any protocol; by default the configuration's is opened.
        places: settings that name other places than when the run was begun.

    Raises:
        InputError: data, backbone or settings that do not go together.
    """

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        display: Display,
        stream: Stream | None = None,
        places: Moved = MappingProxyType({}),
    ) -> None:
        self.config = config
        self.places = places
        self.directory = directory
        self.display = display
        self.audience = Audience([], display.note)
        self.method_type = method_class(config.setup.method)
        if stream is None:
            stream = open_stream(config.stream_name(), config.protocol, config.setup.root)
        else:
            stream = stream.under(config.protocol)
        self.stream: Stream = stream
        if self.stream.kind not in self.method_type.reads:
            raise InputError(
                f"method '{self.method_type.name}' learns from {' or '.join(sorted(self.method_type.reads))}, but "
                f"stream '{self.stream.name}' gives {self.stream.kind}."
            )
        config.training.check_stream(self.stream.infos, self.method_type.all_at_once)
        self.method_type.check_requirements(config.setup)
        unlabeled = read_unlabeled(config.setup.reference) if config.setup.reference else None
        texts = read_texts(config.setup.reference_texts) if config.setup.reference_texts else None
        device = resolve_device(config.setup.device)
        with main_first():
            self.backbone = Backbone.load(config.setup.backbone, device, config.setup.precision)
        self.features = FrozenFeatures(self.backbone)
        torch.manual_seed(config.protocol.seed_of("init"))
        self.method: Method = self.method_type(self.backbone, config.settings, self.features).to(device)
        self.method.check_stream(self.stream.infos, [len(task.train) for task in self.stream.tasks])
        # All that can be refused without looking at an image is refused by now: decoding a large set takes a while.
        self.material = Material(self.backbone.view, config.setup.workers, display)
        if self.stream.kind == "images" and (self.method_type.trains or self.method_type.closed_form):
            self.material.require_training_images(self.stream.tasks)
        self.tests = [
            TestSet(task.info, self.material.viewed(task.test, f"{task.name}: test images"))
            for task in self.stream.tasks
        ]
        self.reference = self.material.viewed(unlabeled, "reference images") if unlabeled is not None else None
        self.method.provide(Sources(self._views, self.reference, texts))
        selector_type = selector_class(config.protocol.selector)
        self.selector: Selector = selector_type(config.selector_settings)
        if self.method.routed and self.selector.reads_features:
            self.selector.read(self.tests[0].data, self.features)  # what it can't read is refused now, not hours later
        self.data = data_identity(self.stream.tasks, self.tests)
        self.looked_at = reference_identity(self.reference, self.selector.feature_digest, texts or ())
        self.state = State(self.method_type.name, self.backbone.digest, self.data.digest, self.looked_at.digest)
        self.source: LearnedRun | None = None
        if config.setup.learned is not None:
            if not self.method.routed:
                raise InputError(
                    f"method '{self.method_type.name}' has one answer for every image: no selector matters."
                )
            self.source = LearnedRun(config, self.method_type.name, self.backbone.identity, self.data)
            self._recognize(self.source.learned, self.source.places, self.source.directory)

    def run(self) -> dict[str, Any]:
        """Learn and judge, stage by stage; write the results. The directory's lock must be held."""
        directory = self.directory
        restored = self.stored()
        if restored is not None:
            self._restore(restored)
            done = f"{self.state.stages_learned} of {len(self._stages)} stages learned"
            where = f", step {self.state.step} of the next" if self.state.step else ""
            self.display.note(f"going on where the run was cut off: {done}{where}.")
        barrier()  # all have read what the main process replaces from now on
        if not directory.exists() or self.places:
            directory.write_config(self.config.flat())
        start = {"resumed": restored is not None, "processes": world()}
        directory.event("start", **start, version=__version__, torch=torch.__version__)
        steps = sum(map(self._steps, range(self.state.stages_learned))) + (self.state.step or 0)
        tasks = tuple(task.name for task in self.stream.tasks)
        self.audience.on_start(Start(directory.path, self.config.flat(), tasks, restored is not None, steps))
        for number, stage in enumerate(self._stages):
            if number >= self.state.stages_learned:
                self._learn(number, stage)
            if number >= len(self.state.rows):
                self._judge(stage[-1])
        return self._finish()

    def stored(self) -> State | None:
        """Where the run stands on disk, which must be one of this backbone and these data; None where it is not begun.

        Raises:
            InputError: something else lies at a place that is given now.
            EverclipError: it is damaged, or was made with other weights or data.
        """
        try:
            state = self.directory.load_state(self.method_type.name, self.backbone.identity, self.data, self.looked_at)
        except OtherContent as error:
            raise refused(error, self.places, self.directory.path) from None
        if state is not None:
            self._recognize(state, self.places, self.directory)
        return state

    def _recognize(self, state: State, places: Moved, directory: RunDirectory) -> None:
        """What else a run at other places must share: the training images of what it learned. Say what moved."""
        if "stream" in places:
            for task in self.stream.tasks:
                before = state.training.get(task.name)
                if before is not None and self.material.content(task.train) != before:
                    raise refused(OtherContent("training", ""), places, directory.path)
        if places:
            self.display.note(told(places))

    @cached_property
    def _stages(self) -> list[list[Task]]:
        tasks = list(self.stream.tasks)
        return [tasks] if self.method_type.all_at_once else [[task] for task in tasks]

    def _views(self, rows: Mapping[TaskInfo, Sequence[int] | None]) -> ViewedImages:
        """Training images of tasks, or some rows of them, under the evaluation view."""
        parts = []
        for info, chosen in rows.items():
            train = cast(ImageSource, self.stream.tasks[info.index].train)  # who learns from embeddings does not ask
            parts.append(train if chosen is None else train.select(chosen))
        return self.material.viewed(Joined(parts), f"training images of {', '.join(info.name for info in rows)}")

    def _steps(self, number: int) -> int:
        """How many training steps a learned stage took."""
        if not self.method_type.trains or self.source is not None:
            return 0
        indices = [task.info.index for task in self._stages[number]]
        images = [self.state.learned[index]["train"] for index in indices]
        return sum(sum(self.method.phases(self.config.training.steps(count))) for count in images)

    # -- learning --------------------------------------------------------------------------------------------------

    def _learn(self, number: int, stage: list[Task]) -> None:
        start = time.perf_counter()
        if self.source is None:
            self._train_stage(number, stage)
        else:
            self._adopt(self.source, number, stage)
        self.state.stages_learned = number + 1
        self.state.step = self.state.start = self.state.optimizer = None
        if self.method.routed:
            for task in stage:
                self._fit_selector(task)
            self.state.selector = self.directory.write_tensors(
                self.state, f"checkpoints/selector-{number:02d}.safetensors", self.selector.state()
            )
        self.directory.save_state(self.state)
        seconds = round(time.perf_counter() - start, 2)
        kind = "learned" if self.source is None else "taken over"
        self.directory.event(kind, stage=number, tasks=[task.name for task in stage], seconds=seconds)

    def _train_stage(self, number: int, stage: list[Task]) -> None:
        """Train the method on a stage, and store what it learned."""
        state, method = self.state, self.method
        resumed_at = state.step
        if resumed_at is None:
            self.begin(number)
        read: list[Images | FrozenImages | LabeledEmbeddings | ImageSource] = [task.train for task in stage]
        if method.trains:
            sets = [TrainingSet(task.info, self._training_images(task)) for task in stage]
            self._train(number, sets, resumed_at)
            read = [each.images for each in sets]
        elif method.closed_form:
            read = [self._accumulate(task) for task in stage]
            method.solve()
        per_task = method.trained_parameters()
        method.end_task()
        for task, data in zip(stage, read, strict=True):
            skipped = getattr(data, "skipped", [])
            state.learned.append({"train": len(data), "skipped": skipped, "trained_parameters": per_task})
            name = f"checkpoints/task-{task.info.index:02d}.safetensors"
            state.sealed.append(self.directory.write_tensors(state, name, method.sealed_state(task.info.index)))
        name = f"checkpoints/working-{number:02d}.safetensors"
        state.working = self.directory.write_tensors(state, name, method.working_state())
        if self.config.setup.keep_stages:
            state.stages.append(state.working)

    def begin(self, number: int) -> None:
        """Begin a stage: prepare what it trains."""
        # What a method draws when a task begins must not depend on what this process drew before.
        torch.manual_seed(mix(self.config.protocol.seed_of("init"), number))
        for task in self._stages[number]:
            self.method.begin_task(task.info)

    def _adopt(self, source: LearnedRun, number: int, stage: list[Task]) -> None:
        """Take a stage over from the run that learned it."""
        learned = [task.info for done in self._stages[: number + 1] for task in done]
        source.load(self.method, number, learned)
        self.state.learned += source.learned.learned[len(learned) - len(stage) : len(learned)]

    def _training_images(self, task: Task) -> DecodedImages | FrozenImages:
        """What the training steps of a task draw from."""
        what, feed = f"{task.name}: training images", self.method.feed
        if feed == "images":
            decoded = self.material.decoded(cast(ImageSource, task.train), what)
            self._require_the_same(task, decoded)
            return decoded
        views = self.material.viewed(task.train, what)
        self._require_the_same(task, views)
        return self.features.frozen(views, feed)

    def _require_the_same(self, task: Task, images: Images | LabeledEmbeddings) -> None:
        """Remember what a task is learned from; images that changed since it was begun are no longer the task."""
        if self.state.training.setdefault(task.name, images.content) != images.content:
            raise OtherContent(
                "training",
                f"the training images of '{task.name}' are not those that {self.directory.path} began to learn; "
                "restore them or choose another --out.",
            )

    def _accumulate(self, task: Task) -> ViewedImages | LabeledEmbeddings:
        """Show a closed-form method the frozen features of a task's training images, each once."""
        data = self.material.viewed(task.train, f"{task.name}: training images")
        self._require_the_same(task, data)
        labels, known = (torch.from_numpy(np.asarray(numbers)) for numbers in (data.labels, identities(data)))
        accumulate(self.method, self.features.images(data), labels, known)
        return data

    def _train(self, number: int, sets: list[TrainingSet], resumed_at: int | None) -> None:
        config, state = self.config, self.state
        trainer = Trainer(
            self.method, sets, config.training, config.protocol.seed, len(self.stream.tasks), self.config.setup.workers
        )
        start = None
        if resumed_at is not None:
            start = Position(resumed_at, self.directory.read_tensors(state.optimizer))

        def checkpoint(position: Position) -> None:
            stem = f"{number:02d}-{position.step:06d}.safetensors"
            if state.step is None and self.method.needs_start:
                state.start = state.working
            state.step = position.step
            state.working = self.directory.write_tensors(
                state, f"checkpoints/working-{stem}", self.method.working_state()
            )
            state.optimizer = self.directory.write_tensors(state, f"checkpoints/optimizer-{stem}", position.optimizer)
            self.directory.save_state(state)

        tasks = tuple(each.info.name for each in sets)
        names = tasks[0] if len(sets) == 1 else f"{len(sets)} tasks at once"
        earlier = sum(map(self._steps, range(number)))
        with self.display.training(f"learning {names}", trainer.total, resumed_at or 0) as advance:

            def progress(now: Progress) -> None:
                advance(now)
                self.directory.event(
                    "step",
                    stage=number,
                    step=now.step,
                    loss=_written(now.loss),
                    parts={name: _written(part) for name, part in now.parts.items()},
                    rates=now.rates,
                    images_per_second=round(now.images_per_second, 1),
                )
                place = (earlier + now.step, now.step, now.total)
                told = Step(tasks, *place, now.loss, now.parts, now.rates, now.images_per_second)
                self.audience.on_step(told)

            trainer.run(start, checkpoint, progress)

    def _fit_selector(self, task: Task) -> None:
        features, labels, held_out = None, None, None
        selector = self.selector
        if selector.reads_features:
            if self.reference is not None and not selector.tasks:
                selector.refer(selector.read(self.reference, self.features))
            views = self.material.viewed(task.train, f"{task.name}: views for the selector")
            features, labels = selector.read(views, self.features), torch.from_numpy(views.labels)
            protocol = self.config.protocol
            # No image beyond the shots may be used, and what is evaluated may not calibrate.
            spare = protocol.shots is None and protocol.evaluate_on == "test"
            if spare and len(task.validation.labels):
                held_out = selector.read(
                    self.material.viewed(task.validation, f"{task.name}: held-out views"), self.features
                )
        selector.fit(task.info, features, labels, held_out)

    # -- judging ---------------------------------------------------------------------------------------------------

    def _judge(self, last: Task) -> None:
        evaluator = self._evaluator
        start = time.perf_counter()
        total = sum(len(test.data.labels) for test in self.tests)
        with self.display.bar(f"testing after {last.name}", total) as bar:
            seen = 0

            def advance(images: int) -> None:
                nonlocal seen
                seen += images
                bar(seen, total)

            outcomes = evaluator.row(last.info.index + 1, advance)
        name = f"evaluation/after-{last.info.index:02d}.safetensors"
        self.state.rows.append(name)
        self.directory.write_tensors(self.state, name, pack(outcomes))
        if is_main():  # the others could not read the row yet
            # Before the state that says so: a run cut off in between judges this row again.
            self.directory.write("matrix.csv", matrix_csv(self._rows(), [task.name for task in self.stream.tasks]))
        self.directory.save_state(self.state)
        every = {c: [100 * float(outcome.correct[c].mean()) for outcome in outcomes] for c in CANDIDATES}
        accuracy = every[self.config.protocol.candidates]
        learned = last.info.index + 1
        self.directory.event(
            "judged",
            after=last.name,
            accuracy=[round(a, 2) for a in accuracy],
            seconds=round(time.perf_counter() - start, 2),
        )
        names = [task.name for task in self.stream.tasks]
        told = {c: dict(zip(names, row, strict=True)) for c, row in every.items()}
        self.audience.on_task(Row(last.name, learned, self.config.protocol.candidates, told))
        mean = float(np.mean(accuracy[:learned]))
        self.display.note(f"after {last.name} ({learned}/{len(self.tests)}): {mean:.1f} % on the tasks learned so far")

    @cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(self.tests, self.method, self.selector, self.config.protocol)

    def _rows(self) -> dict[int, list[Outcome]]:
        """The judged rows by index of the last learned task."""
        rows = {}
        for name in self.state.rows:
            index = int(Path(name).stem.rpartition("-")[2])
            rows[index] = unpack(self.directory.read_tensors(name), len(self.tests))
        return rows

    # -- the end ---------------------------------------------------------------------------------------------------

    def _finish(self) -> dict[str, Any]:
        barrier()  # the last row is written
        results = self._results(self._rows())
        self.directory.write_json("results.json", results)
        stages = [[task.name for task in stage] for stage in self._stages]
        losses = read_losses(self.directory.path, stages) if is_main() else []
        self.directory.write("report.html", render(results, losses))
        self.state.finished = True
        self.directory.save_state(self.state)
        self.directory.event("finished")
        self.audience.on_end(copy.deepcopy(results))
        barrier()  # all return when it is on disk
        return results

    def _results(self, rows: dict[int, list[Outcome]]) -> dict[str, Any]:
        config, tasks, state = self.config, self.stream.tasks, self.state
        # The base of all methods answers as the original CLIP does.
        original = Method(self.backbone, MethodConfig(), self.features)
        untouched = Evaluator(self.tests, original, self.selector, config.protocol).row(0)
        every = [rows.get(index) for index in range(len(tasks))]

        def table(kind: str) -> dict[str, list[Any]]:
            return {c: [row and [getattr(outcome, kind)[c] for outcome in row] for row in every] for c in CANDIDATES}

        datasets = []
        for task, test, learned in zip(tasks, self.tests, state.learned, strict=True):
            skipped = [*learned["skipped"], *getattr(test.data, "skipped", [])]
            datasets.append(
                {
                    "name": task.name,
                    "classes": len(task.info.class_names),
                    "train": learned["train"],
                    "validation": len(task.validation.labels),
                    "test": len(test.data.labels),
                    "few_shot_sha256": task.few_shot_sha256,
                    "skipped": len(skipped),
                    "skipped_files": [{"name": name, "reason": reason} for name, reason in skipped],
                }
            )
        per_task = [learned["trained_parameters"] for learned in state.learned]
        header = {
            "everclip": __version__,
            "method": self.method_type.name,
            "backbone": {
                "name": self.backbone.name,
                "digest": self.backbone.digest,
                "former_digests": list(self.backbone.former_digests),
            },
            "stream": self.stream.name,
            "scenario": self.stream.scenario,
            "protocol": self.protocol(),
            "training": config.training.model_dump(exclude={"log_every"}),
            "settings": {
                **config.settings.model_dump(),
                **config.selector_settings.model_dump(),
                **self._learned_from(),
            },
            "trained_parameters": {"per_task": per_task, "total": self.method.trained_in_total(per_task)},
        }
        routing = None
        if self.method.routed:
            columns = [*(task.name for task in tasks), "zero-shot"]
            routing = {
                "columns": columns,
                "after": [row if row is None else [padded(o.routes, len(columns)) for o in row] for row in every],
            }
        zero_shot = {c: [outcome.correct[c] for outcome in untouched] for c in CANDIDATES}
        upper_bound = self.method_type.upper_bound or (self.method.routed and self.selector.upper_bound)
        return summarize(header, datasets, table("correct"), table("by_name"), zero_shot, routing, upper_bound)

    def protocol(self) -> dict[str, Any]:
        """What a figure depends on besides the method and its training."""
        setup = self.config.setup
        return {
            "stream": self.stream.name,
            "tasks": [task.name for task in self.stream.tasks],
            "backbone": self.backbone.name,
            "precision": setup.precision,
            "reference": setup.reference and Path(setup.reference).name,
            **self.config.protocol.recorded(),
        }

    def _learned_from(self) -> dict[str, str | None]:
        """What a method that asks for a reference learned from, by name: it tells two of its runs apart."""
        setup = self.config.setup
        paths = {"reference": setup.reference, "reference_texts": setup.reference_texts}
        return {name: path and Path(path).name for name, path in paths.items()} if self.method.requires else {}

    # -- going on --------------------------------------------------------------------------------------------------

    def _restore(self, state: State) -> None:
        self.state = state
        begun = sum(len(stage) for stage in self._stages[: state.stages_learned + (state.step is not None)])
        infos = self.stream.infos
        if self.source is None:
            sealed = [self.directory.read_tensors(name) for name in state.sealed]
            if state.step is not None and self.method.needs_start:
                self.method.load_state(infos[: len(sealed)], sealed, self.directory.read_tensors(state.start))
                self.begin(state.stages_learned)
            self.method.load_state(infos[:begun], sealed, self.directory.read_tensors(state.working))
        elif state.stages_learned:
            self.source.load(self.method, state.stages_learned - 1, infos[:begun])
        if self.method.routed:
            self.selector.load_state(infos[: len(state.learned)], self.directory.read_tensors(state.selector))


def _written(value: float) -> float | None:
    """A loss in six digits, as JSON knows numbers."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
