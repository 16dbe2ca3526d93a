"""Two tiny tasks, ready to be learned and tested, and what a method says of them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures
from everclip.data import DecodedImages, ImageSource, Joined, LabeledEmbeddings, ViewedImages, decoded, viewed
from everclip.engine.batches import TrainingSet
from everclip.engine.evaluation import TestSet
from everclip.engine.recipe import TrainingConfig
from everclip.engine.training import Position, Trainer
from everclip.methods import ORIGINAL, Method, Sources, load_checked
from everclip.streams import Protocol, Task, TaskInfo, open_stream
from everclip.testing import tiny

SEED = 3


@dataclass(frozen=True)
class Lessons:
    """The tasks of a stream, decoded, and the backbone that learns them.

    Attributes:
        folder: where the backbone was loaded from.
        stream: what was opened, `folders:A,B`.
        training: every task's training images, large enough to be augmented.
        views: the same as the image tower sees them.
    """

    folder: Path
    stream: str
    backbone: Backbone
    features: FrozenFeatures
    tasks: list[Task]
    training: list[TrainingSet]
    views: list[ViewedImages]
    tests: list[TestSet]

    @property
    def infos(self) -> list[TaskInfo]:
        """The tasks without their data."""
        return [test.info for test in self.tests]

    @property
    def sources(self) -> Sources:
        """What a method may look at; the test images of all tasks stand for images of no task."""
        view = self.backbone.view

        def views(rows: Mapping[TaskInfo, Sequence[int] | None]) -> ViewedImages:
            trains = {info: images_of(self.tasks[info.index].train) for info in rows}
            parts = [trains[info] if chosen is None else trains[info].select(chosen) for info, chosen in rows.items()]
            return viewed(Joined(parts), view)

        return Sources(
            views, viewed(Joined([images_of(task.test) for task in self.tasks]), view), ("a dog", "two trees")
        )

    def stages(self, method: Method) -> list[list[TrainingSet]]:
        """What is learned at a time."""
        sets = self.sets(method)
        return [sets] if method.all_at_once else [[each] for each in sets]

    def sets(self, method: Method) -> list[TrainingSet]:
        """Every task's training images, as the method is fed with them."""
        if method.feed == "images":
            return self.training
        every = zip(self.infos, self.views, strict=True)
        return [TrainingSet(info, self.features.frozen(views, method.feed)) for info, views in every]

    def turned(self) -> Lessons:
        """The same tasks in reverse order."""
        kind, _, names = self.stream.partition(":")
        return lessons_of(self.folder, f"{kind}:{','.join(reversed(names.split(',')))}", self.backbone)


@contextmanager
def classroom() -> Iterator[Lessons]:
    """Lessons that are made on the spot and leave nothing behind: a tiny CLIP, and two folders of images."""
    with tempfile.TemporaryDirectory() as made:
        root, cache = Path(made), os.environ.get("EVERCLIP_CACHE")
        os.environ["EVERCLIP_CACHE"] = str(root / "cache")
        try:
            first = tiny.image_folder(root / "paint", ["red", "green", "blue"])
            second = tiny.image_folder(root / "cloth", ["gray", "red"], seed=1)
            yield lessons_of(tiny.clip_folder(root / "clip"), f"folders:{first},{second}")
        finally:
            os.environ.pop("EVERCLIP_CACHE")
            if cache is not None:
                os.environ["EVERCLIP_CACHE"] = cache


def lessons_of(folder: Path, stream: str, backbone: Backbone | None = None) -> Lessons:
    """Open a stream of images for a backbone.

    Args:
        folder: of the backbone.
        stream: `folders:A,B`.
        backbone: what was loaded from there, if it was.
    """
    backbone = backbone or Backbone.load(str(folder))
    tasks = open_stream(stream, Protocol(seed=SEED)).tasks
    size = backbone.view.size
    training = [TrainingSet(task.info, decoded(images_of(task.train), 2 * size)) for task in tasks]
    views = [viewed(images_of(task.train), backbone.view) for task in tasks]
    tests = [TestSet(task.info, viewed(images_of(task.test), backbone.view)) for task in tasks]
    return Lessons(folder, stream, backbone, FrozenFeatures(backbone), list(tasks), training, views, tests)


def images_of(split: ImageSource | LabeledEmbeddings) -> ImageSource:
    """A part of a task; lessons are of images."""
    return cast(ImageSource, split)


def new_method(kind: type[Method], lessons: Lessons, seed: int = SEED, **settings: Any) -> Method:
    """A method that has learned nothing yet, with what it may look at."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        method = kind(lessons.backbone, kind.Config(**settings), lessons.features)
    method.provide(lessons.sources)
    return method


def recipe(**changes: Any) -> TrainingConfig:
    """A few quick steps."""
    return TrainingConfig(**{"iterations": 8, "batch": 6, "warmup": 1, "lr": 1e-3, **changes})


def train(
    method: Method,
    sets: list[TrainingSet],
    config: TrainingConfig,
    *,
    seed: int = SEED,
    workers: int = 1,
    start: Position | None = None,
    **callbacks: Callable[..., None],
) -> None:
    """Learn one stage, after `begin_task`: take its steps, or accumulate and solve."""
    if method.closed_form:
        for each in sets:
            features, labels = frozen(method, each)
            for part in torch.arange(len(labels)).split(config.batch):
                method.accumulate(features[part], labels[part])
        method.solve()
    if method.trains:
        with torch.random.fork_rng():
            Trainer(method, sets, config, seed, tasks=2, workers=workers).run(start, **callbacks)


def frozen(method: Method, each: TrainingSet) -> tuple[Tensor, Tensor]:
    """Frozen features and labels of a training set, seen through the corner that has the view's size."""
    size = method.backbone.view.size
    images = cast(DecodedImages, each.images)  # a method that learns in closed form takes no steps
    pixels = [torch.from_numpy(images[row][:size, :size].copy()) for row in range(len(images))]
    with torch.no_grad():
        features = method.backbone.encode_image(method.backbone.pixels(torch.stack(pixels).permute(0, 3, 1, 2)))
    return features, torch.from_numpy(each.images.labels)


def begin(method: Method, sets: list[TrainingSet]) -> None:
    """Begin a stage; what it draws at random depends on the stage alone, not on what was drawn before."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED + sets[0].info.index)
        for each in sets:
            method.begin_task(each.info)


def learn(method: Method, sets: list[TrainingSet], config: TrainingConfig | None = None) -> None:
    """One whole stage."""
    begin(method, sets)
    train(method, sets, config or recipe())
    method.end_task()


def put_back(
    method: Method,
    sets: list[TrainingSet],
    infos: list[TaskInfo],
    sealed: list[dict[str, Tensor]],
    start: dict[str, Tensor],
    working: dict[str, Tensor],
) -> None:
    """Bring a fresh method to where another stood within a stage, as an experiment does when it goes on.

    Args:
        method: the fresh one.
        sets: of the stage.
        infos: all tasks.
        sealed: of the tasks before the stage.
        start: `working_state` before the stage.
        working: `working_state` within it.
    """
    if method.needs_start:
        load_checked(method, infos[: sets[0].info.index], sealed, start)
        begin(method, sets)
    load_checked(method, infos[: sets[-1].info.index + 1], sealed, working)


@torch.no_grad()
def answers(method: Method, lessons: Lessons, learned: int) -> dict[tuple[str, int, int], Tensor]:
    """All a method says: (images or classes, route, task) → embeddings, on every route there is."""
    method.eval()
    routes = [ORIGINAL, *(range(learned) if method.routed else [0])]
    said: dict[tuple[str, int, int], Tensor] = {}
    for route in routes:
        for test in lessons.tests:
            said["images", route, test.info.index] = method.embed_all(test.data, route)
            said["classes", route, test.info.index] = method.classifier(test.info, route).clone()
    return said


@torch.no_grad()
def zero_shot(lessons: Lessons, test: TestSet) -> Tensor:
    """Logits of the original CLIP over all classes (N, C)."""
    bank = torch.cat([lessons.features.classes(info.class_names, info.templates) for info in lessons.infos])
    return lessons.backbone.logit_scale * F.normalize(lessons.features.images(test.data), dim=-1) @ bank.T


@torch.no_grad()
def judgment(method: Method, lessons: Lessons) -> dict[tuple[str, str, int], Tensor]:
    """p(c|x) of a method without routes: (task, task of the class, class) → (N,), over all classes."""
    method.eval()
    classes = [(info.index, label) for info in lessons.infos for label in range(len(info.class_names))]
    bank = torch.cat([method.classifier(info, 0) for info in lessons.infos])
    said: dict[tuple[str, str, int], Tensor] = {}
    for test in lessons.tests:
        images = method.embed_all(test.data, 0)
        logits = lessons.backbone.logit_scale * images @ bank.T
        every = {"all": range(len(classes))}
        p = method.posterior(images, logits, partial(zero_shot, lessons, test), classes, every)["all"]
        for (task, label), column in zip(classes, p.T, strict=True):
            said[test.info.name, lessons.infos[task].name, label] = column.clone()
    return said
