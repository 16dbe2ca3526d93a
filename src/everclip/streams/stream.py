"""What a stream is: ordered tasks and the protocol under which a learner is judged on them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from everclip.data import ImageSource, LabeledEmbeddings, Reduced, few_shot, split
from everclip.data.names import check_encodable
from everclip.errors import InputError

CANDIDATES = ("task", "seen", "all")
"""Candidate sets, from easiest to hardest; see `Protocol.candidates`."""


class Protocol(BaseModel):
    """Everything that makes two figures comparable, printed on every result."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    candidates: Literal["task", "seen", "all"] = Field(
        "task",
        description="classes an image is scored against: the tested set's own (task), those of all tasks learned so "
        "far and its own (seen), every class of the stream (all)",
    )
    routing: Literal["sample", "batch"] = Field(
        "sample", description="the selector decides image by image, or lets batches of 128 images of one set vote"
    )
    selector: str = Field("gaussian", description="what decides which task an image belongs to")
    shots: int | None = Field(None, ge=1, description="training images per class; all when empty")
    seed: int = Field(
        0, ge=0, lt=2**63, description="seed of splits, few-shot draws, batches, augmentation and initialization"
    )
    validation: float = Field(
        0.1, ge=0, lt=1, description="share of the training images of each class that is held out from training"
    )
    evaluate_on: Literal["test", "validation"] = Field(
        "test", description="images the accuracy is measured on; tune on validation, report on test"
    )
    templates: Literal["ensemble", "first"] = Field(
        "ensemble", description="evaluation prompts: mean over all templates of a task, or its first one only"
    )
    splits: Literal["torchvision", "coop"] | None = Field(
        None,
        description="published data sets as torchvision splits them (the default), or as the files of CoOp do; empty "
        "for other streams",
    )
    resolution: int | None = Field(
        None,
        ge=1,
        description="reduce all images to this short side first: a control of how much of the routing is resolution",
    )


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
Scenario = Literal["multi-domain", "class-incremental"]


@dataclass(frozen=True)
class Task:
    """A task with its data: training, held-out validation and test part.

    Attributes:
        few_shot_sha256: SHA-256 of the indices of the training images that were drawn from the data set; None without
            shots.
    """

    info: TaskInfo
    train: Split
    validation: Split
    test: Split
    few_shot_sha256: str | None = None

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
    """

    name: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    train: Split
    test: Split
    known_as: tuple[tuple[int, int], ...] = ()
    part_of: str = ""


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
    """

    name: str
    open: Callable[[list[str], Protocol, Path], list[Dataset]]
    holds: Literal["images", "embeddings"] = "images"
    scenario: Scenario = "multi-domain"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    wants: bool = True


@dataclass(frozen=True)
class Stream:
    """Ordered tasks.

    Attributes:
        kind: what the splits hold: images or precomputed embeddings.
        scenario: every task a domain of its own, or every task a step of one growing set of classes.
    """

    name: str
    kind: Literal["images", "embeddings"]
    tasks: tuple[Task, ...]
    scenario: Scenario = "multi-domain"

    @property
    def infos(self) -> list[TaskInfo]:
        """The tasks without their data."""
        return [task.info for task in self.tasks]


def build_stream(
    name: str,
    kind: Literal["images", "embeddings"],
    datasets: list[Dataset],
    protocol: Protocol,
    scenario: Scenario = "multi-domain",
) -> Stream:
    """Apply the protocol to data sets: cut the validation part, draw the shots, choose what is evaluated.

    The validation part is cut from the training images first (stratified, by the seed), so that a few-shot draw never
    shares an image with it and does not change it.

    Raises:
        InputError: no data set, two of one name, or nothing to evaluate on.
    """
    if not datasets:
        raise InputError(f"stream '{name}' names no data set.")
    for dataset_name, count in Counter(dataset.name for dataset in datasets).items():
        if count > 1:
            raise InputError(
                f"{count} data sets of the stream are called '{dataset_name}'; give them different names "
                '("name" in dataset.json).'
            )
    for dataset in datasets:
        check_encodable(dataset.name, f"stream '{kind}'")
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
            kept = kept[few_shot(dataset.train.labels[kept], protocol.shots, protocol.seed)]
            drawn = hashlib.sha256(kept.astype("<i8").tobytes()).hexdigest()
        templates = dataset.templates if protocol.templates == "ensemble" else dataset.templates[:1]
        info = TaskInfo(index, dataset.name, dataset.class_names, templates, dataset.known_as)
        train, validation = dataset.train.select(kept), dataset.train.select(held_out)
        test = dataset.test if protocol.evaluate_on == "test" else validation
        tasks.append(Task(info, train, validation, test, drawn))
    return Stream(name, kind, tuple(tasks), scenario)


def _reduced(dataset: Dataset, side: int) -> Dataset:
    if not (isinstance(dataset.train, ImageSource) and isinstance(dataset.test, ImageSource)):
        raise InputError(f"resolution={side} reduces images, but '{dataset.name}' holds embeddings; leave it out.")
    return replace(dataset, train=Reduced(dataset.train, side), test=Reduced(dataset.test, side))
