"""Runs and what they are made of, at another place than before: known by content, not by path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from everclip.errors import EverclipError, InputError
from everclip.experiment.config import Config
from everclip.storage.run import OtherContent, RunDirectory
from everclip.streams import IN_PYTHON

KNOWN_BY_CONTENT = frozenset({"stream", "backbone", "reference", "reference_texts", "alexnet", "learned"})
"""Settings that may name another place when a run goes on, or is judged, where the same lies: a digest tells."""

Moved = Mapping[str, tuple[str, str]]
"""Setting → what it was, what it is now."""

_TOLD_BY = {
    "backbone": ("backbone",),
    "data": ("stream",),
    "training": ("stream",),
    "reference": ("reference", "reference_texts", "alexnet"),
}
"""By the part of a run's state that differs: the settings that say where that lies."""

_IS_OTHER = {
    "backbone": "that is another model",
    "data": "that holds other images, labels, class names or templates, or tasks of other names (a task is called as "
    "its folder, or as dataset.json says)",
    "training": "that holds other training images",
    "reference": "that holds something else",
}


def places_of(config: Config, directory: RunDirectory) -> Moved:
    """Settings that name other places than those of the run that a directory holds.

    Raises:
        InputError: another setting differs.
        EverclipError: what the directory says of its settings is damaged.
    """
    differing = {name: (before, wanted) for name, before, wanted in config.differing(directory.read_config())}
    before, wanted = ({name: pair[side] for name, pair in differing.items()} for side in (0, 1))
    places = moved(before, wanted, differing)
    for name in differing:
        if name not in places:
            raise InputError(
                f"{directory.path} holds a run with {name}={before[name]}, not {wanted[name]}; give the same settings "
                "to resume it, or choose another --out."
            )
    return places


def moved(before: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str]) -> Moved:
    """Those of the settings that may say nothing but another place; whether the same lies there is not looked at."""
    return {
        name: (before[name], now[name])
        for name in names
        if before.get(name) != now.get(name) and _may_be_a_place(name, before.get(name), now.get(name))
    }


def _may_be_a_place(name: str, before: Any, now: Any) -> bool:
    if name not in KNOWN_BY_CONTENT or not (isinstance(before, str) and isinstance(now, str)):
        return False
    # A stream that a program made has a name there, and no place.
    return name != "stream" or (_shape(before) == _shape(now) and _shape(now)[0] != IN_PYTHON)


def _shape(stream: str) -> tuple[str, int]:
    """The kind of a stream and how many arguments it has."""
    kind, _, arguments = stream.partition(":")
    return kind, len([argument for argument in arguments.split(",") if argument.strip()])


def refused(error: OtherContent, places: Moved, path: Path) -> EverclipError:
    """What to raise where something else lies at another place; the error itself where it lies where it did."""
    for name in _TOLD_BY[error.what]:
        if name in places:
            before, now = places[name]
            return InputError(
                f"{path} holds a run with {name}={before}, not {now}: {_IS_OTHER[error.what]}; give the same, wherever "
                "it lies, or choose another --out."
            )
    return error


def told(places: Moved) -> str:
    """One line that says what lies elsewhere."""
    return ", ".join(f"{name} is now {now} (was {before})" for name, (before, now) in places.items()) + ": the same."
