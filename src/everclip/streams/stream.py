"""What a stream is: ordered tasks and the protocol under which a learner is judged on them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from everclip.data import ImageSource, LabeledEmbeddings, Reduced, few_shot, plain_name, split
from everclip.data.names import task_name
from everclip.errors import InputError
from everclip.streams.protocol import CANDIDATES, HOW_CUT, SEEDS, Protocol

__all__ = [
    "CANDIDATES",
    "HOW_CUT",
    "SEEDS",
    "Dataset",
    "Holds",
    "Protocol",
    "Scenario",
    "Stream",
    "StreamKind",
    "Task",
    "TaskInfo",
    "as_one",
    "build_stream",
]


@dataclass(frozen=True)
class TaskInfo:
    """What a method may know of a task: its place, name, classes and prompts.

    Attributes:
        index: position in the stream, 0-based.
        name: unique within the stream.
        class_names: display names, label order.
        templates: prompt templates with one `{}` each; the first one is the training prompt.
        known_as: what identifies each class, if task and label do not; see `keys`.
    """

    index: int
    name: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    known_as: tuple[tuple[int, int], ...] = ()

    @property
    def keys(self) -> tuple[tuple[int, int], ...]:
        """What identifies each class, label order: (label space, number in it).

        Every task is a label space of its own, so a same-named class of another task is another class; the steps of
        one class-incremental data set share one, so a class that comes again with more images is the same.
        """
        return self.known_as or tuple((self.index, label) for label in range(len(self.class_names)))


Split = ImageSource | LabeledEmbeddings
Holds = Literal["images", "embeddings"]
Scenario = Literal["multi-domain", "class-incremental"]
SCENARIO_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "multi-domain": {},
    "class-incremental": {"candidates": "seen"},
}
"""Where the protocol of such a stream departs from the default one, unless the stream or its user says otherwise."""


@dataclass(frozen=True)
class Task:
    """A task with its data: training, held-out validation and test part.

    Attributes:
        few_shot_sha256: SHA-256 of the indices of the training images that were drawn from the data set; None without
            shots.
        said: what was left out of the data set, in a sentence.
    """

    info: TaskInfo
    train: Split
    validation: Split
    test: Split
    few_shot_sha256: str | None = None
    said: str = ""

    @property
    def name(self) -> str:
        """The task's name."""
        return self.info.name


@dataclass(frozen=True)
class Dataset:
    """A labeled data set before the protocol is applied to it: what a stream is built from.

    Attributes:
        known_as: see `TaskInfo.keys`.
        part_of: the data set that it was cut from, for the name of the stream.
        said: what was left out of it, in a sentence.
    """

    name: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    train: Split
    test: Split
    known_as: tuple[tuple[int, int], ...] = ()
    part_of: str = ""
    said: str = ""


@dataclass(frozen=True)
class StreamKind:
    """A way to make streams: what `KIND` stands for in `KIND:A,B,…`.

    Attributes:
        name: of the kind.
        open: arguments (the parts between commas), protocol, folder of the published data sets → data sets in order.
        holds: what the splits of these hold.
        scenario: what the tasks are to each other; it decides what Average and Last mean.
        defaults: where the protocol departs from the default one.
        wants: the stream must be given arguments.
        shuffles: it reads `order_seed`; where it does not, that one is refused.
    """

    name: str
    open: Callable[[list[str], Protocol, Path], list[Dataset]]
    holds: Holds = "images"
    scenario: Scenario = "multi-domain"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    wants: bool = True
    shuffles: bool = False

    def __post_init__(self) -> None:
        check_scenario(self.scenario, self.name)


@dataclass(frozen=True)
class Stream:
    """Ordered tasks. `Stream.of` makes one of data that a program holds.

    Attributes:
        kind: what the splits hold: images or precomputed embeddings.
        scenario: every task a domain of its own, or every task a step of one growing set of classes.
        protocol: under which its tasks were cut.
        uncut: the data sets as they are before a protocol is applied, so that another one may be; None where only the
            tasks are known.
    """

    name: str
    kind: Holds
    tasks: tuple[Task, ...]
    scenario: Scenario = "multi-domain"
    protocol: Protocol | None = None
    uncut: Callable[[Protocol], list[Dataset]] | None = None

    def __post_init__(self) -> None:
        check_scenario(self.scenario, self.name)

    @property
    def infos(self) -> list[TaskInfo]:
        """The tasks without their data."""
        return [task.info for task in self.tasks]

    @property
    def defaults(self) -> dict[str, Any]:
        """Where the protocol of this stream departs from the default one: by its scenario, and as it was made."""
        return {**SCENARIO_DEFAULTS[self.scenario], **(self.protocol.stated if self.protocol else {})}

    @staticmethod
    def of(
        tasks: Mapping[str, tuple[Any, Any]],
        name: str,
        scenario: Scenario = "multi-domain",
        class_names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        templates: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        protocol: Protocol | None = None,
        steps: int | None = None,
    ) -> Stream:
        """Make a stream of images or embeddings that a program holds.

        Training and test part of a task may each be

        * a list of (image, label) pairs; an image is a path, a PIL image or an array (H, W, 3) uint8,
        * a data set in the manner of torch and torchvision, which gives such a pair for every index,
        * a pair of arrays: images (N, H, W, 3) or (N, H, W) uint8 and labels (N,),
        * a pair of arrays: embeddings (N, D) of floating-point numbers and labels (N,),
        * a folder with a sub-folder per class.

        A label is a class name, or a number: the place of the class in `class_names`, else in what a data set lists as
        its `classes`. In a class-incremental stream a step has the classes of its training images, and classes of one
        name are one class; in a multi-domain stream a task has all that its list names, each a class of its own.

        Args:
            tasks: name → (train, test), in the order of learning.
            name: of the stream, under which its results are compared.
            scenario: what the tasks are to each other; it decides what Average and Last mean.
            class_names: of all tasks, or task → those of this task; needed where labels are numbers without names.
            templates: prompts with one `{}` each, of all tasks, or task → those of this task.
            protocol: what it states is part of the stream, and a run may not say otherwise. What it leaves out is up to
                the configuration of the run; without it, everything is.
            steps: cut the classes of the one task given into so many steps, shuffled by the order's seed.

        Raises:
            InputError: data that can't be read or don't fit together; it names the task.
        """
        from everclip.streams.own import own_stream  # which builds on this module

        return own_stream(tasks, name, scenario, class_names, templates, protocol, steps)

    def under(self, protocol: Protocol) -> Stream:
        """This stream with its tasks cut as a protocol says; each protocol is applied to the uncut data, so only once.

        Raises:
            InputError: the stream was made under another protocol, or it can't be cut as this one says.
        """
        held = self.protocol
        if held is None:
            raise InputError(
                f"stream '{self.name}' does not say under which protocol its tasks were cut; make it by Stream.of, or "
                "give it its protocol."
            )
        fixed = [name for name in HOW_CUT if self.uncut is None or name in held.model_fields_set]
        for name in fixed:
            ours, theirs = getattr(held, name), getattr(protocol, name)
            if ours != theirs:
                raise InputError(
                    f"stream '{self.name}' was made with {name}={ours}, but the configuration says {name}={theirs}; "
                    "leave it out of the configuration, or make the stream as that says."
                )
        if self.uncut is None:
            return self
        cut = build_stream(self.name, self.kind, self.uncut(protocol), protocol, self.scenario)
        return replace(cut, protocol=held, uncut=self.uncut)


def check_scenario(scenario: str, whose: str) -> None:
    """Refuse a scenario that nobody knows the figures of.

    Raises:
        InputError: it is none of `Scenario`.
    """
    if scenario not in get_args(Scenario):
        raise InputError(
            f"stream '{whose}' calls its scenario '{scenario}'; it is {' or '.join(get_args(Scenario))}, which decides "
            "what Average and Last are."
        )


def as_one(steps: Sequence[Dataset]) -> list[Dataset]:
    """Give the steps one label space: a class of a name that an earlier step has is that class, with more images.

    Names are compared by `plain_name`, as everywhere; a class is called as it was called first.
    """
    numbers: dict[str, int] = {}
    called: list[str] = []
    joined = []
    for step in steps:
        own = []
        for name in step.class_names:
            own.append(numbers.setdefault(plain_name(name), len(called)))
            called += [name] * (own[-1] == len(called))
        names = tuple(called[number] for number in own)
        joined.append(replace(step, class_names=names, known_as=tuple((0, number) for number in own)))
    return joined


def build_stream(
    name: str,
    kind: Holds,
    datasets: list[Dataset],
    protocol: Protocol,
    scenario: Scenario = "multi-domain",
) -> Stream:
    """Apply the protocol to data sets: cut the validation part, draw the shots, choose what is evaluated.

    The validation part is cut from the training images first (stratified, by the seed), so that a few-shot draw never
    shares an image with it and does not change it. The steps of a class-incremental stream whose classes are not told
    apart yet (`Dataset.known_as`) are joined by `as_one`.

    Raises:
        InputError: no data set, two of one name, one that does not hold what it should, or nothing to evaluate on.
    """
    check_scenario(scenario, name)
    if not datasets:
        raise InputError(f"stream '{name}' names no data set.")
    datasets = [replace(dataset, name=task_name(dataset.name, f"stream '{kind}'")) for dataset in datasets]
    for dataset_name, count in Counter(dataset.name for dataset in datasets).items():
        if count > 1:
            raise InputError(
                f"{count} data sets of the stream are called '{dataset_name}'; give them different names "
                '("name" in dataset.json).'
            )
    for dataset in datasets:
        _check_splits(dataset, kind)
    if scenario == "class-incremental" and not all(dataset.known_as for dataset in datasets):
        datasets = as_one(datasets)
    if protocol.evaluate_on == "validation" and protocol.validation == 0:
        raise InputError("evaluate_on=validation needs held-out images, but validation=0; set validation=0.1, say.")
    if protocol.resolution is not None:
        datasets = [_reduced(dataset, protocol.resolution) for dataset in datasets]
    tasks = []
    for index, dataset in enumerate(datasets):
        kept, held_out = split(dataset.train.labels, protocol.validation, protocol.seed)
        if protocol.evaluate_on == "validation" and len(held_out) == 0:
            raise InputError(f"'{dataset.name}' has too few training images to hold any out for validation.")
        drawn = None
        if protocol.shots is not None:
            kept = kept[few_shot(dataset.train.labels[kept], protocol.shots, protocol.seed_of("shots"))]
            drawn = hashlib.sha256(kept.astype("<i8").tobytes()).hexdigest()
        templates = dataset.templates if protocol.templates == "ensemble" else dataset.templates[:1]
        info = TaskInfo(index, dataset.name, dataset.class_names, templates, dataset.known_as)
        train, validation = dataset.train.select(kept), dataset.train.select(held_out)
        test = dataset.test if protocol.evaluate_on == "test" else validation
        tasks.append(Task(info, train, validation, test, drawn, dataset.said))
    return Stream(name, kind, tuple(tasks), scenario, protocol)


def _check_splits(dataset: Dataset, kind: Holds) -> None:
    """What a stream of somebody else gives may be anything."""
    for part in (dataset.train, dataset.test):
        if not isinstance(part, ImageSource if kind == "images" else LabeledEmbeddings):
            raise InputError(
                f"'{dataset.name}' holds {type(part).__name__} where its stream says it holds {kind}; give "
                f"{'an ImageSource' if kind == 'images' else 'LabeledEmbeddings'}."
            )
        outside = (part.labels < 0) | (part.labels >= len(dataset.class_names))
        if outside.any():
            raise InputError(
                f"'{dataset.name}' has the label {part.labels[np.argmax(outside)]}, but its {len(dataset.class_names)} "
                f"classes have the labels 0 to {len(dataset.class_names) - 1}."
            )
    for part, use in ((dataset.train, "to learn from"), (dataset.test, "to judge on")):
        if not len(part):
            raise InputError(
                f"'{dataset.name}' has no image {use}: a class of one image gives it to the training part; add more "
                "images, or a test part, or leave the data set out."
            )


def _reduced(dataset: Dataset, side: int) -> Dataset:
    if not (isinstance(dataset.train, ImageSource) and isinstance(dataset.test, ImageSource)):
        raise InputError(f"resolution={side} reduces images, but '{dataset.name}' holds embeddings; leave it out.")
    return replace(dataset, train=Reduced(dataset.train, side), test=Reduced(dataset.test, side))
