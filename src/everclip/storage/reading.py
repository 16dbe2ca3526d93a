"""What a file from outside may hold: bytes become values here, within limits, or one reason says why not.

A learner comes from a stranger, a recipe from a colleague, a run from a disk that lies. So nothing below trusts a
length, a depth, a number or a name before it has looked, and every fault of the content is one exception, `Malformed`,
whatever a parser underneath comes up with. What a value must look like beyond that is a schema beside the thing it
describes; `fitting` holds a value against it. Tensors have a reader of their own, `storage/tensors.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import re
import stat
from collections.abc import Hashable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

TEXT_LIMIT = 1 << 20
"""Bytes of a file that people write by hand: settings, a recipe, a card."""
JSON_LIMIT = 1 << 28
"""Bytes of a file that EverCLIP writes as JSON: what a learner of ten thousand classes takes, many times over."""
DEPTH = 32
"""Lists and mappings within one another. No file of EverCLIP's goes half as deep."""
DIGITS = 40
"""Of an integer: seeds have 19."""
NODES = 10_000
"""Values, keys and brackets of a YAML text; what is far longer than a recipe takes seconds to parse."""


class Malformed(ValueError):
    """What a file holds is not what it should be. The message says what the file does: `is empty`, `holds NaN`.

    Attributes:
        field: which part of it, where that is known.
        detail: what is wrong with that part.
    """

    def __init__(self, reason: str, field: str = "", detail: str = "") -> None:
        super().__init__(reason)
        self.field = field
        self.detail = detail or reason


# -- bytes -------------------------------------------------------------------------------------------------------------


def size_of(path: Path) -> int:
    """Bytes of a regular file, or of what a link to one leads to.

    Raises:
        Malformed: a pipe, a device, a socket: opening or reading one might never end.
        OSError: there is no such file, it is a directory, or nobody may look.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):  # which Windows would call a lack of permission
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise Malformed("is a pipe or a device, not a file")
    return status.st_size


def require_size(path: Path, limit: int) -> None:
    """Refuse what is no regular file of at most `limit` bytes. What can't be looked at, opening says more of.

    Raises:
        Malformed: it is none.
    """
    with contextlib.suppress(OSError):
        size = size_of(path)
        if size > limit:
            raise Malformed(f"has {size:,} bytes, more than the {limit:,} that such a file may have")


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
        Malformed: no regular file, or a larger one.
        OSError: there is no such file, or it may not be read.
    """
    require_size(path, limit)
    return path.read_bytes()


def text_of(content: bytes) -> str:
    """UTF-8 as text, with or without a mark of byte order.

    Raises:
        Malformed: other bytes.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise Malformed(f"is not UTF-8 (line {line})") from error


# -- JSON --------------------------------------------------------------------------------------------------------------


def json_of(content: bytes | str) -> Any:
    """JSON as it is defined: no NaN or Infinity, no name twice in an object, nothing deeper than `DEPTH`.

    Raises:
        Malformed: anything else, with the reason.
    """
    text = text_of(content) if isinstance(content, bytes) else content
    if not text.strip():
        raise Malformed("is empty")
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
        )
    except Malformed:
        raise
    except RecursionError as error:
        raise Malformed(f"nests lists and objects more than {DEPTH} deep") from error
    except ValueError as error:
        raise Malformed(f"is not JSON ({_in_a_line(error)})") from error
    require_shallow(value)
    return value


def read_json(path: Path, limit: int = JSON_LIMIT) -> Any:
    """`read_bytes`, then `json_of`.

    Raises:
        Malformed, OSError: as for these.
    """
    return json_of(read_bytes(path, limit))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Malformed(f"gives {shown(_first_twice(name for name, _ in pairs))} twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > DIGITS:
        raise Malformed(f"holds a whole number of {len(digits):,} digits, more than {DIGITS}")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise Malformed(f"holds the number {digits[:DIGITS]}, which is too large")
    return number


def _constant(name: str) -> float:
    raise Malformed(f"holds {name}, which is no number in JSON")


def require_shallow(value: Any) -> None:
    """Refuse what is nested deeper than `DEPTH`, without going down one level of the stack per level of the value.

    Raises:
        Malformed: it is.
    """
    level, depth = [value], 0
    while level := [child for each in level for child in _children(each)]:
        depth += 1
        if depth > DEPTH:
            raise Malformed(f"nests lists and objects more than {DEPTH} deep")


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


# -- YAML --------------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML of settings: words, numbers, true and false, null, lists, mappings.

    What looks like a date or a time of day stays the text that somebody wrote.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(names) < len(node.value):
            raise Malformed(f"has a list or a mapping for a name (line {node.start_mark.line + 1})")
        if len(set(names)) < len(names):
            raise Malformed(f"gives {shown(_first_twice(names))} twice (line {node.start_mark.line + 1})")
        return super().construct_mapping(node, deep)


def _plain_resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """YAML 1.1's, without dates and numbers to the base of sixty (12:30)."""
    sexagesimal = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
    kept = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "merge")}
    plain: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items():
        plain[first] = [(tag, pattern) for tag, pattern in resolvers if tag in kept]
    for first in "-+0123456789":
        # Asked before the others: where it fits, the scalar is a text.
        plain[first] = [("tag:yaml.org,2002:str", re.compile(rf"{sexagesimal.pattern}\Z")), *plain.get(first, [])]
    return plain


_Loader.yaml_implicit_resolvers = _plain_resolvers()


def yaml_of(content: bytes | str) -> Any:
    """YAML of settings; see `_Loader`. Tags and a second document are refused, as is what JSON may not hold.

    A value may be given once and referred to (`&x`, `*x`, `<<: *x`), as long as it stays short when it is written out.

    Raises:
        Malformed: it is not that, with the reason.
    """
    text = text_of(content) if isinstance(content, bytes) else content
    try:
        _look_ahead(text)
        value = yaml.load(text, _Loader)  # a SafeLoader
    except Malformed:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.context_mark or error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise Malformed(f"is not YAML ({_in_a_line(error.problem or error.context)}{place})") from error
    except (yaml.YAMLError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
        # The last four: what PyYAML lets through of Python's conversions, as of `0b_` or `!`.
        raise Malformed(f"is not YAML ({_in_a_line(error)})") from error
    _require_finite(value)
    return value


def read_yaml(path: Path, limit: int = TEXT_LIMIT) -> Any:
    """`read_bytes`, then `yaml_of`.

    Raises:
        Malformed, OSError: as for these.
    """
    return yaml_of(read_bytes(path, limit))


def settings_of(value: Any) -> dict[str, Any]:
    """A mapping from names to values, as every file of settings is.

    Raises:
        Malformed: something else, or a name that is no text.
    """
    if not isinstance(value, dict) or not value:
        raise Malformed("holds no settings")
    for name in value:
        if not isinstance(name, str):
            raise Malformed(f"has the name {shown(name)}, which is no word")
    return value


def _look_ahead(text: str) -> None:
    """Refuse by its events what would be too deep, too much or too clever to be composed.

    What an alias refers to counts wherever it is referred to: nine lines of aliases can stand for a billion values.
    """
    if _OPEN.search(text):  # which PyYAML takes a second to go through
        raise Malformed(f"nests lists and mappings more than {DEPTH} deep")
    anchors: dict[str, tuple[int, int]] = {}  # of what is complete: its values, and how deep they go
    open_ones: list[tuple[str | None, int, int]] = []  # anchor, values before it, how deep it goes so far
    count = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        line = f" (line {event.start_mark.line + 1})" if event.start_mark else ""
        size, below = 1, 0
        if isinstance(event, yaml.AliasEvent):
            anchor = str(event.anchor)
            if anchor not in anchors:
                raise Malformed(f"refers to *{anchor[:80]}, which is not complete before{line}")
            size, below = anchors[anchor]
        count += size
        if count > NODES:
            raise Malformed(f"holds more than {NODES:,} values{line}")
        if len(open_ones) + below > DEPTH:
            raise Malformed(f"nests lists and mappings more than {DEPTH} deep{line}")
        if (tag := getattr(event, "tag", None)) is not None:
            raise Malformed(f"has the tag {shown(tag)}{line}; write plain values")
        if isinstance(event, yaml.CollectionStartEvent):
            open_ones.append((event.anchor, count - 1, 0))
            if len(open_ones) > DEPTH:
                raise Malformed(f"nests lists and mappings more than {DEPTH} deep{line}")
        elif isinstance(event, yaml.CollectionEndEvent):
            name, before, inner = open_ones.pop()
            below = inner + 1
            if name is not None:
                anchors[name] = (count - before, below)
        elif isinstance(event, yaml.ScalarEvent):
            if event.implicit[0] and _LONG_NUMBER.fullmatch(event.value):
                raise Malformed(f"holds a number of {len(event.value):,} digits, more than {DIGITS}{line}")
            if event.anchor is not None:
                anchors[event.anchor] = (1, 0)
        if open_ones and not isinstance(event, yaml.CollectionStartEvent):
            name, before, inner = open_ones[-1]
            open_ones[-1] = (name, before, max(inner, below))


_OPEN = re.compile(rf"([\[{{]\s*){{{DEPTH + 1}}}")
_LONG_NUMBER = re.compile(r"(?=.{41})[-+]?(0x[0-9a-fA-F_]+|0b[01_]+|[0-9_]+)", re.DOTALL)


def _require_finite(value: Any) -> None:
    level = [value]
    while level:
        if any(isinstance(each, float) and not math.isfinite(each) for each in level):
            raise Malformed("holds a number that is not finite")
        level = [child for each in level for child in _children(each)]


# -- schemas -----------------------------------------------------------------------------------------------------------


class Schema(BaseModel):
    """Base of what files are held against: types are as JSON has them, and what a later version added is left alone."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


def fitting(schema: type[T], value: Any) -> T:
    """A value as a schema says it.

    Args:
        schema: a `Schema`, or a data class, which is then filled from a mapping of its fields and of no others.
        value: of `json_of` or `yaml_of`.

    Raises:
        Malformed: it does not fit; the reason names the field.
    """
    model: type[BaseModel] = _model(schema)  # type: ignore[arg-type]  # a type is hashable
    try:
        found: Any = model.model_validate(value)
    except ValidationError as error:
        raise misfit(error) from None
    return found if isinstance(found, schema) else schema(**{name: getattr(found, name) for name in value})


def read_model(schema: type[M], path: Path, limit: int = JSON_LIMIT) -> M:
    """A JSON file as a model in which a list may stand for a tuple, as pydantic reads JSON.

    Raises:
        Malformed: it is no JSON within the limits, or does not fit.
        OSError: there is no such file, or it may not be read.
    """
    content = read_bytes(path, limit)
    json_of(content)
    try:
        return schema.model_validate_json(text_of(content))
    except ValidationError as error:
        raise misfit(error) from None


@lru_cache
def _model(schema: type[Any]) -> type[BaseModel]:
    """The schema itself, or the model of a data class: pydantic fills a strict one from JSON alone, not from values."""
    if issubclass(schema, BaseModel):
        return schema
    hints = get_type_hints(schema, include_extras=True)
    fields: dict[str, Any] = {}
    for each in dataclasses.fields(schema):
        if each.default_factory is not dataclasses.MISSING:
            fields[each.name] = (hints[each.name], Field(default_factory=each.default_factory))
        else:
            fields[each.name] = (hints[each.name], ... if each.default is dataclasses.MISSING else each.default)
    return create_model(schema.__name__, __config__=ConfigDict(strict=True, extra="forbid"), **fields)


def misfit(error: ValidationError) -> Malformed:
    """The first thing that a schema finds wrong, with its field: `is wrong in 'lr' (Input should be …)`."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"]))
    detail = first["msg"].removeprefix("Value error, ")
    return Malformed(f"is wrong in {shown(field)} ({detail})" if field else f"is wrong ({detail})", field, detail)


def shown(value: object) -> str:
    """Something that a file holds, short and harmless to print: quoted, with escapes, cut where it is long."""
    if value is None or isinstance(value, bool | int | float):
        return str(value)[:80]
    text = value if isinstance(value, str) else _in_a_line(value)
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:80])
    return f"'{text}…'" if len(str(value)) > 80 else f"'{text}'"


def _in_a_line(value: object) -> str:
    return " ".join(str(value).split())[:200]


def _first_twice(names: Iterable[str]) -> str:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    raise AssertionError("no name comes twice")
