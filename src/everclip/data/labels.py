"""What a label says: a number is a place in a list of class names, a text is a class name itself."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from everclip.data.names import check_class_names, check_encodable, plain_name, shown_name
from everclip.errors import InputError


class Labels(NamedTuple):
    """Labels (N,) int64, and the names that they count, as they were given; None where they came as numbers alone."""

    places: np.ndarray
    class_names: tuple[str, ...] | None


class NoLabel(InputError):
    """Something that is no label."""


def read_labels(labels: Sequence[Any] | np.ndarray, where: str) -> Labels:
    """Labels as people have them: all class names, or all whole numbers.

    Args:
        labels: (N,) of what `label_of` takes, in a list, an array or a tensor.
        where: they stand, for messages.

    Raises:
        InputError: one is no label, both kinds are among them, or there is none.
    """
    given = np.asarray(labels) if hasattr(labels, "shape") else labels
    if isinstance(given, np.ndarray):
        if given.ndim not in (1, 2) or given.dtype.kind not in "iuUObf":
            raise InputError(
                f"{where} has labels of shape {given.shape} {given.dtype}; they must be one number or name per image."
            )
        given = list(given)
    if not len(given):
        raise InputError(f"{where} is empty; give at least one (image, class name) pair.")
    said = []
    for index, label in enumerate(given):
        try:
            said.append(label_of(label))
        except NoLabel as error:
            raise InputError(f"item {index} of {where} has {error}; give a class name or a whole number.") from error
    return as_labels(said, where)


def as_labels(said: Sequence[int | str], where: str) -> Labels:
    """Labels that `label_of` gave; texts are counted in the order in which they first appear.

    Raises:
        InputError: texts and numbers.
    """
    if not any(isinstance(label, str) for label in said):
        return Labels(np.array(said, dtype=np.int64), None)
    of: dict[str, int] = {}
    places = []
    for index, label in enumerate(said):
        if not isinstance(label, str):
            raise InputError(f"{where} has names for labels, but item {index} has {label!r}; give one kind of label.")
        places.append(of.setdefault(label, len(of)))
    return Labels(np.array(places, dtype=np.int64), tuple(of))


def label_of(label: Any, class_names: Sequence[str] | None = None) -> int | str:
    """One label: a text, a whole number, an array or tensor that holds one of them or is 1 for one class of all.

    Of a tuple of targets, such as (category, mask), it is the one that is a label; with class names, one of theirs.

    Raises:
        NoLabel: it is none of these; the message names it.
    """
    if isinstance(label, str):  # numpy's texts are texts too
        return str(label)
    if isinstance(label, tuple | list):
        found = []
        for each in label:
            try:
                found.append(label_of(each, class_names))
            except NoLabel:
                continue
        found = [each for each in found if class_names is None or _is_one_of(each, class_names)]
        if len(found) != 1:
            raise NoLabel(f"the label {_brief(label)}, in which {len(found) or 'no'} things can be labels")
        return found[0]
    if hasattr(label, "shape"):
        values = np.asarray(label)
        if values.size == 1 and values.dtype.kind in "iufUO":
            return label_of(values.reshape(()).item(), class_names)
        if class_names is not None and values.shape == (len(class_names),) and values.dtype.kind in "iufb":
            if np.isin(values, (0, 1)).all() and values.astype(np.int64).sum() == 1:
                return int(values.argmax())
            raise NoLabel(f"the label {_brief(label)}, which is not 1 for one class and 0 for the others")
        raise NoLabel(f"a label of shape {values.shape} {values.dtype}")
    if isinstance(label, numbers.Integral) and not isinstance(label, bool):
        return int(label)
    if isinstance(label, float) and label.is_integer():  # a table with a gap has floats for its whole numbers
        return int(label)
    raise NoLabel(f"the label {_brief(label)}")


def _is_one_of(label: int | str, class_names: Sequence[str]) -> bool:
    if isinstance(label, int):
        return 0 <= label < len(class_names)
    return plain_name(label) in map(plain_name, class_names)


def first_name(name: Any) -> str:
    """What a data set calls a class: of several synonyms, as torchvision's ImageNet lists them, the first.

    Raises:
        InputError: it is no text.
    """
    if isinstance(name, tuple | list) and name:
        return first_name(name[0])
    if isinstance(name, bytes):
        return name.decode(errors="surrogateescape")
    if isinstance(name, str | numbers.Number):
        return str(name)
    raise InputError(f"the data set lists the class {name!r}; a class is called by a text, or by several in a tuple.")


class Named(NamedTuple):
    """Labels (N,) int64, the shown names that they count, and names that were spelled in several ways."""

    places: np.ndarray
    class_names: tuple[str, ...]
    spellings: Mapping[str, tuple[str, ...]]


def among(
    labels: Labels, class_names: Sequence[str] | None, where: str, renamed: Mapping[str, str] | None = None
) -> Named:
    """Labels that count given class names, and these; without any, the labels' own, those that are the same as one.

    Args:
        labels: as the source gives them.
        class_names: what they shall count; shown to the letter.
        where: they stand, for messages.
        renamed: name of the labels' own → what somebody wants it to be shown as, to the letter.

    Raises:
        InputError: numbers that nothing names, a class that is not listed, or a list that can't be one of classes.
    """
    names = labels.class_names if class_names is None else checked_names(class_names, where)
    if names is None:
        raise InputError(
            f"{where} has numbers for labels; give class names instead, or class_names, the names that these numbers "
            "count."
        )
    if class_names is not None and labels.class_names is not None:
        place = {plain_name(name): index for index, name in enumerate(names)}
        for name in labels.class_names:
            if plain_name(name) not in place:
                raise InputError(f"{where} has the class {name!r}, which is not listed among {', '.join(names)}.")
        own = np.array([place[plain_name(name)] for name in labels.class_names], dtype=np.int64)
        return Named(own[labels.places], names, {})
    outside = (labels.places < 0) | (labels.places >= len(names))
    if outside.any():
        index = int(outside.argmax())
        raise InputError(
            f"item {index} of {where} has the label {labels.places[index]}, but its classes have the labels 0 to "
            f"{len(names) - 1}."
        )
    if class_names is not None:
        return Named(labels.places, names, {})
    return _merged(labels.places, names, where, renamed or {})


def _merged(places: np.ndarray, names: Sequence[str], where: str, renamed: Mapping[str, str]) -> Named:
    """Names that are the same are one class, called as it was called first."""
    numbers_of: dict[str, int] = {}
    spelled: dict[int, dict[str, None]] = {}
    shown: list[str] = []
    merged = []
    for name in names:
        called = renamed[name].strip() if name in renamed else shown_name(name)
        if not called:
            raise InputError(f"{where} has a class with an empty name; give it a name")
        check_encodable(called, where)
        number = numbers_of.setdefault(plain_name(called), len(shown))
        if number == len(shown):
            shown.append(called)
        spelled.setdefault(number, {})[name.strip()] = None
        merged.append(number)
    if not shown:
        raise InputError(f"{where} has no class; give at least one")
    several = {shown[number]: tuple(ways) for number, ways in spelled.items() if len(ways) > 1}
    return Named(np.array(merged, dtype=np.int64)[places], tuple(shown), several)


def checked_names(class_names: Sequence[str], where: str) -> tuple[str, ...]:
    """A list of class names as a tuple.

    Raises:
        InputError: it is none, or see `check_class_names`.
    """
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names):
        raise InputError(f"class_names of {where} must be a list of names, such as ['cat', 'dog'].")
    names = tuple(name.strip() for name in class_names)
    check_class_names(names, where, least=1)
    return names


def _brief(label: Any) -> str:
    text = repr(label)
    return text if len(text) <= 60 else f"{text[:57]}…"
