"""A stream's images in the forms that learning and judging need: cached, and with bad images reported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeVar, cast, overload

from everclip.data import (
    BadImage,
    DecodedImages,
    Images,
    ImageSource,
    LabeledEmbeddings,
    View,
    ViewedImages,
    cache_key,
    content_key,
    decoded,
    viewed,
)
from everclip.engine.evaluation import TestSet
from everclip.errors import InputError
from everclip.storage.identity import Identity
from everclip.streams import Task
from everclip.system.display import Display

Decoded = TypeVar("Decoded", bound=Images)

TRAINING_IMAGE_SCALE = 2
"""Decoded training images are kept at up to this many times the tower's input size: enough for every crop."""


class Material:
    """Decodes images for one backbone.

    Args:
        view: the backbone's evaluation view.
        workers: threads that decode.
        display: shows progress, and how many images were skipped.
    """

    def __init__(self, view: View, workers: int, display: Display) -> None:
        self.view = view
        self.workers = workers
        self.display = display

    @overload
    def viewed(self, split: ImageSource, what: str) -> ViewedImages: ...

    @overload
    def viewed(self, split: ImageSource | LabeledEmbeddings, what: str) -> ViewedImages | LabeledEmbeddings: ...

    def viewed(self, split: ImageSource | LabeledEmbeddings, what: str) -> ViewedImages | LabeledEmbeddings:
        """Images under the evaluation view; embeddings as they are. `what` names them on the screen."""
        if isinstance(split, LabeledEmbeddings):
            return split
        with self.display.bar(what) as bar:
            images = viewed(split, self.view, self.workers, bar)
        return self._told(images, what)

    def decoded(self, split: ImageSource, what: str) -> DecodedImages:
        """Images to be augmented."""
        with self.display.bar(what) as bar:
            images = decoded(split, TRAINING_IMAGE_SCALE * self.view.size, self.workers, bar)
        return self._told(images, what)

    def _told(self, images: Decoded, what: str) -> Decoded:
        if images.skipped:
            name, reason = images.skipped[0]
            self.display.note(f"{what}: {len(images.skipped)} skipped, the first is {name}: {reason}")
        return images

    def content(self, split: ImageSource | LabeledEmbeddings) -> str:
        """What images or embeddings are, wherever they lie; every file is read."""
        return split.content if isinstance(split, LabeledEmbeddings) else content_key(split, self.workers)

    @staticmethod
    def require_training_images(tasks: Sequence[Task]) -> None:
        """Find a task of a stream of images without a single good training image now, not hours later.

        Raises:
            InputError: there is one.
        """
        for task in tasks:
            problem, train = None, cast(ImageSource, task.train)
            for index in range(len(train)):
                try:
                    train.decode(index)
                    break
                except BadImage as error:
                    problem = problem or error
            else:
                raise InputError(
                    f"none of the {len(task.train)} training images of '{task.name}' can be used (the first, "
                    f"{problem}); repair them or leave the task out."
                )


def data_identity(tasks: Sequence[Task], tests: Sequence[TestSet]) -> Identity:
    """What rows of one run must share: classes, prompts, labels, and the test images themselves.

    Images are known by the bytes of their files: not by where they lie, nor by what a library decodes them to.
    """
    facts = [
        {
            "name": task.name,
            "class_names": task.info.class_names,
            "templates": task.info.templates,
            "known_as": task.info.known_as,
            "test": test.data.content,
            "test_labels": test.data.labels.tolist(),
            "train_labels": task.train.labels.tolist(),
        }
        for task, test in zip(tasks, tests, strict=True)
    ]
    return Identity(cache_key(json.dumps(facts, sort_keys=True)), lambda: [_former_data_digest(tasks, tests)])


def _former_data_digest(tasks: Sequence[Task], tests: Sequence[TestSet]) -> str:
    """What EverCLIP 0.1 wrote: of decoded pixels, and of `TaskInfo` as Python printed it."""
    parts = []
    for task, test in zip(tasks, tests, strict=True):
        info = task.info
        printed = (
            f"TaskInfo(index={info.index!r}, name={info.name!r}, class_names={info.class_names!r}, "
            f"templates={info.templates!r}, known_as={info.known_as!r})"
        )
        content = test.data.key if isinstance(test.data, Images) else cache_key(test.data.embeddings.tolist())
        parts += [printed, content, repr(test.data.labels.tolist()), repr(task.train.labels.tolist())]
    return cache_key(*parts)


def reference_identity(images: Images | None, weights: str, texts: Sequence[str]) -> Identity:
    """What a method and a selector look at besides the stream; the digest is empty where that is nothing.

    Args:
        images: the reference images.
        weights: digest of the weights that the selector needs besides the backbone's; empty where it needs none.
        texts: the reference texts.
    """

    def digest(content: str) -> str:
        parts = [content, weights, *texts]
        return cache_key(*parts) if any(parts) else ""

    if images is None:
        return Identity(digest(""))
    return Identity(digest(images.content), lambda: [digest(images.key)])
