"""What a source of images would teach, and what in it deserves a second look, before anything is learned."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from everclip.data.alike import alike_names
from everclip.data.found import PARTS_TO_JUDGE, PARTS_TO_LEARN, Found
from everclip.data.layout import left_out_of
from everclip.data.names import plain_name
from everclip.data.source import BadImage, ImageSource

TINY = 5
"""A class with fewer images to learn is named: a learner holds none of them out, so nobody sees what becomes of it."""
LISTED = 8
"""So many classes are listed with their counts; of more, only the smallest and the largest count are."""


def brief(found: Found) -> str:
    """What would be learned from a source, in a line: images, classes, part, what is left out, tiny classes.

    Raises:
        InputError: nothing in it may be learned.
    """
    given = found.to_learn()
    counts = np.bincount(given.source.labels, minlength=len(given.class_names)).tolist()
    named = dict(zip(given.class_names, counts, strict=True))
    if len(named) <= LISTED:
        each = ", ".join(f"{name} {count}" for name, count in named.items())
    else:
        each = f"{min(counts)} to {max(counts)} of each"
    facts = [f"{len(given.source)} images of {len(named)} class{'es' * (len(named) != 1)} to learn ({each})"]
    others = [f"{found.parts.count(part)} of {part}" for part in ("valid", "test") if found.has(part)]
    if others:
        facts.append(f"the part train, without {' and '.join(others)}")
    if found.said:
        facts.append(found.said)
    tiny = [f"{name} {count}" for name, count in named.items() if count < TINY]
    if tiny:
        shown = ", ".join(tiny[:LISTED]) + (f" and {len(tiny) - LISTED} more" if len(tiny) > LISTED else "")
        facts.append(f"fewer than {TINY} images: {shown}")
    return f"{found.where}: {'; '.join(facts)}"


UNDIVIDED = "all"
"""What the part of images is called that are of none."""

Progress = Callable[[int, int], None]
"""Called as `progress(done, total)`."""


class Copies(NamedTuple):
    """One image that is there several times.

    Attributes:
        names: of its copies.
        classes: the classes that they are of; two or more contradict each other.
        parts: the parts that they are of; two or more mean that what is judged on was learned.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Checked:
    """What is in a source of N images.

    Attributes:
        name: of the source, which is that of the task by default.
        where: what messages call it.
        read_as: how it was understood.
        images: N.
        classes: class → part → images.
        parts: part → images.
        learned: part that `learn` takes, `all` where nothing is divided; None where there is none.
        judged: the same for `evaluate`.
        left_out: kind → files that are none of the images.
        broken: (name, reason) of what can't be used.
        decoded: every image was decoded in full. If not, images are known by their headers and as files: damage further
            on, and copies that are stored in another way, were not seen.
        copies: images that are there several times.
        tiny: class → usable images to learn, where these are fewer than `TINY`.
        alike: pairs of different names that look alike, one of them of this source.
        spellings: class → how the source writes it, where it does so in several ways.
        empty: classes without an image.
        known: class → tasks that have it already; None where no learner was given.
    """

    name: str
    where: str
    read_as: str
    images: int
    classes: dict[str, dict[str, int]]
    parts: dict[str, int]
    learned: str | None
    judged: str | None
    left_out: dict[str, int]
    broken: list[tuple[str, str]]
    decoded: bool
    copies: list[Copies]
    tiny: dict[str, int]
    alike: list[tuple[str, str]]
    spellings: dict[str, tuple[str, ...]]
    empty: list[str]
    known: dict[str, list[str]] | None = None

    @property
    def left_out_in_words(self) -> str:
        """As every door says it."""
        return left_out_of(self.left_out)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**plain, "copies": [each._asdict() for each in self.copies]}


def check(
    found: Found,
    known: Mapping[str, Sequence[str]] | None = None,
    decode: bool = False,
    workers: int = 2,
    progress: Progress | None = None,
) -> Checked:
    """Look through a source without learning from it.

    Args:
        found: what `everclip.data.read` made of it.
        known: task → its classes, of a learner that is to learn from it.
        decode: decode every image, which takes as long as learning reads; by default only headers are read, and the
            content of files that may be equal.
        workers: threads that read.
        progress: called after each image.
    """
    broken, groups = _equal(found.images, decode, workers, progress)
    parts = [part or (PARTS_TO_LEARN[0] if found.divided else UNDIVIDED) for part in found.parts]
    names = [found.class_names[label] for label in found.images.labels.tolist()]
    classes: dict[str, Counter[str]] = {name: Counter() for name in found.class_names}
    for name, part in zip(names, parts, strict=True):
        classes[name][part] += 1
    learned, judged = _part_of(PARTS_TO_LEARN, parts), _part_of(PARTS_TO_JUDGE, parts)
    unread = Counter(names[row] for row in broken if parts[row] == learned)
    usable = {name: of[learned] - unread[name] for name, of in classes.items() if learned and of[learned]}
    tasks = known or {}
    have = {name: [task for task, theirs in tasks.items() if _is_in(name, theirs)] for name in classes}
    others = dict.fromkeys(name for theirs in tasks.values() for name in theirs if not _is_in(name, found.class_names))
    return Checked(
        found.name,
        found.where,
        found.read_as,
        len(found),
        {name: dict(of) for name, of in classes.items()},
        dict(Counter(parts)),
        learned,
        judged,
        dict(found.left_out),
        [*found.broken, *((found.images.name(row), reason) for row, reason in broken.items())],
        decode,
        [_copies(found.images, rows, names, parts) for rows in groups],
        {name: count for name, count in usable.items() if count < TINY},
        alike_names(found.class_names, list(others)),
        dict(found.spellings),
        list(found.empty),
        None if known is None else have,
    )


def _part_of(wanted: Iterable[str], parts: Sequence[str]) -> str | None:
    there = set(parts)
    return next((part for part in (*wanted, UNDIVIDED) if part in there), None)


def _is_in(name: str, names: Sequence[str]) -> bool:
    return plain_name(name) in map(plain_name, names)


def _copies(images: ImageSource, rows: Sequence[int], names: Sequence[str], parts: Sequence[str]) -> Copies:
    return Copies(
        tuple(images.name(row) for row in rows),
        tuple(dict.fromkeys(names[row] for row in rows)),
        tuple(dict.fromkeys(parts[row] for row in rows)),
    )


def _equal(
    images: ImageSource, decode: bool, workers: int, progress: Progress | None
) -> tuple[dict[int, str], list[list[int]]]:
    """What is broken (row → reason), and groups of equal images, in their order."""

    def look(row: int) -> object:
        try:
            return pixel_digest(images, row) if decode else images.glance(row)
        except BadImage as error:
            return error

    broken, seen = dict[int, str](), defaultdict[object, list[int]](list)
    with ThreadPoolExecutor(workers) as pool:
        for row, looks in enumerate(pool.map(look, range(len(images)))):
            if isinstance(looks, BadImage):
                broken[row] = looks.reason
            else:
                seen[looks].append(row)
            if progress is not None:
                progress(row + 1, len(images))
        if decode:
            return broken, [rows for rows in seen.values() if len(rows) > 1]
        maybe = sorted(row for rows in seen.values() if len(rows) > 1 for row in rows)
        same = defaultdict[str, list[int]](list)
        for row, digest in zip(maybe, pool.map(images.digest, maybe), strict=True):
            same[digest].append(row)
    return broken, [rows for rows in same.values() if len(rows) > 1]


def pixel_digest(images: ImageSource, index: int) -> str:
    """What an image is, however it is stored: hex BLAKE2b-128 of its size and its pixels, decoded in full, mode RGB.

    Raises:
        BadImage: it can't be decoded.
    """
    image = images.decode(index)
    return hashlib.blake2b(f"{image.size}".encode() + image.tobytes(), digest_size=16).hexdigest()
