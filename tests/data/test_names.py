"""What a task may be called, the same at every door."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everclip.data import task_name
from everclip.data.names import LONGEST_TASK_NAME
from everclip.errors import InputError

GOOD = [
    "birds",
    "indoor/outdoor",
    "50 %",
    "a?b#c",
    "..a",
    "...",
    "鳥",
    "می‌خواهم",
    "👩‍🚀",
    "a" * LONGEST_TASK_NAME,
    "[red]",
    "<b>",
]
BAD = [
    "",
    "  ",
    ".",
    "..",
    "a\nb",
    "a\tb",
    "\x1b[31mred",
    "a\x00",
    "a\x7f",
    "a\x9bb",
    "\u202eabc",
    "a" * 201,
    "a\udcffb",
]


@pytest.mark.parametrize("name", GOOD)
def test_a_name_that_can_be_shown_is_taken_without_the_spaces_around_it(name: str) -> None:
    assert task_name(name, "it") == name
    assert task_name(f" {name}\n", "it") == name


@pytest.mark.parametrize("name", BAD)
def test_any_other_is_refused_in_one_sentence_that_shows_nothing_of_it_raw(name: str) -> None:
    with pytest.raises(InputError, match=r"^the stream has .*(give|rename)") as refusal:
        task_name(name, "the stream")
    assert str(refusal.value).isprintable()


@given(st.text(max_size=220))
def test_whatever_is_taken_is_short_and_shown_on_one_line(name: str) -> None:
    try:
        plain = task_name(name, "it")
    except InputError:
        return
    assert 0 < len(plain) <= LONGEST_TASK_NAME
    assert plain.replace("\u200c", "").replace("\u200d", "").isprintable()
    assert task_name(plain, "it") == plain
