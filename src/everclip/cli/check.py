"""The command `check`: what would be learned of a source, and what in it deserves a second look."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everclip.cli.options import path_argument, path_option
from everclip.errors import InputError
from everclip.system.display import Display, printed, say, say_json, visible

if TYPE_CHECKING:
    from everclip.data import Checked

# What imports numpy or torch is imported inside the command, as in `cli`.

LINES = 20
"""Lines of a list on the terminal; `--json` has all."""
WORKERS = min(8, os.cpu_count() or 1)


def check(
    source: Annotated[Path, path_argument("FOLDER", "What learn or evaluate would be given.")],
    model: Annotated[
        Path | None, path_option("A learner's directory: which classes does it know already?", "MODEL_DIR")
    ] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every image: finds all damage, and copies stored in other ways.")
    ] = False,
    html: Annotated[Path | None, path_option("Also draw a contact sheet, one HTML file.", "FILE.html")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what would be learned of images, and what deserves a second look, without learning."""
    from everclip.data import check as look
    from everclip.data import contact_sheet, read
    from everclip.storage.files import atomic_file

    known = _known(model) if model is not None else None
    if html is not None and html.is_dir():
        raise InputError(f"{html} is a folder; name a file for the contact sheet.")
    display = Display()
    found = read(source)
    with display.bar("decoding" if decode else "reading headers") as bar:
        checked = look(found, known, decode, WORKERS, bar)
    if html is not None:
        with display.bar("drawing") as bar:
            page = contact_sheet(found, checked, WORKERS, bar)
        with atomic_file(html) as file:
            file.write(page.encode())
        display.note(visible(f"contact sheet: {html}"))
    if as_json:
        say_json(checked.as_json(), indent=1)
    else:
        _show(checked)


def _known(model: Path) -> dict[str, list[str]]:
    """Task → its classes, of a learner."""
    from everclip.learner import LearnerDirectory
    from everclip.learner.card import summary

    return {task["name"]: task["classes"] for task in summary(LearnerDirectory(model).peek())["tasks"]}


def _show(checked: Checked) -> None:
    from rich.markup import escape
    from rich.table import Table

    say(visible(f"{checked.name}: {checked.images} images of {len(checked.classes)} classes ({checked.where})"))
    say(visible(f"read as: {checked.read_as}"))
    if checked.learned != "all":
        say(visible(f"learn takes {checked.learned or 'nothing'}, evaluate {checked.judged or 'nothing'}"))
    table = Table("class", *checked.parts, *(["known to"] if checked.known is not None else []), box=None)
    for name, counts in checked.classes.items():
        tasks = [escape(", ".join(checked.known[name]))] if checked.known is not None else []
        table.add_row(escape(name), *(str(counts.get(part, 0)) for part in checked.parts), *tasks)
    printed(table)
    if checked.left_out:
        say(visible(checked.left_out_in_words))
    if checked.empty:
        say(visible(f"no image of {', '.join(checked.empty)}"))
    _lines("can't be used", [f"{name}: {reason}" for name, reason in checked.broken])
    lines = []
    for group in checked.copies:
        places = " and ".join(group.classes) if len(group.classes) > 1 else ""
        parts = " and ".join(group.parts) if len(group.parts) > 1 else ""
        wrong = "; ".join(filter(None, (places and f"as {places}", parts and f"in {parts}")))
        lines.append(f"{' = '.join(group.names)}{f' ({wrong})' if wrong else ''}")
    _lines("there more than once", lines)
    _lines("classes with few images to learn", [f"{name}: {count}" for name, count in checked.tiny.items()])
    _lines("names that look alike", [f"{one} · {other}" for one, other in checked.alike])
    _lines("one class, written in several ways", [" · ".join(ways) for ways in checked.spellings.values()])


def _lines(what: str, lines: list[str]) -> None:
    if lines:
        say(visible(f"{what} ({len(lines)}):"))
        for line in lines[:LINES]:
            say(visible(f"  {line}"))
        if len(lines) > LINES:
            say(visible(f"  and {len(lines) - LINES} more; --json has all"))
