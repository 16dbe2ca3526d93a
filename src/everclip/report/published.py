"""The published rows of the benchmarks, alone and beside our runs, and where a run's protocol departs from theirs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from rich.table import Table
from rich.text import Text

from everclip.errors import InputError
from everclip.report.results import text
from everclip.report.table import ANY, HEADLINE, Comparison, Row, Value
from everclip.streams import SEEDS, Protocol, stream_defaults

_OURS = (*SEEDS, "selector")
"""Protocol fields that published rows do not share."""


@dataclass(frozen=True)
class PublishedRow:
    """One published row.

    Attributes:
        values: per name in `HEADLINE`, in percent as printed; None where it was not published.
        per_dataset: per name in `HEADLINE` one figure per data set, in the order of the stream; empty where they were
            not published.
        paper, year: where the method comes from; None where that is not recorded.
        remark: what sets the row apart from the others.
    """

    method: str
    values: dict[str, float | None]
    per_dataset: dict[str, list[float | None]]
    paper: str | None
    year: int | None
    remark: str


@dataclass(frozen=True)
class Benchmark:
    """The published rows of one stream under one protocol, best Last first.

    Attributes:
        about: what it is, in words.
        note: where the rows come from, if that needs saying.
        protocol: the published protocol, by the names of a run's.
        always: in what every run of ours departs from it.
    """

    name: str
    about: str
    note: str
    protocol: dict[str, Any]
    always: tuple[str, ...]
    rows: tuple[PublishedRow, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The figures that the field publishes here."""
        return tuple(name for name in HEADLINE if any(row.values[name] is not None for row in self.rows))

    @property
    def per_dataset(self) -> bool:
        """Whether rows were published data set by data set."""
        return any(row.per_dataset for row in self.rows)

    def table(self) -> Table:
        """For the terminal."""
        table = Table(title=Text(self.about), caption=Text(self.note), caption_justify="left", box=None, padding=(0, 1))
        for title in ("method", *self.columns, "year", "paper"):
            table.add_column(title, justify="right" if title in HEADLINE else "left")
        shown = [value for row in self.rows for value in row.values.values() if value is not None]
        digits = 1 if all(value == round(value, 1) for value in shown) else 2  # as the field prints them
        for row in self.rows:
            values = [row.values[name] for name in self.columns]
            figures = ("–" if value is None else f"{value:.{digits}f}" for value in values)
            table.add_row(Text(_called(row)), *figures, str(row.year or "–"), Text(row.paper or "–"))
        return table


@cache
def benchmarks() -> dict[str, Benchmark]:
    """Every benchmark of which rows are on record, by name."""
    recorded = json.loads((files("everclip.report") / "published.json").read_text(encoding="utf-8"))
    return {name: _benchmark(name, entry, recorded["sources"]) for name, entry in recorded["benchmarks"].items()}


def read_benchmark(name: str) -> Benchmark:
    """One benchmark.

    Raises:
        InputError: no rows of that name.
    """
    if name not in benchmarks():
        raise InputError(f"no rows are on record for benchmark '{name}'; choose one of {', '.join(benchmarks())}.")
    return benchmarks()[name]


def overview() -> Table:
    """All benchmarks, for the terminal."""
    table = Table(box=None, padding=(0, 1), show_header=False)
    for benchmark in benchmarks().values():
        table.add_row(Text(benchmark.name, style="bold"), Text(benchmark.about), f"{len(benchmark.rows)} rows")
    return table


def beside(comparison: Comparison, benchmark: Benchmark) -> Comparison:
    """Our rows among the published ones, best Last first, upper bounds after them, with the departures in the notes.

    Raises:
        InputError: a run is of another stream.
    """
    stream = benchmark.protocol["stream"]
    for row in comparison.rows:
        if (held := {**comparison.protocol, **row.fields}["stream"]) != stream:
            raise InputError(
                f"'{row.label}' was run on stream '{held}', but the rows of {benchmark.name} are of '{stream}'; "
                "compare it with a benchmark of its own, see `everclip published`."
            )
    published = [_as_row(row, comparison) for row in benchmark.rows]
    rows = sorted([*comparison.rows, *published], key=lambda row: (row.upper_bound, -_last(row)))
    notes = (*departures(comparison, benchmark), *benchmark.always)
    return replace(comparison, rows=tuple(rows), columns=benchmark.columns, notes=notes)


def departures(comparison: Comparison, benchmark: Benchmark) -> list[str]:
    """Where the runs' protocol is not the published one, a line each."""
    lines = []
    for name, theirs in benchmark.protocol.items():
        ours = [{**comparison.protocol, **row.fields}.get(name, theirs) for row in comparison.rows]
        other = dict.fromkeys(text(value) for value in ours if value not in (theirs, ANY))
        if other:
            lines.append(f"{name}: {' or '.join(other)} here, {text(theirs)} in the published rows")
    return lines


def _benchmark(name: str, entry: Mapping[str, Any], sources: Mapping[str, Mapping[str, Any]]) -> Benchmark:
    usual = Protocol(**stream_defaults(entry["stream"])).model_dump(exclude={*_OURS, "routing"})
    protocol = {"stream": entry["stream"], "backbone": "ViT-B-16/openai", **usual, **entry["protocol"]}
    rows = [_published_row(method, row, sources.get(method, {})) for method, row in entry["rows"].items()]
    rows.sort(key=lambda row: -(row.values["last"] or 0))
    return Benchmark(name, entry["about"], entry["note"], protocol, tuple(entry["always"]), tuple(rows))


def _published_row(method: str, row: Mapping[str, Any], source: Mapping[str, Any]) -> PublishedRow:
    values = {name: row[name] for name in HEADLINE}
    known = row.get("per_dataset", {})
    return PublishedRow(method, values, known, source.get("paper"), source.get("year"), row.get("remark", ""))


def _as_row(row: PublishedRow, ours: Comparison) -> Row:
    """A published row as one of a comparison."""
    by_dataset = {name: _figures(ours.protocol["tasks"], figures) for name, figures in row.per_dataset.items()}
    values = _figures(row.values, list(row.values.values()))
    fields = dict.fromkeys(ours.rows[0].fields, "–")
    return Row(f"{_called(row)}, published", (), False, fields, values, by_dataset)


def _figures(names: Sequence[str] | Mapping[str, Any], values: Sequence[float | None]) -> dict[str, Value | None]:
    return {name: None if value is None else Value(value) for name, value in zip(names, values, strict=True)}


def _called(row: PublishedRow) -> str:
    return f"{row.method} ({row.remark})" if row.remark else row.method


def _last(row: Row) -> float:
    last = row.values["last"]
    return last.mean if last else 0.0
