"""What can be chosen by name: what EverCLIP brings, what other packages bring, what a script registers.

A package of somebody else brings a method by an entry point, and EverCLIP need not know of it:

    [project.entry-points."everclip.methods"]
    olora = "everclip_olora:OLoRA"

A script or a notebook calls `everclip.register`. Whoever types a command or writes Python may also name a class by its
place, `package.module:Class`. A *file* may not: a learner, a run or a recipe that somebody sends must never decide
which code is imported. Files hold plain names, and what a name stands for must be installed, or registered again.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from everclip.errors import InputError

T = TypeVar("T")
C = TypeVar("C")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a plug-in may be called: it is typed on a command line and becomes part of the names of folders."""
PLACE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""`package.module:Class`."""
PLUGGABLE = frozenset({"method", "selector"})
"""Settings whose value is a name in a registry."""

REGISTRIES: dict[str, Registry[Any]] = {}
"""Every registry by its kind, from the moment on that the room it belongs to is imported."""


class Registry(Mapping[str, T], Generic[T]):
    """Things of one kind by name: built-in, registered in this process, brought by installed packages.

    To list names imports no plug-in; to look one up imports that one. Iterating over values raises InputError at the
    first plug-in that cannot be used; `usable` leaves those out, and `problems` says what is wrong with them.

    Args:
        kind: what it holds, in a word, for messages: `method`.
        group: the entry-point group of plug-ins: `everclip.methods`.
        built_in: what EverCLIP brings.
        checked: something that is to be known under a name → the thing itself, ready for use. Raises InputError where
            it is not of this kind.
    """

    def __init__(self, kind: str, group: str, built_in: Mapping[str, T], checked: Callable[[object, str], T]) -> None:
        self.kind = kind
        self.group = group
        self._built_in = built_in
        self._checked = checked
        self._registered: dict[str, T] = {}
        REGISTRIES[kind] = self

    # -- names -----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._built_in, *self._registered, *self._installed()]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self._built_in or name in self._registered or name in self._installed()

    def origin(self, name: str) -> str:
        """Where a name comes from: `everclip`, the module that registered it, or a package with its version."""
        if name in self._built_in:
            return "everclip"
        if name in self._registered:
            return _place(self._registered[name]).partition(":")[0]
        return " and ".join(map(_package, self._installed()[name]))

    # -- looking up ------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> T:
        if name not in self:
            raise KeyError(name)
        return self.find(name)

    def find(self, name: str) -> T:
        """What a name stands for.

        Raises:
            InputError: there is no such name, or the plug-in of this name cannot be used.
        """
        if name in self._built_in:
            return self._built_in[name]
        if name in self._registered:
            return self._registered[name]
        points = self._installed().get(name, [])
        if not points:
            raise InputError(
                f"there is no {self.kind} '{name}'; choose from {', '.join(self)}. What is not EverCLIP's own must be "
                "installed, or named again by everclip --plugin package.module:NAME, in Python by everclip.register."
            )
        if len(points) > 1:
            raise InputError(f"{self.kind} '{name}' comes from {self.origin(name)}; uninstall all but one of them.")
        try:
            thing = points[0].load()
        except (Exception, SystemExit) as error:  # somebody else's code: whatever it raises concerns this name alone
            raise InputError(
                f"{self.kind} '{name}' of {self.origin(name)} can't be imported ({_said(error)}); repair or uninstall "
                "that package."
            ) from error
        return self._checked(thing, name)

    def usable(self) -> dict[str, T]:
        """All that can be used, by name."""
        return {name: thing for name, thing in self._each() if not isinstance(thing, InputError)}

    def problems(self) -> dict[str, str]:
        """Names of plug-ins that cannot be used → why not, in a sentence."""
        found = {name: str(error) for name, error in self._each() if isinstance(error, InputError)}
        for point in _entry_points(self.group):
            if point.name in self._built_in:
                found[point.name] = (
                    f"{_package(point)} brings a {self.kind} '{point.name}', which is EverCLIP's own name; EverCLIP's "
                    "is used."
                )
        return found

    def _each(self) -> Iterator[tuple[str, T | InputError]]:
        for name in self:
            try:
                yield name, self.find(name)
            except InputError as error:
                yield name, error

    # -- entering --------------------------------------------------------------------------------------------------

    def register(self, thing: object, name: str) -> T:
        """Enter something under a name, for this process.

        A class that is defined anew at the same place takes the place of the old one, so that a cell of a notebook can
        be run twice.

        Raises:
            InputError: it is not of this kind, or the name is taken or can't be one.
        """
        if not NAME.fullmatch(name):
            raise InputError(f"a {self.kind} can't be called '{name}'; use letters, digits, '.', '_' and '-'.")
        checked = self._checked(thing, name)
        if name in self:
            known = self.find(name)
            if known is not checked and not (name in self._registered and _place(known) == _place(checked)):
                raise InputError(
                    f"there is a {self.kind} '{name}' already, of {self.origin(name)}; give yours another name."
                )
            if name not in self._registered:
                return checked  # EverCLIP's own, or an installed one, named once more
        self._registered[name] = checked
        return checked

    def unregister(self, name: str) -> None:
        """Take back what `register` entered; nothing where there is no such name."""
        self._registered.pop(name, None)

    def takes(self, thing: object) -> bool:
        """Whether something is of this kind."""
        try:
            self._checked(thing, str(getattr(thing, "name", "it")))
        except InputError:
            return False
        return True

    def _installed(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for point in _entry_points(self.group):
            if point.name not in self._built_in:
                found.setdefault(point.name, []).append(point)
        return found


def subclasses_of(base: type[C], kind: str) -> Callable[[object, str], type[C]]:
    """The check of a registry of classes: they inherit from `base`, and say themselves what they are called and do."""

    def checked(thing: object, name: str) -> type[C]:
        if not (isinstance(thing, type) and issubclass(thing, base)):
            raise InputError(f"'{name}' is no {kind}: a {kind} is a class that inherits from everclip.{base.__name__}.")
        if getattr(thing, "name", None) != name:
            own = getattr(thing, "name", "")
            raise InputError(f"{kind} '{name}' calls itself '{own}'; let both names be the same.")
        if not isinstance(getattr(thing, "summary", None), str):
            raise InputError(f"{kind} '{name}' has no `summary`; give it one line that says what it does.")
        return thing

    return checked


def enter(thing: Any, name: str | None = None) -> str:
    """Register a class, a stream or a data set in the registry that takes it; returns its name.

    Args:
        thing: a class that inherits from `Method` or `Selector`, or what else a registry takes.
        name: by default its own `name`; a class without one gets this one.

    Raises:
        InputError: nothing takes it, it has no name, or the name is taken.
    """
    name = name or getattr(thing, "name", None)
    if not isinstance(name, str):
        raise InputError(f"{_shown(thing)} has no name; give it an attribute `name`, or a name beside it.")
    if isinstance(thing, type) and getattr(thing, "name", None) != name:
        thing.name = name  # type: ignore[attr-defined]  # what a class is called is said by the class
    for registry in REGISTRIES.values():
        if registry.takes(thing):
            registry.register(thing, name)
            return name
    kinds = ", ".join(REGISTRIES)
    raise InputError(f"{_shown(thing)} can't be registered: it is none of what plug-ins can bring ({kinds}).")


def is_place(text: object) -> bool:
    """Whether a text names code by its place, `package.module:Class`, instead of by a name."""
    return isinstance(text, str) and PLACE.fullmatch(text) is not None


def from_place(place: str) -> str:
    """Import `package.module:Class` and register it; returns its name. For what a person typed, never for a file.

    Raises:
        InputError: there is no such module or name, it fails to import, or it is nothing that can be registered.
    """
    if not is_place(place):
        raise InputError(f"'{place}' is not of the form package.module:Class.")
    module_name, _, attribute = place.partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # last, so that a file here takes no installed module's place
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # as in `Registry.find`
        raise InputError(f"'{place}' can't be imported ({_said(error)}); correct the module, or its name.") from error
    if not hasattr(module, attribute):
        raise InputError(f"module '{module_name}' has no '{attribute}'; correct the name behind the colon.")
    return enter(getattr(module, attribute))


def entered(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a person gave, with plain names in the place of classes and of `package.module:Class`.

    Not for what a file says: see `refuse_places`.

    Raises:
        InputError: a class or a place that cannot be registered.
    """
    plain = dict(values)
    for setting in PLUGGABLE & values.keys():
        if isinstance(values[setting], type):
            plain[setting] = enter(values[setting])
        elif is_place(values[setting]):
            plain[setting] = from_place(values[setting])
    return plain


def refuse_places(values: Mapping[str, object], where: str) -> None:
    """Refuse a file that names code by its place.

    Args:
        values: settings that the file holds.
        where: which file, for the message.

    Raises:
        InputError: one of them is a place.
    """
    for name in PLUGGABLE:
        if is_place(values.get(name)):
            raise InputError(
                f"{where} names code by its place ({name}={values[name]}), which a file may not; write the plain name, "
                "and name the code by everclip --plugin package.module:NAME, or install it."
            )


@lru_cache
def _points_on(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    return tuple(sorted(entry_points(group=group), key=lambda point: (point.name, _package(point))))


def _entry_points(group: str) -> tuple[EntryPoint, ...]:
    return _points_on(group, tuple(sys.path))


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"


def _place(thing: object) -> str:
    """Where something was defined: `package.module:Class`."""
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{getattr(thing, '__module__', None) or kind.__module__}:{getattr(kind, '__qualname__', '')}"


def _shown(thing: object) -> str:
    return getattr(thing, "__qualname__", None) or f"a {type(thing).__name__}"


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ").rstrip(".")
