"""The laws of streams: what every one holds, wherever its data come from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from everclip.data import BadImage, ImageSource, LabeledEmbeddings
from everclip.streams import Stream, Task
from everclip.streams.stream import Split
from everclip.testing.laws import expect, kept_laws


def check_stream(stream: Stream) -> tuple[str, ...]:
    """Hold a stream to its contract: look at its tasks and at one image of each part, by every law of `STREAM_LAWS`.

    Returns:
        The names of the laws that it keeps.

    Raises:
        LawBroken: it breaks one; says which, and what was seen.
    """
    return kept_laws(STREAM_LAWS, f"stream '{stream.name}'", stream)


def tasks_are_in_order(stream: Stream) -> None:
    """Tasks count from 0, and no two have one name."""
    expect(stream.tasks, "it has a task")
    expect([task.info.index for task in stream.tasks] == list(range(len(stream.tasks))), "tasks count from 0")
    names = [task.name for task in stream.tasks]
    expect(len(set(names)) == len(names), f"every task has a name of its own, not {names}")


def classes_can_be_asked_for(stream: Stream) -> None:
    """Class names are texts, templates have a place for one, and each class is known by one key."""
    for task in stream.tasks:
        info = task.info
        expect(info.class_names and all(name.strip() for name in info.class_names), f"'{info.name}' names its classes")
        whole = info.templates and all(template.count("{}") == 1 for template in info.templates)
        expect(whole, f"every template of '{info.name}' has one {{}}")
        expect(len(info.keys) == len(info.class_names), f"every class of '{info.name}' has a key")
        expect(len(set(info.keys)) == len(info.keys), f"no two classes of '{info.name}' have one key")


def keys_fit_the_scenario(stream: Stream) -> None:
    """Domains share no class; a class that comes again in a later step has the same name there."""
    known: dict[tuple[int, int], str] = {}
    for task in stream.tasks:
        if stream.scenario == "multi-domain":
            again = known.keys() & set(task.info.keys)
            expect(not again, f"'{task.name}' is a domain of its own, but shares classes {again} with an earlier one")
        for key, name in zip(task.info.keys, task.info.class_names, strict=True):
            expect(known.setdefault(key, name) == name, f"class {key} is '{known[key]}' first and '{name}' later")


def splits_hold_what_the_stream_says(stream: Stream) -> None:
    """Every part holds images, or embeddings, with labels of the task's classes; none is empty but the held-out one."""
    holds = ImageSource if stream.kind == "images" else LabeledEmbeddings
    for task in stream.tasks:
        for part, data in _parts(task).items():
            where = f"the {part} part of '{task.name}'"
            expect(isinstance(data, holds), f"{where} holds {stream.kind}, not a {type(data).__name__}")
            labels = np.asarray(data.labels)
            expect(labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer), f"{where} has whole numbers as labels")
            expect(len(labels) == len(data), f"{where} has as many labels as images")
            expect(len(labels) or part == "validation", f"{where} is not empty")
            inside = len(labels) == 0 or 0 <= labels.min() <= labels.max() < len(task.info.class_names)
            expect(inside, f"labels of {where} are places in its {len(task.info.class_names)} class names")


def parts_are_apart(stream: Stream) -> None:
    """No image is both learned and held out, or both learned and tested, as far as its name tells."""
    for task in stream.tasks:
        if isinstance(task.train, ImageSource):
            learned = {task.train.name(index) for index in range(len(task.train))}
            for part, data in (("validation", task.validation), ("test", task.test)):
                assert isinstance(data, ImageSource)
                both = learned & {data.name(index) for index in range(len(data))}
                expect(not both, f"'{task.name}' learns {min(both, default='')} and has it in the {part} part too")


def images_can_be_read(stream: Stream) -> None:
    """The first image of every part is RGB of 8 bits; embeddings are finite numbers of one width."""
    widths = set()
    for task in stream.tasks:
        for part, data in _parts(task).items():
            where = f"the {part} part of '{task.name}'"
            if isinstance(data, LabeledEmbeddings):
                expect(np.isfinite(data.embeddings).all(), f"the embeddings of {where} are finite")
                widths.add(data.embeddings.shape[1])
            elif len(data):
                try:
                    pixels = np.asarray(data.decode(0))
                except BadImage as bad:
                    expect(False, f"the first image of {where} can be read ({bad})")
                    return
                expect(
                    pixels.ndim == 3 and pixels.shape[2] == 3, f"images of {where} are (H, W, 3), not {pixels.shape}"
                )
                expect(pixels.dtype == np.uint8, f"images of {where} are uint8, not {pixels.dtype}")
    expect(len(widths) <= 1, f"all embeddings have one width, not {sorted(widths)}")


def a_selection_is_a_part(stream: Stream) -> None:
    """`select` gives the chosen items with their labels, in the order asked for."""
    for task in stream.tasks:
        for part, data in _parts(task).items():
            rows = np.arange(len(data))[::-2]
            chosen = data.select(rows)
            same = np.array_equal(np.asarray(chosen.labels), np.asarray(data.labels)[rows])
            expect(same, f"labels stay with their items in the {part} part of '{task.name}'")


def _parts(task: Task) -> dict[str, Split]:
    return {"training": task.train, "validation": task.validation, "test": task.test}


STREAM_LAWS: tuple[Callable[[Stream], None], ...] = (
    tasks_are_in_order,
    classes_can_be_asked_for,
    keys_fit_the_scenario,
    splits_hold_what_the_stream_says,
    parts_are_apart,
    images_can_be_read,
    a_selection_is_a_part,
)
"""What a stream must be."""
