"""A stream's images in the forms that learning and judging need: cached, and with bad images reported."""

from __future__ import annotations

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
    decoded,
    viewed,
)
from everclip.engine.evaluation import TestSet
from everclip.errors import InputError
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


def data_digest(tasks: Sequence[Task], tests: Sequence[TestSet]) -> str:
    """What rows of one run must share: classes, prompts, labels, and the test images themselves."""
    parts = []
    for task, test in zip(tasks, tests, strict=True):
        content = test.data.key if isinstance(test.data, Images) else cache_key(test.data.embeddings.tolist())
        parts += [repr(task.info), content, repr(test.data.labels.tolist()), repr(task.train.labels.tolist())]
    return cache_key(*parts)
