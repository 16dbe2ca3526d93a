"""`everclip data`: what it prints where, and its exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

from everclip.cli import main
from everclip.data.published import PUBLISHED
from tests import miniatures


@pytest.fixture
def everclip(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVERCLIP_DATA", raising=False)

    def call(*args: str | Path) -> tuple[int, list[str], list[str]]:
        with pytest.raises(SystemExit) as end:
            main(["data", *map(str, args)])
        out, err = capsys.readouterr()
        return end.value.code or 0, out.splitlines(), err.splitlines()

    return call


def test_the_list_names_every_set_its_counts_and_whether_it_is_there(everclip, tmp_path: Path) -> None:
    miniatures.write("dtd", tmp_path / "data")
    code, (title, *rows), err = everclip("list")
    assert (code, err) == (0, [])
    assert title.split()[:3] == ["set", "used", "by"]
    assert [row.split()[0] for row in rows] == list(PUBLISHED)
    words = {row.split()[0]: row.split() for row in rows}
    assert words["dtd"] == ["dtd", "mtil,", "xtail", "47", "1880", "1880", "download", "yes"]
    assert words["cifar100"] == ["cifar100", "mtil,", "cil", "100", "50000", "10000", "download", "no"]
    assert words["imagenet"][-3:] == ["by", "hand", "no"]
    assert {row.split()[-1] for row in everclip("list", "--root", "elsewhere")[1][1:]} == {"no"}


def test_a_set_that_cannot_be_prepared_is_told_beside_those_that_can(
    everclip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PUBLISHED, "dtd", miniatures.small("dtd", fetch=miniatures.dtd))
    miniatures.write("food101", tmp_path / "sets")
    code, (_, *rows), err = everclip("prepare", "stanford_cars", "dtd", "food101", "dtd", "--root", tmp_path / "sets")
    assert code == 1
    assert [row.split() for row in rows] == [
        ["stanford_cars", "missing", "–", "of", "196", "–", "of", "8144", "–", "of", "8041"],
        ["dtd", "ready", "2", "4", "4"],
        ["food101", "incomplete", "2", "of", "101", "4", "of", "75750", "4", "of", "25250"],
    ]
    problems = [line for line in err if line.startswith("everclip: ")]
    assert len(problems) == 2
    assert "'stanford_cars' has no public download" in problems[0]
    assert "'food101'" in problems[1]
    assert everclip("prepare", "dtd", "--root", tmp_path / "sets")[0] == 0


def test_benchmarks_stand_for_their_sets(everclip, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, published in PUBLISHED.items():
        if published.fetch:
            monkeypatch.setitem(PUBLISHED, name, miniatures.small(name, fetch=miniatures.WRITERS[name]))
    miniatures.without_md5(monkeypatch)
    code, (_, *rows), _ = everclip("prepare", "xtail", "cil")
    assert code == 1, "two of them must be put there by hand"
    states = {row.split()[0]: row.split()[1] for row in rows}
    assert set(states) == set(PUBLISHED)
    assert [name for name, state in states.items() if state != "ready"] == ["stanford_cars", "imagenet"]
    assert Path("data/dtd").is_dir()


@pytest.mark.parametrize(
    ("args", "words"), [(["prepare", "cars"], ["'cars'", "stanford_cars"]), (["prepare"], ["--help"])]
)
def test_a_wrong_request_changes_nothing(everclip, tmp_path: Path, args: list[str], words: list[str]) -> None:
    code, out, (line,) = everclip(*args)
    assert (code, out) == (2, [])
    assert all(word in line for word in words)
    assert list(tmp_path.iterdir()) == []
