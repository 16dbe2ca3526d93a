"""Damaged and hostile files of every kind end in one sentence, whatever is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everclip.errors import InputError
from fuzz import METHODS, Kind, Kinds, fuzz, intact, quiet, tried
from mutations import NUMBER, bytes_of, json_bytes, value_of

PLAIN = (
    "lock.owner", "--set", "recipe", "config.yaml", "dataset.json", "embeddings.npz", "texts.txt", "events.jsonl",
    "results.json", "split.json", "coop.json", "state.json", "run/rail", "run/moe-adapters",
)  # fmt: skip
LEARNERS = tuple(f"{part}/{method}" for method in METHODS for part in ("learner.json", "learner"))
FAST = (*PLAIN[:-1], "learner.json/rail", "learner/rail", "learner/lda")
"""Of these a few are tried whenever the tests run."""

RANDOMS = st.randoms(use_true_random=False)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Kinds:
    return Kinds(tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with quiet():
        yield tmp_path_factory.mktemp("changed")


def assert_said(kinds: Kinds, name: str, folder: Path, examples: int) -> None:
    place = folder / name.replace("/", "-")
    place.mkdir(exist_ok=True)
    intact(kinds[name], name, place)

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(RANDOMS)
    def said(random: Random) -> None:
        outcome = tried(kinds[name], random, place)
        assert not outcome.wrong, outcome.wrong

    said()


def test_every_kind_is_tried(kinds: Kinds) -> None:
    assert sorted((*PLAIN, *LEARNERS)) == sorted(kinds)


@pytest.mark.parametrize("name", FAST)
def test_a_few_changed_files(kinds: Kinds, folder: Path, name: str) -> None:
    assert_said(kinds, name, folder, 12)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PLAIN, *LEARNERS])
def test_many_changed_files(kinds: Kinds, folder: Path, name: str) -> None:
    assert_said(kinds, name, folder, 60 if "moe" not in name else 25)


# -- the tool itself ---------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_inputs(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def change(random: Random, files: dict[str, bytes]) -> dict[str, bytes]:
        files["a"] = bytes_of(random, files["a"])
        return files

    kind = Kind({"a": b"0123456789"}, change, lambda folder, random: seen.append((folder / "a").read_bytes()))
    for first in (0, 0, 5):
        assert fuzz({"a": kind}, 10 - first, 3, first=first)["a"].accepted == 10 - first
    whole, again, last = seen[1:11], seen[12:22], seen[23:]  # before each, the file as it is
    assert whole == again
    assert last == whole[5:]
    assert len(set(whole)) > 3


def test_a_find_is_kept_with_what_was_raised(tmp_path: Path) -> None:
    def use(folder: Path, random: Random) -> None:
        content = (folder / "a").read_bytes()
        if content != b"intact":
            raise (
                KeyError(content.decode())
                if content == b"1"
                else InputError("two\nlines" if content == b"2" else "one")
            )

    numbers = iter(range(1, 100))
    kind = Kind({"a": b"intact"}, lambda random, files: {"a": str(next(numbers)).encode()}, use)
    found = fuzz({"k": kind}, 4, 0, tmp_path)["k"]
    assert (found.accepted, found.refused) == (0, 3)  # an error's own text is one line, whatever was put into it
    assert [find.partition(": ")[0] for find in found.finds] == ["k --seed 0 --first 0"]
    assert (tmp_path / "k-0-0/a").read_bytes() == b"1"
    assert "KeyError: '1'" in (tmp_path / "k-0-0/raised.txt").read_text()


def test_an_example_that_is_refused_is_no_example(tmp_path: Path) -> None:
    def use(folder: Path, random: Random) -> None:
        raise InputError("no")

    with pytest.raises(InputError):
        fuzz({"k": Kind({}, lambda random, files: files, use)}, 1, 0)


@given(RANDOMS)
def test_changed_values_become_text_whatever_they_are(random: Random) -> None:
    value = {"a": [1, "b", {"c": None}], "long": NUMBER + "9" * 5000, "again": NUMBER + "1e999"}
    text = json_bytes(random, value_of(random, value)).decode("utf-8", "surrogatepass")
    assert NUMBER not in text
