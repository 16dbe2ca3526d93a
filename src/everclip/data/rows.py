"""Images that come in rows, each with a label and perhaps a part: what tables, shards and data sets have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from everclip.data.found import Listed
from everclip.data.labels import Labels, NoLabel, as_labels, label_of
from everclip.data.layout import Part, part_named
from everclip.data.names import plain_name
from everclip.data.source import BadImage, ImageSource
from everclip.errors import InputError

# What columns are called where nobody says it, in the form of `plain_name`, the most telling first.
IMAGE_COLUMNS = (
    "image",
    "img",
    "image path",
    "path",
    "file path",
    "filepath",
    "file name",
    "filename",
    "file",
    "photo",
)
LABEL_COLUMNS = ("label", "class name", "class", "category", "species", "target", "fine label", "labels", "cls")
PART_COLUMNS = ("part", "split", "set", "subset")


class Row(NamedTuple):
    """One row of a source.

    Attributes:
        name: what messages call it.
        label: what stands there for a label, anything.
        part: what stands there for a part; None where there is no such column.
    """

    name: str
    label: Any
    part: Any = None


def list_rows(
    rows: Iterable[Row | BadImage],
    images: Callable[[Sequence[int]], ImageSource],
    where: str,
    called: str,
    class_names: Sequence[str] | None = None,
) -> Listed:
    """List rows; one without a label or with a part that nobody knows is named and left out.

    Args:
        rows: in order; an error in the place of a row that cannot be read.
        images: the images of some of the rows.
        where: what messages call the source.
        called: what it calls itself.
        class_names: what numbers count.

    Raises:
        InputError: no row can be used.
    """
    kept, said, parts = list[int](), list[int | str](), list[Part | None]()
    broken: list[tuple[str, str]] = []
    for index, row in enumerate(rows):
        try:
            if isinstance(row, BadImage):
                raise row
            label, part = _label(row, class_names), _part(row)
        except BadImage as error:
            broken.append((error.name, error.reason))
            continue
        kept.append(index)
        said.append(label)
        parts.append(part)
    if not kept:
        first = f" (the first, {broken[0][0]}: {broken[0][1]})" if broken else ""
        raise InputError(f"{where} has no row that can be used{first}; give every image a label.")
    labels = as_labels(said, where)
    if labels.class_names is None and class_names is not None:
        labels = Labels(labels.places, tuple(class_names))
    return Listed(images(kept), labels, where, parts if any(parts) else None, broken=broken, name=called)


def _label(row: Row, class_names: Sequence[str] | None) -> int | str:
    if row.label is None or row.label == "" or (isinstance(row.label, float) and row.label != row.label):
        raise BadImage(row.name, "it has no label")
    try:
        label = label_of(row.label, class_names)
    except NoLabel as error:
        raise BadImage(row.name, f"it has {error}") from error
    if isinstance(label, str):
        if not label.strip():
            raise BadImage(row.name, "it has no label")
    elif class_names is not None and not 0 <= label < len(class_names):
        raise BadImage(row.name, f"it has the label {label}, but the classes are 0 to {len(class_names) - 1}")
    return label


def _part(row: Row) -> Part | None:
    if row.part is None or row.part == "":
        return None
    part = part_named(str(row.part))
    if part is None:
        raise BadImage(row.name, f"its part is {str(row.part)!r}, which is none of train, valid and test")
    return part


def column(
    there: Iterable[str], wanted: str | None, usual: Sequence[str], option: str, where: str, needed: bool = True
) -> str | None:
    """Which of the columns of a table holds something.

    Args:
        there: what its columns are called.
        wanted: the one that somebody named; letter case, underscores and spaces do not matter.
        usual: what it may be called otherwise.
        option: how a user names it.
        where: the table, for messages.
        needed: refuse a table without it.

    Raises:
        InputError: there is no such column.
    """
    by_name: dict[str, str] = {}
    for name in there:
        by_name.setdefault(plain_name(name), name)
    for name in usual if wanted is None else (plain_name(wanted),):
        if name in by_name:
            return by_name[name]
    if wanted is None and not needed:
        return None
    lacking = f"no column '{wanted}'" if wanted else f"no column that is called {', '.join(usual[:4])} or the like"
    raise InputError(f"{where} has {lacking}; name one by {option}: {', '.join(by_name.values()) or 'it has none'}.")
