"""How a run learns a stage (one task, or all tasks at once), and what it stores of it."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from everclip.backbone.features import FrozenImages
from everclip.data import DecodedImages, Images, ImageSource, LabeledEmbeddings, ViewedImages
from everclip.data.identities import identities
from everclip.engine.batches import TrainingSet
from everclip.engine.training import Position, Progress, Trainer, accumulate
from everclip.experiment.callbacks import Step
from everclip.experiment.learned import LearnedRun
from everclip.storage.run import OtherContent
from everclip.streams import Task

if TYPE_CHECKING:
    from everclip.experiment.runner import Experiment


def learn_stage(run: Experiment, number: int) -> None:
    """Learn a stage, from its beginning or from where the run was cut off within it, and store what it brought.

    Args:
        run: its state is brought up to date, and saved.
        number: of the stage.

    Raises:
        EverclipError: it cannot be learned to its end; what was done is kept.
    """
    stage = run.stages[number]
    start = time.perf_counter()
    if run.source is None:
        _train_stage(run, number, stage)
    else:
        _adopt(run, run.source, number, stage)
    run.state.stages_learned = number + 1
    run.state.step = run.state.start = run.state.optimizer = None
    if run.method.routed:
        for task in stage:
            _fit_selector(run, task)
        run.state.selector = run.directory.write_tensors(
            run.state, f"checkpoints/selector-{number:02d}.safetensors", run.selector.state()
        )
    run.directory.save_state(run.state)
    seconds = round(time.perf_counter() - start, 2)
    kind = "learned" if run.source is None else "taken over"
    run.directory.event(kind, stage=number, tasks=[task.name for task in stage], seconds=seconds)


def _train_stage(run: Experiment, number: int, stage: list[Task]) -> None:
    """Train the method on a stage, and store what it learned."""
    state, method = run.state, run.method
    resumed_at = state.step
    if resumed_at is None:
        run.begin(number)
    read: list[Images | FrozenImages | LabeledEmbeddings | ImageSource] = [task.train for task in stage]
    if method.trains:
        sets = [TrainingSet(task.info, _training_images(run, task)) for task in stage]
        _train(run, number, sets, resumed_at)
        read = [each.images for each in sets]
    elif method.closed_form:
        read = [_accumulate(run, task) for task in stage]
        method.solve()
    per_task = method.trained_parameters()
    method.end_task()
    for task, data in zip(stage, read, strict=True):
        skipped = getattr(data, "skipped", [])
        state.learned.append({"train": len(data), "skipped": skipped, "trained_parameters": per_task})
        name = f"checkpoints/task-{task.info.index:02d}.safetensors"
        state.sealed.append(run.directory.write_tensors(state, name, method.sealed_state(task.info.index)))
    name = f"checkpoints/working-{number:02d}.safetensors"
    state.working = run.directory.write_tensors(state, name, method.working_state())
    if run.config.setup.keep_stages:
        state.stages.append(state.working)


def _adopt(run: Experiment, source: LearnedRun, number: int, stage: list[Task]) -> None:
    """Take a stage over from the run that learned it."""
    learned = [task.info for done in run.stages[: number + 1] for task in done]
    source.load(run.method, number, learned)
    run.state.learned += source.learned.learned[len(learned) - len(stage) : len(learned)]


def _training_images(run: Experiment, task: Task) -> DecodedImages | FrozenImages:
    """What the training steps of a task draw from."""
    what, feed = f"{task.name}: training images", run.method.feed
    if feed == "images":
        decoded = run.material.decoded(cast(ImageSource, task.train), what)
        _require_the_same(run, task, decoded)
        return decoded
    views = run.material.viewed(task.train, what)
    _require_the_same(run, task, views)
    return run.features.frozen(views, feed)


def _require_the_same(run: Experiment, task: Task, images: Images | LabeledEmbeddings) -> None:
    """Remember what a task is learned from; images that changed since it was begun are no longer the task."""
    if run.state.training.setdefault(task.name, images.content) != images.content:
        raise OtherContent(
            "training",
            f"the training images of '{task.name}' are not those that {run.directory.path} began to learn; "
            "restore them or choose another --out.",
        )


def _accumulate(run: Experiment, task: Task) -> ViewedImages | LabeledEmbeddings:
    """Show a closed-form method the frozen features of a task's training images, each once."""
    data = run.material.viewed(task.train, f"{task.name}: training images")
    _require_the_same(run, task, data)
    labels, known = (torch.from_numpy(np.asarray(numbers)) for numbers in (data.labels, identities(data)))
    accumulate(run.method, run.features.images(data), labels, known)
    return data


def _train(run: Experiment, number: int, sets: list[TrainingSet], resumed_at: int | None) -> None:
    config, state = run.config, run.state
    trainer = Trainer(
        run.method, sets, config.training, config.protocol.seed, len(run.stream.tasks), run.config.setup.workers
    )
    start = None
    if resumed_at is not None:
        start = Position(resumed_at, run.directory.read_tensors(state.optimizer))

    def checkpoint(position: Position) -> None:
        stem = f"{number:02d}-{position.step:06d}.safetensors"
        if state.step is None and run.method.needs_start:
            state.start = state.working
        state.step = position.step
        state.working = run.directory.write_tensors(state, f"checkpoints/working-{stem}", run.method.working_state())
        state.optimizer = run.directory.write_tensors(state, f"checkpoints/optimizer-{stem}", position.optimizer)
        run.directory.save_state(state)

    tasks = tuple(each.info.name for each in sets)
    names = tasks[0] if len(sets) == 1 else f"{len(sets)} tasks at once"
    earlier = sum(map(run.steps_of, range(number)))
    with run.display.training(f"learning {names}", trainer.total, resumed_at or 0) as advance:

        def progress(now: Progress) -> None:
            advance(now)
            run.directory.event(
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
            run.audience.on_step(told)

        trainer.run(start, checkpoint, progress)


def _fit_selector(run: Experiment, task: Task) -> None:
    features, labels, held_out = None, None, None
    selector = run.selector
    if selector.reads_features:
        if run.reference is not None and not selector.tasks:
            selector.refer(selector.read(run.reference, run.features))
        views = run.material.viewed(task.train, f"{task.name}: views for the selector")
        features, labels = selector.read(views, run.features), torch.from_numpy(views.labels)
        protocol = run.config.protocol
        # No image beyond the shots may be used, and what is evaluated may not calibrate.
        spare = protocol.shots is None and protocol.evaluate_on == "test"
        if spare and len(task.validation.labels):
            held_out = selector.read(run.material.viewed(task.validation, f"{task.name}: held-out views"), run.features)
    selector.fit(task.info, features, labels, held_out)


def _written(value: float) -> float | None:
    """A loss in six digits, as JSON knows numbers."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
