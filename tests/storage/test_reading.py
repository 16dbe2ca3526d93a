"""What a file from outside may hold, and the one reason that says why it is refused."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from everclip.storage.reading import (
    DEPTH,
    Malformed,
    Schema,
    fitting,
    json_of,
    read_bytes,
    read_json,
    settings_of,
    shown,
    yaml_of,
)

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
"""What JSON can say and EverCLIP writes."""
WORDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1)
"""PyYAML itself does not read every white space back that it writes."""
SETTINGS = st.dictionaries(WORDS, WORDS | st.integers(-(10**18), 10**18) | st.floats(-1e9, 1e9) | st.lists(WORDS))


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 9)
)
"""Nine lines that stand for almost half a billion values."""


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_within_its_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", 5) == b"12345"
    with pytest.raises(Malformed, match="has 5 bytes, more than the 4 "):
        read_bytes(tmp_path / "a", 4)


def test_ten_gigabytes_of_nothing_are_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(Malformed, match="10,737,418,240 bytes"):
        read_json(tmp_path / "sparse")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path, 10)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(Malformed, match="pipe"):
            read_bytes(tmp_path / "pipe", 10)
    if Path("/dev/zero").exists():
        with pytest.raises(Malformed, match="device"):
            read_bytes(Path("/dev/zero"), 10)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no sockets among the files")
def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the names of sockets must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        with pytest.raises((Malformed, OSError)):
            read_bytes(Path("s"), 10)


# -- JSON --------------------------------------------------------------------------------------------------------------


@given(PLAIN)
def test_what_python_writes_is_read(value: Any) -> None:
    assert json_of(json.dumps(value).encode()) == value
    assert json_of(json.dumps(value, ensure_ascii=False).encode("utf-8-sig")) == value


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"a": 1}\n\xff', r"not UTF-8 \(line 2\)"),
        (b'{"a": 1, "b": 2, "a": 3}', "gives 'a' twice"),
        (b'[{"a": {"b": 1, "b": 2}}]', "gives 'b' twice"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"1e999", "too large"),
        (b"9" * 5000, "5,000 digits"),
        (b"-" + b"9" * 41, "digits"),
        (b"[" * (DEPTH + 2) + b"]" * (DEPTH + 2), f"more than {DEPTH} deep"),
        (b"[" * 1_000_000, "deep"),
        (b'{"a":' * 100_000, "deep"),
        (b"1 2", "not JSON"),
        (b"\x00", "not JSON"),
    ],
)
def test_what_is_no_json(content: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        json_of(content)


def test_as_deep_as_may_be() -> None:
    json_of("[" * DEPTH + "]" * DEPTH)


# -- YAML --------------------------------------------------------------------------------------------------------------


@given(SETTINGS)
def test_what_a_run_writes_is_read(values: dict[str, Any]) -> None:
    assert yaml_of(yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()) == values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-05-01", "2024-05-01"),
        ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"),
        ("12:30", "12:30"),
        ("-1:30:00.5", "-1:30:00.5"),
        ("=", "="),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        ("a: &x 3\nb: [*x, *x]", {"a": 3, "b": [3, 3]}),
        ("", None),
        ("1_000", 1000),
        ("0x1f", 31),
        ("1.5e+3", 1500.0),
        ("[1, two, ~]", [1, "two", None]),
        ("f" * 64, "f" * 64),
        ("'" + "9" * 64 + "'", "9" * 64),
    ],
)
def test_settings_are_words_and_numbers(text: str, value: Any) -> None:
    assert yaml_of(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"a: \xff", "not UTF-8"),
        ("a: [1", "line 1, column"),
        ("a: 1\na: 2", r"gives 'a' twice \(line 1\)"),
        ("a: &x [*x]", r"refers to \*x, which is not complete before"),
        ("a: *x", r"refers to \*x"),
        (BOMB, "more than 10,000 values"),
        ("a: &x " + "[" * 20 + "]" * 20 + "\nb: " + "[" * 20 + "*x" + "]" * 20, "deep"),
        ("!!python/object/apply:os.getcwd []", "python/object"),
        ("a: !!binary aGk=", "tag"),
        ("a: ! 1", "tag|not YAML"),
        ("[" * 100_000, "deep"),
        ("- " * 5_000, "deep"),
        ("a: " + "9" * 5000, "5,000 digits"),
        ("a: 0x" + "f" * 5000, "digits"),
        ("0b_", "not YAML"),
        (".nan", "not finite"),
        ("a: [1, -.inf]", "not finite"),
        ("1.0e+999", "not finite"),
        ("{[1]: 2}", "for a name"),
        ("--- 1\n--- 2", "not YAML"),
        ("a: \x07", "not YAML"),
        ("[" + "1," * 20_000 + "]", "more than 10,000 values"),
    ],
)
def test_what_is_no_file_of_settings(text: str | bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        yaml_of(text)


@pytest.mark.parametrize("value", [None, [], {}, "finetune", 3, {1: 2}, {"a": 1, None: 2}])
def test_what_holds_no_settings(value: Any) -> None:
    with pytest.raises(Malformed):
        settings_of(value)


# -- schemas -----------------------------------------------------------------------------------------------------------


class Point(Schema):
    x: int
    names: list[str] = Field(default_factory=list)


@dataclass
class Entry:
    count: int
    names: list[str] = field(default_factory=list)
    last: str | None = None


@pytest.mark.parametrize(
    ("schema", "value", "reason"),
    [
        (Point, {"x": "1"}, r"wrong in 'x' \(Input should be a valid integer"),
        (Point, {"x": True}, "'x'"),
        (Point, {"x": 1.5}, "'x'"),
        (Point, {"x": 1, "names": ["a", 2]}, r"'names\.1'"),
        (Point, {}, r"'x' \(Field required"),
        (Point, [], "is wrong .Input"),
        (Entry, {"count": 1, "more": 2}, "'more'"),
        (Entry, {"count": None}, "'count'"),
        (Entry, {"last": "x"}, "'count'"),
    ],
)
def test_what_does_not_fit_names_its_field(schema: type[Any], value: Any, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        fitting(schema, value)


def test_what_fits() -> None:
    assert fitting(Point, {"x": 1, "y": 2}) == Point(x=1)
    assert fitting(Entry, {"count": 1}) == Entry(1)
    assert fitting(Entry, {"count": 1, "names": ["a"], "last": "b"}) == Entry(1, ["a"], "b")


def test_what_is_shown_is_short_and_has_no_power_over_the_terminal() -> None:
    assert shown("a\x1b[31m\nb") == "'a\\x1b[31m\\nb'"
    assert shown("größe") == "'größe'"
    assert len(shown("x" * 10_000)) < 100
