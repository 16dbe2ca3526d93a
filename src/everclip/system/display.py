"""What a person sees while a run is under way: progress bars (loss, speed, time left) and lines of text."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment

_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What commands a terminal or turns the direction of writing, and halves of characters; not tab and newline."""


def visible(text: str, lines: bool = False) -> str:
    """A text that a terminal shows and does not obey: what would command it becomes an escape such as `\\x1b`.

    File names, tasks, classes and labels may hold anything, and whoever reads them has not written them.

    Args:
        text: whatever it is.
        lines: it may have several lines; a name may not.
    """
    safe = _COMMANDS.sub(_escaped, text)
    return safe if lines else safe.replace("\n", "\\n").replace("\t", "\\t")


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode("ascii")


class Visible:
    """Something to print whose texts are all `visible`."""

    def __init__(self, result: RenderableType) -> None:
        self._result = result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._result, options):
            yield segment if segment.control else Segment(visible(segment.text, lines=True), segment.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._result)


class Step(Protocol):
    """What a bar shows of a step of training."""

    @property
    def step(self) -> int:
        """How many steps are done."""

    @property
    def loss(self) -> float:
        """Of the latest batch."""

    @property
    def images_per_second(self) -> float:
        """Of the latest steps."""


class Display:
    """Progress on a console, or nowhere.

    Args:
        quiet: show nothing.
        console: where to; standard error by default, so that results alone go to standard output.
    """

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, quiet=quiet)

    def note(self, text: str) -> None:
        """Print a line, however long: a path that is broken in two cannot be copied."""
        self.console.print(visible(text, lines=True), highlight=False, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def bar(self, what: str, total: int | None = None) -> Iterator[Callable[[int, int], None]]:
        """A bar for work counted in images; yields `update(done, total)`."""
        with self._progress(TextColumn("")) as progress:
            task = progress.add_task(visible(what), total=total, visible=False)
            yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)

    @contextlib.contextmanager
    def training(self, what: str, total: int, done: int = 0) -> Iterator[Callable[[Step], None]]:
        """A bar for training steps; yields `advance(step)`."""
        with self._progress(TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:.0f} images/s")) as progress:
            task = progress.add_task(visible(what), total=total, completed=done, loss=float("nan"), speed=0.0)
            yield lambda now: progress.update(task, completed=now.step, loss=now.loss, speed=now.images_per_second)

    @contextlib.contextmanager
    def _progress(self, column: TextColumn) -> Iterator[Progress]:
        # Without markup: a task may be called "[red]".
        described = TextColumn("{task.description}", markup=False)
        columns = (described, BarColumn(), MofNCompleteColumn(), column, TimeRemainingColumn())
        # Bars in a log file or a pipe are noise: there the notes tell the story.
        # Results go to standard output while a bar is shown, and must not end up where the bar is.
        progress = Progress(
            *columns,
            console=self.console,
            transient=True,
            redirect_stdout=False,
            disable=not self.console.is_terminal,
        )
        # Not even begun, for rich 13 ends a disabled one with an empty line.
        with contextlib.nullcontext() if progress.disable else progress:
            yield progress


def replace_unprintable() -> None:
    """From now on, a character that the encoding of standard output or error lacks becomes `?` there.

    Otherwise it would end the program, and the result of its work were lost. An encoding is ASCII or Latin-1 on many a
    server, and it is not ours to change: whoever reads expects it. Whoever chose another way (PYTHONIOENCODING) has it.
    """
    for stream in (sys.stdout, sys.stderr):
        chosen = getattr(stream, "errors", None) not in ("strict", "surrogateescape", None)
        if not chosen and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def on_screen() -> bool:
    """Whether somebody sees standard output, now."""
    return sys.stdout is not None and sys.stdout.isatty()


def say(text: str, error: bool = False) -> None:
    """Print text on standard output, or on standard error; see `visible`."""
    print(visible(text, lines=True), file=sys.stderr if error else sys.stdout, flush=True)


def say_json(value: Any, indent: int | None = None) -> None:
    """Print a value as JSON on standard output, with escapes where its encoding lacks a character: no data are lost."""
    text = _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, indent=indent, ensure_ascii=False))
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent)
    say(text)


def printed(result: RenderableType) -> None:
    """Print a command's result on standard output; piped into a file there is no screen to squeeze a table into."""
    console = Console()
    console.width = console.width if console.is_terminal else 200
    console.print(Visible(result))
