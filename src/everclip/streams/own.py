"""Streams of data that a program holds: what `Stream.of` makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from everclip.data import (
    DEFAULT_TEMPLATES,
    How,
    ImageSource,
    check_encodable,
    check_templates,
    labeled_embeddings,
    plain_name,
    read,
    task_name,
)
from everclip.data.given import is_pair_of_arrays, listed_classes
from everclip.data.labels import among, checked_names, read_labels
from everclip.errors import InputError
from everclip.streams.class_incremental import in_steps
from everclip.streams.protocol import Protocol
from everclip.streams.published import PUBLISHED_STREAMS
from everclip.streams.stream import (
    SCENARIO_DEFAULTS,
    Dataset,
    Holds,
    Scenario,
    Split,
    Stream,
    build_stream,
    check_scenario,
)

PerTask = Sequence[str] | Mapping[str, Sequence[str]] | None
"""Of all tasks, or of each by its name."""


def own_stream(
    tasks: Mapping[str, tuple[Any, Any]],
    name: str,
    scenario: Scenario,
    class_names: PerTask,
    templates: PerTask,
    protocol: Protocol | None,
    steps: int | None,
) -> Stream:
    """See `Stream.of`."""
    check_scenario(scenario, name)
    _check_name(name)
    if not isinstance(tasks, Mapping) or not tasks:
        raise InputError(f"stream '{name}' names no task; give a dictionary: task name → (train, test).")
    if steps is not None and (scenario != "class-incremental" or len(tasks) != 1):
        raise InputError(
            f"stream '{name}' has {len(tasks)} task(s) and is {scenario}; steps={steps} cuts the one task of a "
            "class-incremental stream."
        )
    _check_tasks(class_names, "class_names", tasks)
    _check_tasks(templates, "templates", tasks)
    datasets = [
        own_dataset(task, parts, _of(class_names, task), _of(templates, task), scenario)
        for task, parts in tasks.items()
    ]
    held = [_holds(dataset) for dataset in datasets]
    if len(set(held)) > 1:
        raise InputError(
            f"stream '{name}' mixes images and embeddings ('{datasets[0].name}' holds {held[0]}); give one kind."
        )

    def uncut(under: Protocol) -> list[Dataset]:
        if under.splits is not None:
            raise InputError(
                f"splits={under.splits} is for published data sets, but stream '{name}' has none; leave it out."
            )
        if steps is not None:
            return in_steps(datasets[0], steps, under.seed_of("order"))
        if under.order_seed is not None:
            raise InputError(
                f"order_seed={under.order_seed} shuffles the classes of a stream that is cut by steps, but the order "
                f"of '{name}' is as it was given; leave it out."
            )
        return datasets

    stated = protocol or Protocol()
    usual = Protocol(**{**SCENARIO_DEFAULTS[scenario], **stated.stated})
    stream = build_stream(name, held[0], uncut(usual), usual, scenario)
    return replace(stream, protocol=stated, uncut=uncut)


def own_dataset(
    name: str,
    parts: tuple[Any, Any],
    class_names: Sequence[str] | None,
    templates: Sequence[str] | None,
    scenario: Scenario,
) -> Dataset:
    """One task of `Stream.of`."""
    if not (isinstance(parts, tuple | list) and len(parts) == 2):
        raise InputError(f"task '{name}' must be a pair (train, test).")
    name = task_name(str(name), "the stream")
    try:
        dataset = _read(name, parts[0], parts[1], class_names, templates)
    except InputError as error:
        raise InputError(f"task '{name}': {error}") from error
    return _with_present_classes(dataset, scenario)


def _read(
    name: str, train: Any, test: Any, class_names: Sequence[str] | None, templates: Sequence[str] | None
) -> Dataset:
    renamed = None
    if class_names is not None:
        class_names = checked_names(class_names, "the task")
        if _renames(train, class_names):
            class_names, renamed = None, class_names
    learned, names, own_templates, said = _part(train, "train", class_names, name)
    tested, _, _, also = _part(test, "test", names, name)
    if isinstance(learned, ImageSource) != isinstance(tested, ImageSource):
        raise InputError("one of train and test holds images and the other embeddings; give one kind.")
    if not isinstance(learned, ImageSource) and not isinstance(tested, ImageSource):
        widths = [part.embeddings.shape[1] for part in (learned, tested)]
        if widths[0] != widths[1]:
            raise InputError(f"embeddings have {widths[0]} columns in train and {widths[1]} in test; use one model.")
    if isinstance(templates, str):
        raise InputError(f"templates must be a list, such as [{templates!r}].")
    chosen = tuple(templates) if templates is not None else own_templates or DEFAULT_TEMPLATES
    check_templates(chosen, "it")
    return Dataset(name, renamed or names, chosen, learned, tested, said="; ".join(filter(None, (said, also))))


def _renames(given: Any, class_names: tuple[str, ...]) -> bool:
    """Whether names are given to the numbers of a data set that lists others: one for each, in its order."""
    listed = listed_classes(given)
    if listed is None:
        return False
    place = {plain_name(name): index for index, name in enumerate(class_names)}
    found = [place.get(plain_name(name)) for name in listed]
    if None not in found:
        return False
    if len(listed) != len(class_names) or any(at not in (None, index) for index, at in enumerate(found)):
        raise InputError(
            f"class_names lists {len(class_names)} names, but the data set has {len(listed)} classes of its own, "
            f"{', '.join(listed)}; give one name for each of them, in this order, or leave class_names out."
        )
    return True


def _part(
    given: Any, part: Literal["train", "test"], class_names: Sequence[str] | None, task: str
) -> tuple[Split, tuple[str, ...], tuple[str, ...] | None, str]:
    """One part of a task, the class names that its labels count, the templates it came with, what was left out."""
    if is_pair_of_arrays(given) and given[0].ndim == 2:
        where = f"{part} embeddings"
        labels, names, _ = among(read_labels(given[1], where), class_names, where)
        return labeled_embeddings(given[0], labels, len(names), part), names, None, ""
    found = read(given, How(f"{task}/{part}/"), class_names)
    images = found.to_learn() if part == "train" else found.to_judge()
    return images.source, images.class_names, images.templates, found.said_in_full


def _with_present_classes(dataset: Dataset, scenario: Scenario) -> Dataset:
    """A step has the classes of its training images; a domain has all that its list names, with an image of each."""
    names = dataset.class_names
    present = np.bincount(dataset.train.labels, minlength=len(names)) > 0
    untaught = np.flatnonzero(~present[dataset.test.labels])
    if len(untaught):
        name = names[int(dataset.test.labels[untaught[0]])]
        raise InputError(
            f"task '{dataset.name}' is tested on the class {name!r}, of which it has no training image; add some, or "
            "leave these test images out."
        )
    if present.all():
        if scenario == "multi-domain" and len(names) < 2:
            raise InputError(f"task '{dataset.name}' has one class, but learning needs at least two; add another.")
        return dataset
    if scenario == "multi-domain":
        missing = names[int(np.argmin(present))]
        raise InputError(
            f"task '{dataset.name}' has no training image of the class {missing!r}; add some, or leave the class out."
        )
    place = np.cumsum(present) - 1
    parts = {}
    for part in ("train", "test"):
        split = getattr(dataset, part)
        parts[part] = split.select(np.arange(len(split)), place[split.labels])
    return replace(dataset, class_names=tuple(np.array(names, dtype=object)[present]), **parts)


def _holds(dataset: Dataset) -> Holds:
    return "images" if isinstance(dataset.train, ImageSource) else "embeddings"


def _of(given: PerTask, task: str) -> Sequence[str] | None:
    return given.get(task) if isinstance(given, Mapping) else given


def _check_tasks(given: PerTask, what: str, tasks: Mapping[str, Any]) -> None:
    if isinstance(given, str):
        raise InputError(f"{what} must be a list, such as [{given!r}].")
    for task in given if isinstance(given, Mapping) else ():
        if task not in tasks:
            raise InputError(f"{what} names the task '{task}', which is none of {', '.join(map(str, tasks))}.")


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name.strip() or ":" in name:
        raise InputError(f"a stream can't be called {name!r}; give it a name without a colon.")
    check_encodable(name, "the stream")
    if name in PUBLISHED_STREAMS:
        raise InputError(f"stream '{name}' has the name of a published benchmark; give it another one.")
