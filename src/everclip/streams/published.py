"""The published benchmarks as streams: which data sets, in which order, under which protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from everclip.data.published import PUBLISHED, Published, open_published
from everclip.errors import InputError
from everclip.streams.class_incremental import cut
from everclip.streams.stream import Dataset, Protocol, Scenario

MTIL_1 = (
    "aircraft", "caltech101", "cifar100", "dtd", "eurosat", "flowers102", "food101", "mnist", "oxford_pets",
    "stanford_cars", "sun397",
)  # fmt: skip
MTIL_2 = (
    "stanford_cars", "food101", "mnist", "oxford_pets", "flowers102", "sun397", "aircraft", "caltech101", "dtd",
    "eurosat", "cifar100",
)  # fmt: skip
XTAIL_1 = tuple(name for name in MTIL_1 if name != "cifar100")
XTAIL_2 = (
    "stanford_cars", "aircraft", "oxford_pets", "food101", "sun397", "mnist", "flowers102", "dtd", "caltech101",
    "eurosat",
)  # fmt: skip

GROUPS = {
    "mtil": MTIL_1,
    "xtail": XTAIL_1,
    "cil": ("cifar100", "tinyimagenet", "imagenet", "imagenet-r", "cub200"),
}
"""The data sets of a benchmark, by the name of it."""


@dataclass(frozen=True)
class PublishedStream:
    """A benchmark.

    Attributes:
        defaults: the settings in which its protocol departs from the default one.
        datasets: opens its tasks, given the protocol and the folder of all data sets.
    """

    scenario: Scenario
    defaults: Mapping[str, Any]
    datasets: Callable[[Protocol, Path], list[Dataset]]


def opened(published: Published, protocol: Protocol, root: Path) -> Dataset:
    """A data set of the folder of all data sets, under the split that the protocol names."""
    data = open_published(published, root, protocol.splits or "torchvision")
    return Dataset(data.name, data.class_names, data.templates, data.train, data.test)


def _domains(names: Sequence[str], **defaults: Any) -> PublishedStream:
    """One task per data set."""

    def datasets(protocol: Protocol, root: Path) -> list[Dataset]:
        return [opened(PUBLISHED[name], protocol, root) for name in names]

    return PublishedStream("multi-domain", {"validation": 0.0, "splits": "torchvision", **defaults}, datasets)


def _steps(name: str, steps: int, template: str, base: int = 0, **changed: Any) -> PublishedStream:
    """Steps of one data set, all of the same size after a first one of `base` classes; prompts of one template."""
    published = replace(PUBLISHED[name], templates=(template,), **changed)

    def datasets(protocol: Protocol, root: Path) -> list[Dataset]:
        dataset = opened(published, protocol, root)
        if len(dataset.class_names) != published.classes:
            raise InputError(
                f"data set '{name}' in {root / name} has {len(dataset.class_names)} classes, but its order of classes "
                f"is for {published.classes}; complete it as `everclip data prepare {name} --root {root}` says."
            )
        order = _class_order(published)
        first = [order[:base]] if base else []
        return cut(dataset, [*first, *np.split(order[base:], steps)])

    return PublishedStream("class-incremental", {"candidates": "seen", "validation": 0.0}, datasets)


def _class_order(published: Published) -> np.ndarray:
    """The labels in the order of learning: a published list, else the permutation of numpy's seed 1993."""
    listed = json.loads((files("everclip.streams") / "class_orders.json").read_text(encoding="utf-8"))
    if published.name in listed:
        return np.array(listed[published.name])
    return np.random.RandomState(1993).permutation(published.classes)


_BAD, _GOOD, _PLAIN = "a bad photo of a {}.", "a good photo of a {}.", "a photo of a {}."

PUBLISHED_STREAMS: dict[str, PublishedStream] = {
    "mtil-1": _domains(MTIL_1),
    "mtil-2": _domains(MTIL_2),
    "xtail-1": _domains(XTAIL_1, candidates="all", shots=16, templates="first"),
    "xtail-2": _domains(XTAIL_2, candidates="all", shots=16, templates="first"),
    **{f"cifar100-{steps}": _steps("cifar100", steps, _BAD, spaced=False) for steps in (10, 20, 50)},
    **{f"tinyimagenet-{steps}": _steps("tinyimagenet", steps, _BAD, base=100) for steps in (5, 10, 20)},
    "imagenet-10": _steps("imagenet", 10, _GOOD),
    "imagenet-r-10": _steps("imagenet-r", 10, _PLAIN),
    "cub200-10": _steps("cub200", 10, _PLAIN),
}
"""Every published stream by name."""
