"""`everclip data`: the data sets of the published benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from everclip.cli.options import path_option
from everclip.errors import InputError
from everclip.system.display import Display, printed, say

# What imports torch is imported inside the commands, as in `cli`.

data_app = typer.Typer(help="The data sets of the published benchmarks: list them, bring them to disk.")

Root = Annotated[Path | None, path_option("Folder of the published data sets; by default $EVERCLIP_DATA, else ./data.")]


@data_app.command("list")
def list_sets(root: Root = None) -> None:
    """List the data sets, their sizes, and how one gets them."""
    from everclip.data.published import DATASETS, data_root
    from everclip.streams import GROUPS

    folder = data_root(root)
    rows = []
    for name, published in DATASETS.usable().items():
        benchmarks = ", ".join(group for group, names in GROUPS.items() if name in names)
        source = "download" if published.fetch else "by hand"
        there = "yes" if (folder / name).is_dir() else "no"
        rows.append((name, benchmarks, published.classes, published.train, published.test, source, there))
    printed(_table(("set", "used by", "classes", "train", "test", "source", f"in {folder}"), rows))


@data_app.command("prepare")
def prepare_sets(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Data sets, or all of mtil, xtail or cil.")],
    root: Root = None,
) -> None:
    """Download data sets, check that they are complete, and keep their splits; what is ready stays as it is."""
    from everclip.data.published import DATASETS, data_root
    from everclip.data.published.prepare import prepare, published_counts
    from everclip.streams import GROUPS

    chosen = list(dict.fromkeys(part for name in names for part in GROUPS.get(name, (name,))))
    if unknown := [name for name in chosen if name not in DATASETS]:
        raise InputError(f"there is no data set '{unknown[0]}'; choose from {', '.join((*GROUPS, *DATASETS))}.")
    chosen_sets = [DATASETS.find(name) for name in chosen]
    display = Display()
    rows, problems = [], []
    for published in chosen_sets:
        display.note(f"{published.name} …")
        outcome = prepare(published, data_root(root))
        found, complete = outcome.counts, published_counts(published)
        cells = [
            f"– of {want}" if found is None else f"{have} of {want}" if have != want else want
            for have, want in zip(found or complete, complete, strict=True)
        ]
        rows.append((published.name, outcome.state, *cells))
        problems += [outcome.problem] if outcome.problem else []
    printed(_table(("set", "state", *complete._fields), rows))
    for problem in problems:
        say(f"everclip: {problem}", error=True)
    raise typer.Exit(1 if problems else 0)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str | int]]) -> Table:
    table = Table(box=None, padding=(0, 1))
    for title in titles:
        table.add_column(Text(title), justify="right" if title in ("classes", "train", "test") else "left")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    return table
