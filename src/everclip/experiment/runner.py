"""One method over one stream: configuration in, run directory out."""

from __future__ import annotations

import copy
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
from everclip.backbone.features import FrozenFeatures
from everclip.data import (
    ImageSource,
    Joined,
    ViewedImages,
    left_out_of,
    read_images,
    read_texts,
)
from everclip.engine.batches import mix
from everclip.engine.evaluation import Evaluator, Outcome, TestSet
from everclip.engine.material import Material, data_identity, reference_identity
from everclip.errors import InputError
from everclip.experiment.callbacks import Audience, Callback, Row, Start
from everclip.experiment.config import Config
from everclip.experiment.learned import LearnedRun
from everclip.experiment.moving import Moved, places_of, refused, told
from everclip.experiment.outcomes import matrix_csv, pack, unpack
from everclip.experiment.results import results_of
from everclip.experiment.stages import learn_stage
from everclip.experiment.trackers import callbacks_of
from everclip.methods import Method, Sources, load_checked, method_class
from everclip.report import load_run, read_losses, render
from everclip.selectors import Selector, selector_class
from everclip.selectors import load_checked as load_selector
from everclip.storage.reading import Malformed
from everclip.storage.run import OtherContent, RunDirectory, config_text, json_text
from everclip.storage.state import CONFIG, MATRIX, PAGE, RESULTS, State
from everclip.storage.stated import check_stream, needed_by
from everclip.streams import CANDIDATES, Stream, Task, TaskInfo, open_stream
from everclip.system.display import Display, visible
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
        return places_of(config, directory) if directory.exists() else {}

    places = refuse_another_run()
    state = directory.peek_state() if directory.exists() else None
    finished = state is not None and directory.is_complete(state)
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
        for task in self.stream.tasks:
            if task.said:
                display.note(visible(f"{task.name}: {task.said}"))
        unlabeled = None
        if config.setup.reference:
            unlabeled, left_out = read_images(config.setup.reference)
            if left_out:
                display.note(f"reference images: {left_out_of(left_out)}")
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
            done = f"{self.state.stages_learned} of {len(self.stages)} stages learned"
            where = f", step {self.state.step} of the next" if self.state.step else ""
            self.display.note(f"going on where the run was cut off: {done}{where}.")
        barrier()  # all have read what the main process replaces from now on
        if restored is None:
            directory.begin(self.state, self.config.flat())
        elif is_main():
            self._put_right()
        start = {"resumed": restored is not None, "processes": world()}
        directory.event("start", **start, version=__version__, torch=torch.__version__)
        steps = sum(map(self.steps_of, range(self.state.stages_learned))) + (self.state.step or 0)
        tasks = tuple(task.name for task in self.stream.tasks)
        self.audience.on_start(Start(directory.path, self.config.flat(), tasks, restored is not None, steps))
        for number, stage in enumerate(self.stages):
            if number >= self.state.stages_learned:
                learn_stage(self, number)
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
            try:
                check_stream(state, [len(stage) for stage in self.stages])
            except Malformed as error:
                raise self.directory.damaged(self.directory.state, error) from error
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
    def stages(self) -> list[list[Task]]:
        """The tasks of each stage, in order."""
        tasks = list(self.stream.tasks)
        return [tasks] if self.method_type.all_at_once else [[task] for task in tasks]

    def _views(self, rows: Mapping[TaskInfo, Sequence[int] | None]) -> ViewedImages:
        """Training images of tasks, or some rows of them, under the evaluation view."""
        parts = []
        for info, chosen in rows.items():
            train = cast(ImageSource, self.stream.tasks[info.index].train)  # who learns from embeddings does not ask
            parts.append(train if chosen is None else train.select(chosen))
        return self.material.viewed(Joined(parts), f"training images of {', '.join(info.name for info in rows)}")

    def steps_of(self, number: int) -> int:
        """How many training steps a learned stage took."""
        if not self.method_type.trains or self.source is not None:
            return 0
        indices = [task.info.index for task in self.stages[number]]
        images = [self.state.learned[index]["train"] for index in indices]
        return sum(sum(self.method.phases(self.config.training.steps(count))) for count in images)

    def begin(self, number: int) -> None:
        """Begin a stage: prepare what it trains."""
        # What a method draws when a task begins must not depend on what this process drew before.
        torch.manual_seed(mix(self.config.protocol.seed_of("init"), number))
        for task in self.stages[number]:
            self.method.begin_task(task.info)

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
            self.directory.save_state(self.state, self._matrix())
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
            with needed_by("the evaluation", self.directory, self.state, name):
                rows[index] = unpack(self.directory.read_tensors(name), [len(test.data.labels) for test in self.tests])
        return rows

    def _matrix(self) -> dict[str, str]:
        """`matrix.csv`, by its name, as the judged rows say it."""
        return {MATRIX: matrix_csv(self._rows(), [task.name for task in self.stream.tasks])}

    # -- the end ---------------------------------------------------------------------------------------------------

    def _finish(self) -> dict[str, Any]:
        barrier()  # the last row is written
        results = results_of(self, self._rows())
        if is_main():
            stages = [[task.name for task in stage] for stage in self.stages]
            page = render(results, read_losses(self.directory.path, stages))
            self.state.finished = False  # until they are on disk; a finished run may have lost one
            self.directory.save_state(self.state, {RESULTS: json_text(results), PAGE: page})
        self.state.finished = True
        self.directory.save_state(self.state)
        self.directory.event("finished")
        self.audience.on_end(copy.deepcopy(results))
        barrier()  # all return when it is on disk
        return results

    # -- going on --------------------------------------------------------------------------------------------------

    def _put_right(self) -> None:
        """Write what lies elsewhere by now into the configuration, and the matrix if it is not that of the rows."""
        texts = {CONFIG: config_text(self.config.flat())} if self.places else {}
        if self.state.rows and not self.directory.is_as_written(self.state, MATRIX):
            texts |= self._matrix()
        if texts:
            self.directory.save_state(self.state, texts)

    def _restore(self, state: State) -> None:
        self.state = state
        begun = sum(len(stage) for stage in self.stages[: state.stages_learned + (state.step is not None)])
        infos, what = self.stream.infos, f"method '{self.method_type.name}'"
        if self.source is None:
            sealed = [self.directory.read_tensors(name) for name in state.sealed]
            if state.step is not None and self.method.needs_start:
                with needed_by(what, self.directory, state, state.start):
                    load_checked(self.method, infos[: len(sealed)], sealed, self.directory.read_tensors(state.start))
                self.begin(state.stages_learned)
            with needed_by(what, self.directory, state):
                load_checked(self.method, infos[:begun], sealed, self.directory.read_tensors(state.working))
        elif state.stages_learned:
            self.source.load(self.method, state.stages_learned - 1, infos[:begun])
        if self.method.routed:
            fitted = self.directory.read_tensors(state.selector)
            with needed_by(f"selector '{self.selector.name}'", self.directory, state):
                load_selector(self.selector, infos[: len(state.learned)], fitted)
