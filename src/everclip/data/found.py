"""What a reader hands over, and what the front door makes of it: images, each with its class and its part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from everclip.data.labels import Labels, among
from everclip.data.layout import PART_ORDER, Part, left_out_of
from everclip.data.names import shown_name
from everclip.data.source import ImageSource
from everclip.errors import InputError

PARTS_TO_LEARN: tuple[Part, ...] = ("train",)
PARTS_TO_JUDGE: tuple[Part, ...] = ("test", "valid")
"""In order of preference: a data set that has both is judged on `test`."""


@dataclass(frozen=True)
class Listed:
    """What a reader hands over: N images as they lie in a source, in the order in which messages count them.

    Attributes:
        images: N images that are not decoded yet; their labels are not looked at.
        said: what the source says of their classes, as `labels.read_labels` gives it: places in a list of names, which
            need be neither shown names nor distinct; None for a list that does not exist.
        where: what messages call the source.
        parts: N parts, where the source is divided.
        left_out: kind → how many things of the source are none of the images, `.mov` → 38; see `layout.left_out_of`.
        broken: (name, reason) of what was to be an image but has no label that can be read: a line of a table, say.
        name: what the source calls itself.
        templates: prompts that came with it.
        renamed: name of a class as `said` has it → what somebody wrote down for it to be shown as, to the letter.
        empty: names of classes that were found without an image.
        read_as: how the source was understood, in a few words.
    """

    images: ImageSource
    said: Labels
    where: str
    parts: Sequence[Part | None] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    broken: Sequence[tuple[str, str]] = ()
    name: str = ""
    templates: tuple[str, ...] | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    empty: Sequence[str] = ()
    read_as: str = ""


class Entry(NamedTuple):
    """One image of a source.

    Attributes:
        image: where it is among `Found.images`, which decodes it.
        class_name: as it is shown.
        part: None where the source is not divided.
        origin: what messages call the image.
    """

    image: int
    class_name: str
    part: Part | None
    origin: str


@dataclass(frozen=True)
class LabeledImages:
    """Images with names for their labels: what is learned, or judged on.

    Attributes:
        source: the images; `labels` index `class_names`.
        class_names: no two equal by `plain_name`.
        templates: prompt templates, where the images came with some.
    """

    source: ImageSource
    class_names: tuple[str, ...]
    templates: tuple[str, ...] | None


@dataclass(frozen=True)
class Found:
    """What a source holds, read by the one rule.

    Attributes:
        images: N images that are not decoded yet; `labels` (N,) index `class_names`.
        class_names: as they are shown, no two equal by `plain_name`; those of the training part come first.
        parts: N parts; None for images of a source, or a row of a table, that names no part.
        left_out, broken, name, templates, where, empty, read_as: see `Listed`.
        spellings: shown name → how the source spells it, where it does so in several ways.
        fixed: the class names were asked for: all of them are meant, with images or without.
    """

    images: ImageSource
    class_names: tuple[str, ...]
    parts: tuple[Part | None, ...]
    left_out: Counter[str]
    broken: tuple[tuple[str, str], ...]
    name: str
    templates: tuple[str, ...] | None
    where: str
    empty: tuple[str, ...] = ()
    spellings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fixed: bool = False
    read_as: str = ""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def entries(self) -> Iterator[Entry]:
        """Image by image."""
        for row, (label, part) in enumerate(zip(self.images.labels.tolist(), self.parts, strict=True)):
            yield Entry(row, self.class_names[label], part, self.images.name(row))

    @property
    def divided(self) -> bool:
        """Whether the source names parts."""
        return any(self.parts)

    def has(self, part: Part) -> bool:
        """Whether there is an image of this part."""
        return part in self.parts

    @property
    def said(self) -> str:
        """What was left out and how spellings were taken, in a sentence; empty where there is nothing to say."""
        facts = [left_out_of(self.left_out)] if self.left_out else []
        if self.empty:
            facts.append(f"no image of {', '.join(self.empty)}")
        facts += [f"{' and '.join(map(repr, ways))} are one class" for ways in self.spellings.values()]
        return "; ".join(facts)

    @property
    def said_in_full(self) -> str:
        """The same with what is broken, for doors that do not name every image that is skipped."""
        if not self.broken:
            return self.said
        name, reason = self.broken[0]
        skipped = f"{len(self.broken)} skipped, the first is {name}: {reason}"
        return f"{self.said}; {skipped}" if self.said else skipped

    def to_learn(self) -> LabeledImages:
        """The training part, or all images where nothing is divided.

        Raises:
            InputError: there are other parts only.
        """
        return self._of((*PARTS_TO_LEARN, None), "learned", f"the part {PARTS_TO_LEARN[0]}")

    def to_judge(self) -> LabeledImages:
        """The test part, else the validation part, or all images where nothing is divided.

        Raises:
            InputError: there is a training part only.
        """
        chosen = next((part for part in PARTS_TO_JUDGE if self.has(part)), None)
        return self._of((chosen,), "judged on", "a part test or valid")

    def _of(self, parts: tuple[Part | None, ...], use: str, wanted: str) -> LabeledImages:
        if not self.divided:
            return LabeledImages(self.images, self.class_names, self.templates)
        rows = np.flatnonzero([part in parts for part in self.parts])
        if not len(rows):
            there = ", ".join(part for part in PART_ORDER if part and self.has(part))
            raise InputError(
                f"{self.where} is divided and has no image that may be {use}: it lacks {wanted}, and holds {there} "
                "only; name the folder of a part to take that one all the same."
            )
        labels = self.images.labels[rows]
        if self.fixed:
            return LabeledImages(self.images.select(rows, labels), self.class_names, self.templates)
        present, labels = np.unique(labels, return_inverse=True)
        names = tuple(self.class_names[label] for label in present)
        return LabeledImages(self.images.select(rows, labels.astype(np.int64)), names, self.templates)


def found(listed: Listed, class_names: Sequence[str] | None = None) -> Found:
    """Apply the rule to what a reader listed.

    Args:
        listed: what the source holds.
        class_names: what the labels shall count: a number is a place in it, and names are looked up in it. By default
            the names of the data themselves, those of the training part first.

    Raises:
        InputError: labels or class names that can't be used.
    """
    parts = tuple(listed.parts) if listed.parts is not None else (None,) * len(listed.images)
    labels, names, spellings = among(listed.said, class_names, listed.where, listed.renamed)
    if class_names is None and any(parts):
        labels, names = _training_first(labels, names, parts)
    images = listed.images
    if not np.array_equal(labels, images.labels):
        images = images.select(np.arange(len(images)), labels)
    return Found(
        images,
        names,
        parts,
        Counter(listed.left_out),
        tuple(listed.broken),
        listed.name,
        listed.templates,
        listed.where,
        tuple(shown_name(name) for name in listed.empty),
        spellings,
        class_names is not None,
        listed.read_as,
    )


def _training_first(
    labels: np.ndarray, names: tuple[str, ...], parts: Sequence[Part | None]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Count the classes in the order of the parts, so that those to learn have the first numbers."""
    present = [np.unique(labels[[of == part for of in parts]]) for part in PART_ORDER]
    order = list(dict.fromkeys(np.concatenate([*present, np.arange(len(names))]).tolist()))
    place = np.empty(len(names), dtype=np.int64)
    place[order] = np.arange(len(names))
    return place[labels], tuple(names[old] for old in order)


class Unlabeled(NamedTuple):
    """Images without labels, and what else lay beside them: kind → files."""

    images: ImageSource
    left_out: Counter[str]
