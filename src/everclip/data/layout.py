"""Which class and which part an image is of, told by the path under which it lies. Paths in, places out; no disk.

Whatever has paths is read by this rule and no other: a folder on disk, the files of a request, the members of an
archive. `docs/data.md` has it as a table.

* The first level of folders is the class, whatever lies below it. Names are compared by `plain_name`.
* Where the first level names parts (`PARTS`), the classes are one level below.
* A folder inside a folder of its own name is entered, and so is a single one that is divided, or called `images`.
* A folder of tasks is refused: nobody but its owner knows whether months or birds are to be told apart.
* Hidden files and what systems add (`SYSTEM`) are passed over without a word; what else is left out is counted by kind.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from everclip.data.decode import IMAGE_SUFFIXES
from everclip.data.names import plain_name
from everclip.errors import InputError

Part = Literal["train", "valid", "test"]

PARTS: Mapping[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "valid",
    "valid": "valid",
    "validation": "valid",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""What parts are called, in the form of `plain_name` and without a `set` at the end."""
PART_ORDER: tuple[Part | None, ...] = ("train", None, "valid", "test")

CARD_NAME = "dataset.json"
SYSTEM = frozenset({"__macosx", "@eadir", "#recycle", "$recycle.bin", "thumbs.db", "desktop.ini", CARD_NAME})
"""What systems, cameras and EverCLIP put beside images; hidden names (`.thumbnails`, `.DS_Store`) are no files of
anybody's either."""

OUTSIDE = "image in no class folder"
"""The kind of an image that lies beside the class folders."""
BESIDE = "image beside the parts"
"""The kind of an image in a folder that stands beside train and test."""
NO_SUFFIX = "without a suffix"

# Folders that sort one class by date or by device say nothing of a class: they are never taken for class names.
# fmt: off
_DATES = frozenset((
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec", "spring",
    "summer", "autumn", "fall", "winter",
))
_CONTAINERS = frozenset((
    "dcim", "image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "pic", "pics", "raw",
    "original", "originals", "jpg", "jpeg", "png", "heic",
))
# fmt: on
_CAMERA = re.compile(r"\d{3}\w{5}")
_SET = re.compile(r"[ -]?(set|split)$")


class Place(NamedTuple):
    """Where an image is, by its path.

    Attributes:
        row: which of the paths.
        folder: its class folder, as it is called on disk.
        part: of the data set; None where that is not divided.
        depth: which step of the path the class folder is.
    """

    row: int
    folder: str
    part: Part | None
    depth: int


@dataclass
class Layout:
    """What paths say.

    Attributes:
        places: of the images that have a class.
        left_out: kind → files, of everything else: `.mov`, `without a suffix`, `image in no class folder`.
        inside: the folders that were entered to get to the parts or classes.
        parts: folder → the part that it is, where the first level names parts.
        empty: class folders that hold files, but no image.
    """

    places: list[Place]
    left_out: Counter[str] = field(default_factory=Counter)
    inside: tuple[str, ...] = ()
    empty: list[str] = field(default_factory=list)
    parts: Mapping[str, Part] = field(default_factory=dict)


class _Path(NamedTuple):
    row: int
    steps: tuple[str, ...]


def part_named(name: str) -> Part | None:
    """The part that a folder or a cell of a table calls so: `Training`, `val`, `test_set`; None: it names none."""
    plain = plain_name(name)
    return PARTS.get(plain) or PARTS.get(_SET.sub("", plain))


def is_passed_over(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's own."""
    return name.startswith(".") or name.casefold() in SYSTEM


def kind_of(name: str) -> str | None:
    """How a file that is no image is counted, `.mov` say; None where its name says that it is an image."""
    suffix = os.path.splitext(name)[1].lower()
    return None if suffix in IMAGE_SUFFIXES else suffix or NO_SUFFIX


def left_out_of(left_out: Mapping[str, int]) -> str:
    """What was left out, in words: `40 files left out: 38 .mov, 2 .xmp`; nothing where nothing was."""
    total = sum(left_out.values())
    if not total:
        return ""
    listed = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    kinds = ", ".join(f"{count} {_several(kind, count)}" for kind, count in listed)
    return f"{total} file{'s' * (total != 1)} left out: {kinds}"


def _several(kind: str, count: int) -> str:
    return kind.replace("image ", "images ", 1) if count != 1 else kind


def steps_of(path: str) -> tuple[str, ...]:
    """The folders of a relative path and the file, whichever system wrote it; `.`, `..` and a root say nothing."""
    return tuple(step for step in re.split(r"[/\\]", path) if step not in ("", ".", ".."))


def arrange(paths: Sequence[tuple[str, ...]], called: str, where: str) -> Layout:
    """Tell classes and parts from paths; see also `refuse_tasks`.

    Args:
        paths: of all files below a folder, relative to it, as steps (`steps_of`).
        called: what the folder itself is called.
        where: what messages call it.

    Returns:
        The images in the order of the paths.

    Raises:
        InputError: no image in a class folder, or parts without classes.
    """
    layout = Layout([])
    images, others = [], []
    for row, steps in enumerate(paths):
        if not steps or any(map(is_passed_over, steps)):
            continue
        kind = kind_of(steps[-1])
        if kind is None:
            images.append(_Path(row, steps))
        else:
            layout.left_out[kind] += 1
            others.append(_Path(row, steps))
    images, layout.inside = _entered(images, called)
    layout.parts = parts = _parts(images, where)
    if not parts:
        layout.places = _placed(images, None, paths, layout)
    else:
        beside = [each for each in images if each.steps[0] not in parts]
        layout.left_out[BESIDE] += len(beside)
        for folder, part in parts.items():
            own = [_Path(each.row, each.steps[1:]) for each in images if each.steps[0] == folder]
            own, _ = _entered(own, folder)
            layout.places += _placed(own, part, paths, layout)
    layout.empty = _without_images([other.steps for other in others], layout)
    layout.left_out += Counter()  # drops the zeros
    layout.places.sort()
    # Labels of detection stand in files, beside one folder called `images`: nothing in there says a class.
    if not layout.places or all(plain_name(place.folder) in _CONTAINERS for place in layout.places):
        raise InputError(_nothing(where, images, layout))
    return layout


def _entered(images: list[_Path], called: str) -> tuple[list[_Path], tuple[str, ...]]:
    """Images as they lie inside a doubled folder (`birds/birds/robin`), or inside the only one if that has parts, or is
    called `images` or the like."""
    inside: tuple[str, ...] = ()
    while True:
        firsts = {each.steps[0] for each in images if len(each.steps) > 1}
        below = [_Path(each.row, each.steps[1:]) for each in images if len(each.steps) > 1]
        if len(firsts) != 1 or any(len(each.steps) < 2 for each in below):
            return images, inside
        (only,) = firsts
        seconds = {each.steps[0] for each in below}
        outer = plain_name(only) == plain_name(called) or plain_name(only) in _CONTAINERS
        doubled = outer and not all(map(_sorts, seconds))
        named = {part_named(second) for second in seconds}
        divided = part_named(only) is None and "train" in named and len(named - {None}) > 1
        if not (doubled or (divided and any(len(each.steps) > 2 for each in below))):
            return images, inside
        loose = [each for each in images if len(each.steps) == 1]
        images, called, inside = [*below, *loose], only, (*inside, only)


def _parts(images: Sequence[_Path], where: str) -> dict[str, Part]:
    """The first-level folders that are parts, if the first level names parts and not classes.

    A class may be called "train" too: it is a part only beside another part, or where nothing is beside it.
    """
    firsts = dict.fromkeys(each.steps[0] for each in images if len(each.steps) > 1)
    named = {folder: part for folder in firsts if (part := part_named(folder))}
    nested = {each.steps[0] for each in images if len(each.steps) > 2}
    if not named or (len(named) < len(firsts) and not ("train" in named.values() and len(set(named.values())) > 1)):
        return {}
    if not nested & named.keys():
        if len(named) < len(firsts):
            return {}  # vehicles: a train, a car, and something to test
        raise InputError(
            f"{where} is divided into {', '.join(named)}, but no class folder lies in there; put the images of each "
            "class into a folder of its own."
        )
    return named


def _placed(
    images: Iterable[_Path], part: Part | None, paths: Sequence[tuple[str, ...]], layout: Layout
) -> list[Place]:
    """The images that lie in a class folder; the others are counted as left out."""
    places = []
    for row, steps in images:
        if len(steps) > 1:
            places.append(Place(row, steps[0], part, len(paths[row]) - len(steps)))
        else:
            layout.left_out[OUTSIDE] += 1
    return places


def _without_images(others: Iterable[tuple[str, ...]], layout: Layout) -> list[str]:
    """The folders where a class would be that hold files, but no image in any part."""
    full = {plain_name(place.folder) for place in layout.places}
    depth = len(layout.inside)
    empty = set()
    for steps in others:
        if steps[:depth] == layout.inside:
            below = steps[depth:]
            if layout.parts:
                below = below[1:] if below[0] in layout.parts else ()
            if len(below) > 1 and plain_name(below[0]) not in full:
                empty.add(below[0])
    return sorted(empty)


def _nothing(where: str, images: Sequence[_Path], layout: Layout) -> str:
    if images:
        return f"{where} has no class folder; put the images of each class into a folder of its own"
    also = left_out_of(layout.left_out)
    return (
        f"{where} has no class folder with an image in it{f' ({also})' if also else ''}; put the images of each class "
        "into a folder of its own"
    )


def refuse_tasks(layout: Layout, paths: Sequence[tuple[str, ...]], where: str) -> None:
    """Refuse a folder in which at least half of the images lie below names that several first-level folders share.

    Raises:
        InputError: it is one; the sentence names both readings.
    """
    owners: dict[str, set[str]] = {}
    below = []
    for place in layout.places:
        name = next((step for step in paths[place.row][place.depth + 1 : -1] if not _sorts(step)), None)
        below.append(name and plain_name(name))
        if name:
            owners.setdefault(plain_name(name), set()).add(place.folder)
    shared = {name for name, folders in owners.items() if len(folders) > 1}
    if 2 * sum(name in shared for name in below if name) < max(1, len(below)):
        return
    firsts = sorted({folder for name in shared for folder in owners[name]})
    raise InputError(
        f"{where} can be read in two ways: {_some(firsts)} may be classes, or tasks that share classes such as "
        f"{_some(sorted(shared))}. If they are tasks, learn them by `everclip learn MODEL --tasks FOLDER`, or each by "
        f'itself; if they are classes, list them as "classes" in {CARD_NAME} in the folder.'
    )


def _some(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names[:3]]
    return f"{', '.join(quoted)} …" if len(names) > 3 else " and ".join(quoted)


def _sorts(name: str) -> bool:
    """Whether a folder's name only sorts by date or device: `2021`, `may 2021`, `DCIM`, `100CANON`, `images`."""
    plain = plain_name(name)
    return bool(_CAMERA.fullmatch(plain)) or all(
        word in _DATES | _CONTAINERS for word in re.findall(r"[^\W\d_]+", plain)
    )
