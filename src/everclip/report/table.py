"""A comparison of runs and its printed forms: terminal, CSV, LaTeX, plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.table import Table
from rich.text import Text

from everclip.errors import InputError
from everclip.report import plots
from everclip.report.cost import Cost
from everclip.report.results import text
from everclip.storage.files import write_whole
from everclip.system.paths import expanded

HEADLINE = ("transfer", "average", "last")
COLUMNS = (*HEADLINE, *(f"{name}_above_chance" for name in HEADLINE))
ANY = "any"
"""Stands for the value of a protocol field that does not matter to a run."""
_LATEX = {char: f"\\{char}" for char in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "[": "{[}",  # after a line's \\ a bracket would be read as the argument of it
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


@dataclass(frozen=True)
class Value:
    """One figure in percent: of a single run with its interval, or the mean over seeds with the deviation.

    `std` is the sample standard deviation over the seeds, None for a single run. `interval` is the 95 %
    bootstrap interval over the test images, None over several seeds. Published figures have neither.
    """

    mean: float
    std: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """Where the bar of a plot ends: the interval, or one deviation on each side."""
        return self.interval or (self.mean - (self.std or 0), self.mean + (self.std or 0))


@dataclass(frozen=True)
class Row:
    """The runs of one method under one protocol, which differ by their seeds alone.

    `label` is the method, with the settings in which it differs from the other rows of that method. `fields`
    holds the protocol fields in which the rows differ, empty unless they were mixed on purpose. `values` has
    one entry per name in `COLUMNS`, None where the figure is undefined. `by_dataset` has the same per dataset, per name
    in `HEADLINE`; it is empty unless published rows are laid out so. A published row has no seeds. `cost` is
    None unless it was asked for, and for a published row.
    """

    label: str
    seeds: tuple[int | str, ...]
    upper_bound: bool
    fields: dict[str, Any]
    values: dict[str, Value | None]
    by_dataset: dict[str, dict[str, Value | None]] = field(default_factory=dict)
    cost: Cost | None = None


@dataclass(frozen=True)
class Comparison:
    """Rows in the order the runs were given, upper bounds last, and the protocol fields that all share.

    `columns` are the figures shown, `notes` what must be said of them, a line each.
    """

    rows: tuple[Row, ...]
    protocol: dict[str, Any]
    columns: tuple[str, ...] = COLUMNS
    notes: tuple[str, ...] = ("* over the datasets on which the untouched CLIP is at least twice chance",)

    def best(self, column: str) -> list[Row]:
        """The rows with the highest figure as printed, to one decimal.

        Upper bounds do not compete, and across mixed protocols nobody does.
        """
        competing = [row for row in self.rows if not row.upper_bound and not row.fields]
        printed = [(row, round(value.mean, 1)) for row in competing if (value := row.values[column])]
        highest = max((figure for _, figure in printed), default=None)
        return [row for row, figure in printed if figure == highest]

    def table(self) -> Table:
        """For the terminal: best figures bold, upper bounds under a line of their own."""
        shared = [f"{name} {text(value)}" for name, value in self.protocol.items() if name != "tasks"]
        table = Table(
            caption=Text("\n".join([*self.notes, " · ".join(shared)])),
            caption_justify="left",
            box=box.HORIZONTALS,
            padding=0,  # six figures with their intervals fit in 80 columns
        )
        for head in ("method", *self._fields(), "seeds"):
            table.add_column(Text(head))
        for name in self.columns:
            head = name.replace("_above_chance", "*").capitalize()
            table.add_column(head, justify="right", no_wrap=True, min_width=len("00.0–00.0"))
        for row, last in self._with_last_competitor():
            cells = [Text(row.label), *(Text(text(value)) for value in row.fields.values())]
            cells.append(Text(" ".join(map(str, row.seeds))))
            cells += [_cell(row.values[name], row in self.best(name)) for name in self.columns]
            table.add_row(*cells, end_section=last)
        return table

    def tables_by_dataset(self) -> list[Table]:
        """For the terminal: one table per figure with a column per dataset, of the rows that have them."""
        rows = [(row, last) for row, last in self._with_last_competitor() if row.by_dataset]
        tables = []
        for name in self.columns if rows else ():
            table = Table(title=name.capitalize(), box=box.HORIZONTALS, padding=0)
            table.add_column("method")
            for head in (*self.protocol["tasks"], "mean"):
                table.add_column(Text(head.replace("_", " ")), justify="right", min_width=len("± 0.0"))
            for row, last in rows:
                values = (*row.by_dataset[name].values(), row.values[name])
                table.add_row(Text(row.label), *map(_cell, values), end_section=last)
            tables.append(table)
        return tables

    def table_of_costs(self) -> Table:
        """For the terminal: what each row costs per task, of the rows for which that was read."""
        table = Table(title="Cost of a task", box=box.HORIZONTALS, padding=0)
        table.add_column("method")
        for head in ("seeds", "numbers trained", "seconds, least to most", "kept"):
            table.add_column(head, justify="right")
        for row, last in self._with_last_competitor():
            if row.cost is not None:
                seeds = " ".join(map(str, row.seeds))
                table.add_row(Text(row.label), seeds, *_cost_cells(row.cost), end_section=last)
        return table

    def csv(self) -> str:
        """Every figure in full precision, one line per row; an undefined one is empty."""
        parts = ("", "_std", "_low", "_high")
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        heads = [f"{name}{part}" for name in self.columns for part in parts]
        if costs := any(row.cost for row in self.rows):
            heads += ["trained_per_task", "seconds_per_task_low", "seconds_per_task_high", "bytes_per_task"]
        writer.writerow(["method", "upper_bound", *self._fields(), "seeds", *heads])
        for row in self.rows:
            figures: list[float | None] = []
            for value in map(row.values.get, self.columns):
                low, high = (value and value.interval) or (None, None)
                figures += [value.mean, value.std, low, high] if value else [None] * len(parts)
            if costs:
                figures += [row.cost.trained, *row.cost.ends, row.cost.kept] if row.cost else [None] * 4
            fields = [text(value) for value in row.fields.values()]
            seeds = " ".join(map(str, row.seeds))
            writer.writerow([row.label, str(row.upper_bound).lower(), *fields, seeds, *figures])
        return file.getvalue()

    def latex(self) -> str:
        """A `tabular` for the booktabs package: best figures bold, upper bounds under a line of their own."""
        left = ["Method", *map(_escape, self._fields()), "Seeds"]
        first = len(left) + 1
        groups = ((first, "All datasets"), (first + len(HEADLINE), "At least twice chance"))
        over = [
            " & " * (len(left) - 1)
            + "".join(rf" & \multicolumn{{{len(HEADLINE)}}}{{c}}{{{title}}}" for _, title in groups)
            + r" \\",
            " ".join(rf"\cmidrule(lr){{{start}-{start + len(HEADLINE) - 1}}}" for start, _ in groups),
        ]
        lines = [
            rf"\begin{{tabular}}{{{'l' * len(left)}{'r' * len(self.columns)}}}",
            r"\toprule",
            *(over if self.columns == COLUMNS else ()),
            " & ".join([*left, *(name.removesuffix("_above_chance").capitalize() for name in self.columns)]) + r" \\",
            r"\midrule",
        ]
        for row, last in self._with_last_competitor():
            cells = [_escape(row.label), *(_escape(text(value)) for value in row.fields.values())]
            cells.append(" ".join(map(str, row.seeds)))
            for name in self.columns:
                value = row.values[name]
                if value is None:
                    cells.append("--")
                    continue
                mean = f"{value.mean:.1f}"
                shown = rf"\textbf{{{mean}}}" if row in self.best(name) else mean
                spread = _spread(value).replace("±", r"$\pm$")
                cells.append(rf"{shown} {{\scriptsize {spread}}}" if spread else shown)
            lines.append(" & ".join(cells) + r" \\")
            if last:
                lines.append(r"\midrule")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])

    def plot(self) -> Figure:
        """Transfer, Average and Last as points; bars are a run's interval, or one deviation over seeds."""
        points = []
        for row in self.rows:
            fields = [f"{name} {text(value)}" for name, value in row.fields.items()]
            label = " · ".join([row.label, *fields, *(["upper bound"] if row.upper_bound else [])])
            values = {name: row.values[name] for name in HEADLINE}
            bars = {name: (value.mean, *value.ends) if value else None for name, value in values.items()}
            points.append((label, bars))
        return plots.comparison(points)

    def save(self, csv: Path | None = None, latex: Path | None = None, plot: Path | None = None) -> None:
        """Write the comparison to files, each whole or not at all.

        Raises:
            InputError: a file cannot be written, or the plot's suffix is no image format.
        """
        writers: tuple[tuple[Path | None, Callable[[Path], None]], ...] = (
            (csv, lambda path: write_whole(path, self.csv())),
            (latex, lambda path: write_whole(path, self.latex())),
            (plot, lambda path: plots.save(self.plot(), path)),
        )
        for path, write in writers:
            if path is None:
                continue
            path = expanded(path)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path)
            except (OSError, ValueError) as error:
                raise InputError(f"{path} can't be written: {error}.") from error

    def _fields(self) -> list[str]:
        return list(self.rows[0].fields)

    def _with_last_competitor(self) -> Iterator[tuple[Row, bool]]:
        """Each row, and whether the upper bounds begin after it."""
        for row, following in zip(self.rows, [*self.rows[1:], None], strict=True):
            yield row, following is not None and following.upper_bound and not row.upper_bound


def _cell(value: Value | None, best: bool = False) -> Text:
    """A figure, and under it how sure it is."""
    if value is None:
        return Text("–")
    cell = Text(f"{value.mean:.1f}", style="bold" if best else "")
    if spread := _spread(value):
        cell.append(f"\n{spread.strip('[]').replace(', ', '–')}", style="not bold dim")
    return cell


def _cost_cells(cost: Cost) -> tuple[str, str, str]:
    low, high = cost.ends
    seconds = "–" if low is None else f"{low:,.1f}–{high:,.1f}"
    kept = "–" if cost.kept is None else f"{cost.kept / 1e6:,.2f} MB"
    return f"{cost.trained:,}", seconds, kept


def _spread(value: Value) -> str:
    if value.std is not None:
        return f"± {value.std:.1f}"
    return f"[{value.interval[0]:.1f}, {value.interval[1]:.1f}]" if value.interval else ""


def _escape(name: str) -> str:
    return "".join(_LATEX.get(char, char) for char in name)
