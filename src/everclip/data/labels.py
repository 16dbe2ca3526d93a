"""What a label says: a number is a place in a list of class names, a text is a class name itself."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from everclip.data.names import check_class_names, plain_name
from everclip.errors import InputError


class Labels(NamedTuple):
    """Labels (N,) int64, and the names that they count; None where they came as numbers without names."""

    places: np.ndarray
    class_names: tuple[str, ...] | None


def read_labels(labels: Sequence[Any] | np.ndarray, where: str) -> Labels:
    """Labels as people have them: all class names, or all whole numbers.

    Names are the same up to letter case and spaces; they are counted in the order in which they first appear.

    Args:
        labels: (N,) texts or numbers, in a list, an array or a tensor.
        where: they stand, for messages.

    Raises:
        InputError: one is neither, both are among them, or there is none.
    """
    given = np.asarray(labels) if hasattr(labels, "shape") else labels
    if isinstance(given, np.ndarray):
        if given.ndim != 1 or given.dtype.kind not in "iuUO":
            raise InputError(
                f"{where} has labels of shape {given.shape} {given.dtype}; they must be one number or name per image."
            )
        given = given.tolist()
    if not len(given):
        raise InputError(f"{where} is empty; give at least one (image, class name) pair.")
    if not isinstance(given[0], str):
        return Labels(np.array([_number(label, index, where) for index, label in enumerate(given)]), None)
    places: list[int] = []
    names: dict[str, str] = {}
    of: dict[str, int] = {}
    for index, label in enumerate(given):
        if not isinstance(label, str):
            raise InputError(f"{where} has names for labels, but item {index} has {label!r}; give one kind of label.")
        plain = plain_name(label)
        names.setdefault(plain, label.strip())
        places.append(of.setdefault(plain, len(of)))
    return Labels(np.array(places, dtype=np.int64), tuple(names.values()))


def among(labels: Labels, class_names: Sequence[str] | None, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N,) that count given class names, and these; without any, the labels' own.

    Raises:
        InputError: numbers that nothing names, a class that is not listed, or a list that can't be one of classes.
    """
    names = labels.class_names if class_names is None else checked_names(class_names, where)
    if names is None:
        raise InputError(
            f"{where} has numbers for labels; give class names instead, or class_names, the names that these numbers "
            "count."
        )
    if class_names is None:
        check_class_names(names, where, least=1)
    elif labels.class_names is not None:
        place = {plain_name(name): index for index, name in enumerate(names)}
        for name in labels.class_names:
            if plain_name(name) not in place:
                raise InputError(f"{where} has the class {name!r}, which is not listed among {', '.join(names)}.")
        return np.array([place[plain_name(name)] for name in labels.class_names])[labels.places], names
    outside = (labels.places < 0) | (labels.places >= len(names))
    if outside.any():
        index = int(outside.argmax())
        raise InputError(
            f"item {index} of {where} has the label {labels.places[index]}, but its classes have the labels 0 to "
            f"{len(names) - 1}."
        )
    return labels.places, names


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


def _number(label: Any, index: int, where: str) -> int:
    whole = isinstance(label, numbers.Integral) and not isinstance(label, bool)
    if not whole and getattr(label, "shape", None) == () and hasattr(label, "item"):  # an array of one number
        label = label.item()
        whole = isinstance(label, int) and not isinstance(label, bool)
    if not whole:
        raise InputError(f"item {index} of {where} has the label {label!r}; give a class name or a whole number.")
    return int(label)
