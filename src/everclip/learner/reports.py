"""What a learner hands back."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Prediction:
    """What is on an image.

    Attributes:
        label: the most probable candidate. None: no labels were given, and the image more likely than not shows nothing
            that was learned.
        probability: of that label in that task, 0 to 1.
        task: the label's; `zero-shot` for a label that was never learned, and for None.
        route_confidence: the probability of that task, 0 to 1: the sum over its candidates.
        top: (label, probability, task) of the most probable candidates, most probable first. A None comes first only if
            it is the answer.
    """

    label: str | None
    probability: float
    task: str
    route_confidence: float
    top: list[tuple[str | None, float, str]]


@dataclass(frozen=True)
class LearnedTask:
    """A task as the user of the learner sees it.

    Attributes:
        name: what it was called.
        class_names: all it knows, in the order in which they came.
        images: images that could be used, in all its increments.
        increments: how often it was learned.
    """

    name: str
    class_names: tuple[str, ...]
    images: int
    increments: int


@dataclass(frozen=True)
class LearnReport:
    """What one lesson did.

    Attributes:
        task: its name.
        images: images that were used; `held_out` of them were not learned from, to measure with.
        held_out: see `images`.
        skipped: (name, reason) of every image that could not be used.
        new_classes: classes that the task did not have.
        known_classes: classes that got more images.
        moved: how many held-out images of earlier lessons another task, or the original CLIP, answers for now, out of
            `watched`. This is decided on their frozen embeddings: by the route of a method with routes, else by the
            answer.
        watched: see `moved`.
        accuracy: task → percent right on its held-out images, all learned classes being candidates; None where it
            could not be measured.
        seconds: wall-clock time.
        left_out: kind → files that are no images of a class, `.mov` → 38.
        said: the same and how names were taken, in a sentence; empty where there is nothing to say.
    """

    task: str
    images: int
    held_out: int
    skipped: list[tuple[str, str]]
    new_classes: tuple[str, ...]
    known_classes: tuple[str, ...]
    moved: int
    watched: int
    accuracy: dict[str, float | None]
    seconds: float
    left_out: dict[str, int] = field(default_factory=dict)
    said: str = ""


@dataclass(frozen=True)
class ForgetReport:
    """What is gone.

    Attributes:
        task: its name.
        class_names: classes that are no longer known in it.
        exact: the answers are those of a learner that never learned the task.
        note: the same in a sentence.
    """

    task: str
    class_names: tuple[str, ...]
    exact: bool
    note: str


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        path: of the graph.
        bytes: of the graph and its weights.
        columns: (label, task) of each column of the probabilities.
        open: there is one more column, for nothing that was learned.
        compared: images on which graph and learner were compared.
        difference: the largest one found.
    """

    path: str
    bytes: int
    columns: list[tuple[str, str]]
    open: bool
    compared: int
    difference: float


@dataclass(frozen=True)
class Evaluation:
    """How well labeled images are answered. A class of the right name counts as right, whatever its task.

    Attributes:
        images: N, those that could be used.
        accuracy: percent right.
        interval: 95 % interval of the accuracy (Wilson), percent.
        per_class: class → (right, images).
        skipped: (name, reason) of every image that could not be used.
        left_out, said: see `LearnReport`.
    """

    images: int
    accuracy: float
    interval: tuple[float, float]
    per_class: dict[str, tuple[int, int]]
    skipped: list[tuple[str, str]]
    left_out: dict[str, int] = field(default_factory=dict)
    said: str = ""
