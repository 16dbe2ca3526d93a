"""What others wrote is shown on a terminal, and does not command it."""

from __future__ import annotations

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

from everclip.system.display import Display, Visible, printed, say, say_json, visible

HOSTILE = "[/red]\x1b[2Jgone\x9b31m\x07\u202e"
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


def screen() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)


@given(st.text())
def test_visible_is_printable_and_leaves_plain_text_as_it_is(text: str) -> None:
    assert not COMMANDS.search(visible(text))
    assert "\n" not in visible(text)
    assert visible(text, lines=True).count("\n") == text.count("\n")
    visible(text).encode()
    if text.isprintable():
        assert visible(text) == text


def test_an_escape_tells_what_was_there() -> None:
    assert visible("a\x1b[31m\n\x9b\u202e\udcff") == r"a\x1b[31m\n\x9b\u202e\udcff"


def test_whatever_prints_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(box=None)
    table.add_column(Text(HOSTILE))
    table.add_row(Text(HOSTILE))
    printed(table)
    say(HOSTILE)
    say(HOSTILE, error=True)
    out, err = capsys.readouterr()
    for text in (out, err):
        assert not COMMANDS.search(text)
        assert "[/red]\\x1b[2Jgone" in text


def test_json_is_the_same_value_without_commands(capsys: pytest.CaptureFixture[str]) -> None:
    say_json({HOSTILE: [HOSTILE, "é鳥"]})
    out = capsys.readouterr().out
    assert not COMMANDS.search(out)
    assert json.loads(out) == {HOSTILE: [HOSTILE, "é鳥"]}
    assert "é鳥" in out


def test_a_note_and_a_bar_show_it() -> None:
    console = screen()
    display = Display(console=console)
    display.note(HOSTILE)
    with display.bar(HOSTILE, 2) as bar:
        bar(1, 2)
    with display.training(HOSTILE, 2):
        pass
    text = console.file.getvalue()
    assert text.count("\\x1b[2Jgone") >= 3
    # What is left are the bar's own commands: move the cursor, clear the line, hide and show the cursor.
    assert not COMMANDS.search(re.sub(r"\x1b\[\??\d*[A-Zhl]|\r", "", text.replace("\x1b[2K", "")))


def test_styles_survive() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=40)
    console.print(Visible(Text("bold", style="bold")))
    assert "\x1b[1mbold" in console.file.getvalue()
