"""Whoever ends a command, or takes its disk away, finds what was before or what would have been after."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import kill
from everclip.errors import EverclipError
from everclip.methods import METHODS


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> kill.Workshop:
    return kill.Workshop(tmp_path_factory.mktemp("kills") / "workshop")


def test_every_method_is_killed() -> None:
    ours = {name for name in METHODS if METHODS.origin(name) == "everclip"}
    assert ours == set(kill.METHODS)
    assert {name for name in ours if METHODS.find(name).forgets} == set(kill.TAUGHT)


@pytest.mark.slow
@pytest.mark.parametrize("name", kill.COMMANDS)
def test_killed_at_random_moments(workshop: kill.Workshop, name: str, tmp_path: Path) -> None:
    draw = random.Random(name)
    for number in range(1 if name == "export" else 2):  # that takes as long as ten others
        workshop.kill(name, draw.random(), tmp_path / str(number))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run-finetune", "learn-moe-adapters"])
def test_full_disks(workshop: kill.Workshop, name: str, tmp_path: Path) -> None:
    sizes = workshop.sizes(name, kill.DISKS)
    assert len(set(sizes)) == kill.DISKS
    for size in sizes:
        workshop.full_disk(name, size, tmp_path / str(size))


@pytest.mark.slow
def test_what_is_between_is_noticed(workshop: kill.Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give = workshop.give

    def spoil(words: list[str], here: Path, **options: float) -> kill.Ended:
        done = give(words, here, **options)
        (here / "rail/learner.json").write_bytes((workshop.made / "lda/learner.json").read_bytes())
        return done

    workshop.whole("learn-lda")
    workshop.whole("forget-rail")
    monkeypatch.setattr(workshop, "give", spoil)
    with pytest.raises(EverclipError, match=r"forget-rail killed after 50% of its time left .*is missing"):
        workshop.kill("forget-rail", 0.5, tmp_path / "here")
