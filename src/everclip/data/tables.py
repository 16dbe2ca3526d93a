"""A table of paths and labels, as labeling tools export it: CSV, TSV, or a JSON object per line."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from everclip.data.found import Listed, Unlabeled
from everclip.data.given import GivenImages
from everclip.data.how import How
from everclip.data.regular import NoRegularFile, read_regular
from everclip.data.rows import IMAGE_COLUMNS, LABEL_COLUMNS, PART_COLUMNS, Row, column, list_rows
from everclip.data.source import BadImage, ImageSource
from everclip.errors import InputError
from everclip.system.paths import expanded

SEPARATED = frozenset({".csv", ".tsv"})
JSON_LINES = frozenset({".jsonl", ".ndjson"})
_LONGEST_NUMBER = 400
"""Digits; Python refuses to read more than 4300, and no label has as many."""


def is_table(source: object) -> bool:
    """Whether it is the path of one, by its suffix."""
    return isinstance(source, str | Path) and Path(source).suffix.lower() in SEPARATED | JSON_LINES


def list_table(source: str | Path, how: How) -> Listed:
    """List the images that a table names, with their labels and parts.

    A path is relative to the folder that the table lies in. Without a column of parts, the table is not divided.

    Raises:
        InputError: the table cannot be read, or lacks a column.
    """
    path, rows = _rows(source)
    there = _columns(rows)
    paths = column(there, how.path_column, IMAGE_COLUMNS, "--path-column", str(source))
    labels = column(there, how.label_column, LABEL_COLUMNS, "--label-column", str(source))
    parts = column(there, how.part_column, PART_COLUMNS, "--part-column", str(source), needed=False)

    def read(number: int, row: dict[str, Any] | str) -> Row | BadImage:
        name = f"{source}, line {number}"
        if isinstance(row, str):
            return BadImage(name, row)
        if not _path(row, paths):
            return BadImage(name, "it names no image")
        if "://" in _path(row, paths):
            return BadImage(name, "it names an address, not a file; download the image first")
        return Row(name, row.get(str(labels)), row.get(parts) if parts else None)

    def images(kept: Sequence[int]) -> ImageSource:
        return _images(path, [_path(rows[index][1], paths) for index in kept])

    return list_rows((read(*row) for row in rows), images, str(source), path.stem)


def table_images(source: str | Path, how: How) -> Unlabeled:
    """The images that a table names, whatever their labels.

    Raises:
        InputError: as for `list_table`, or it names none.
    """
    path, rows = _rows(source)
    paths = column(_columns(rows), how.path_column, IMAGE_COLUMNS, "--path-column", str(source))
    named = [name for _, row in rows if (name := _path(row, paths))]
    if not named:
        raise InputError(f"{source} names no image in its column {paths}; add some, or give another --path-column.")
    return Unlabeled(_images(path, named), Counter())


def _images(table: Path, paths: Sequence[str]) -> ImageSource:
    return GivenImages([table.parent / path for path in paths])


def _path(row: dict[str, Any] | str, column: str | None) -> str:
    cell = row.get(str(column)) if isinstance(row, dict) else None
    path = cell.strip() if isinstance(cell, str) else ""
    return path if "/" in path else path.replace("\\", "/")  # a table that was written on Windows


def _columns(rows: Sequence[tuple[int, dict[str, Any] | str]]) -> list[str]:
    return list(dict.fromkeys(name for _, row in rows[:1000] if isinstance(row, dict) for name in row))


def _rows(source: str | Path) -> tuple[Path, list[tuple[int, dict[str, Any] | str]]]:
    """The rows, each with the line it ends on: its cells by column, or what is wrong with it."""
    path = expanded(source)
    try:
        text = read_regular(path).decode("utf-8-sig")
    except NoRegularFile as error:
        raise InputError(f"{source} cannot be read: {error}; name a table.") from error
    except OSError as error:
        raise InputError(f"cannot read {source} ({error.strerror}); check the path and its permissions.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not in UTF-8 (byte {error.start}); save it as UTF-8.") from error
    suffix = path.suffix.lower()
    rows = list(_json_lines(text) if suffix in JSON_LINES else _separated(text, suffix))
    if not any(isinstance(row, dict) for _, row in rows):
        first = f" (line {rows[0][0]}: {rows[0][1]})" if rows else ""
        raise InputError(f"{source} has no row that can be read{first}; a table has a line of column names, then rows.")
    return path, rows


def _separated(text: str, suffix: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    first = text.partition("\n")[0]
    by = "\t" if suffix == ".tsv" else max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=by)
    header: list[str] | None = None
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, f"it cannot be read ({error})"
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
        elif len(cells) > len(header):
            yield reader.line_num, f"it has {len(cells)} cells, but there are {len(header)} columns"
        elif any(cell.strip() for cell in cells):
            yield reader.line_num, dict(zip(header, cells, strict=False))


def _json_lines(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(text.split("\n"), 1):  # other ends of lines may stand inside a text
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_int=_whole)
        except (ValueError, RecursionError) as error:
            yield number, f"it is no JSON ({error})"
            continue
        yield number, row if isinstance(row, dict) else "it is no JSON object {…}"


def _whole(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
