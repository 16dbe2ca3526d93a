"""What a person sees while a run is under way: progress bars (loss, speed, time left) and lines of text."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


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
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def bar(self, what: str, total: int | None = None) -> Iterator[Callable[[int, int], None]]:
        """A bar for work counted in images; yields `update(done, total)`."""
        with self._progress(TextColumn("")) as progress:
            task = progress.add_task(what, total=total, visible=False)
            yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)

    @contextlib.contextmanager
    def training(self, what: str, total: int, done: int = 0) -> Iterator[Callable[[Step], None]]:
        """A bar for training steps; yields `advance(step)`."""
        with self._progress(TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:.0f} images/s")) as progress:
            task = progress.add_task(what, total=total, completed=done, loss=float("nan"), speed=0.0)
            yield lambda now: progress.update(task, completed=now.step, loss=now.loss, speed=now.images_per_second)

    @contextlib.contextmanager
    def _progress(self, column: TextColumn) -> Iterator[Progress]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), column, TimeRemainingColumn())
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
    """Print a line on standard output, or on standard error."""
    print(text, file=sys.stderr if error else sys.stdout, flush=True)


def say_json(value: Any, indent: int | None = None) -> None:
    """Print a value as JSON on standard output, with escapes where its encoding lacks a character: no data are lost."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent)
    say(text)


def printed(result: RenderableType) -> None:
    """Print a command's result on standard output; piped into a file there is no screen to squeeze a table into."""
    console = Console()
    console.width = console.width if console.is_terminal else 200
    console.print(result)
