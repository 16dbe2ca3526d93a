"""A flipped bit anywhere in a run directory is refused by a sentence, or changes nothing that anybody reads."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everclip.errors import EverclipError
from everclip.experiment import runner
from everclip.experiment.config import Config
from everclip.experiment.learned import judgment
from everclip.report import compare, load_run
from everclip.storage.identity import Identity
from everclip.storage.run import RunDirectory

FLIPS = 30
"""Per file."""
FILES = (
    "config.yaml", "events.jsonl", "matrix.csv", "results.json", "report.html", "checkpoints/state.json",
    "checkpoints/task-00.safetensors", "evaluation/after-01.safetensors",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny_clip: Path, two_folders: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that can be compared and judged."""
    out = tmp_path_factory.mktemp("damage") / "run"
    values = {
        "method": "moe-adapters", "stream": two_folders, "backbone": str(tiny_clip), "device": "cpu", "lr": 1e-2,
        "iterations": 2, "batch": 4, "warmup": 1, "keep_stages": True, "selector": "oracle", "strict": True,
    }  # fmt: skip
    runner.run(Config.of(values), out)
    return out


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def readings(run: Path) -> Iterator[Any]:
    """All that is read of a run, by every reader there is; a reader that refuses says so in its place."""
    directory = RunDirectory(run)

    def loaded() -> Any:
        state = directory.peek_state()
        assert state is not None
        kept = directory.load_state(state.method, *map(Identity, (state.backbone, state.data, state.reference)))
        assert kept is not None
        return kept, [{k: t.tolist() for k, t in directory.read_tensors(name).items()} for name in kept.rows]

    for read in (lambda: compare([run], costs=True).csv(), lambda: judgment(run, {}).flat(), loaded):
        try:
            yield read()
        except EverclipError as error:
            yield error


def damage(run: Path, name: str) -> list[str]:
    """The files that `everclip verify` names."""
    return [checked.name for checked in RunDirectory(run).verify() if checked.problem]


def assert_refused_or_the_same(run: Path, name: str, before: list[Any]) -> None:
    for found, was in zip(readings(run), before, strict=True):
        if isinstance(found, EverclipError):
            assert str(run / name) in str(found)
            assert "\n" not in str(found)
            assert "put it back from a copy" in str(found)
        else:
            assert found == was


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_refused_or_changes_nothing(copy: Path, name: str) -> None:
    before = list(readings(copy))
    assert not any(isinstance(reading, EverclipError) for reading in before)
    content = (copy / name).read_bytes()
    for bit in random.Random(name).sample(range(8 * len(content)), FLIPS):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (copy / name).write_bytes(flipped)
        assert_refused_or_the_same(copy, name, before)
        assert damage(copy, name) == [name] or name.endswith(("state.json", "events.jsonl"))  # white space of JSON


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("matrix.csv", "report.html")])
def test_a_file_that_is_cut_off_is_refused(copy: Path, name: str) -> None:
    before = list(readings(copy))
    content = (copy / name).read_bytes()
    for size in (0, len(content) // 2):
        (copy / name).write_bytes(content[:size])
        if name != "events.jsonl":  # a log may end anywhere
            assert any(isinstance(found, EverclipError) for found in readings(copy))
            assert_refused_or_the_same(copy, name, before)
            assert damage(copy, name) == [name]


@pytest.mark.parametrize("name", ["matrix.csv", "results.json", "report.html"])
@pytest.mark.parametrize("how", ["damaged", "gone"])
def test_what_follows_from_the_rows_is_written_again(run: Path, copy: Path, name: str, how: str) -> None:
    (copy / name).write_text("damaged") if how == "damaged" else (copy / name).unlink()
    assert damage(copy, name) == [name]
    runner.run(Config.of(RunDirectory(run).read_config()), copy, resume=True)
    assert (copy / name).read_bytes() == (run / name).read_bytes()
    assert damage(copy, name) == []


@pytest.mark.parametrize("left", ["everything", "checkpoints", "results"])
def test_a_run_without_its_state_is_refused_and_not_learned_again(copy: Path, left: str) -> None:
    config = Config.of(RunDirectory(copy).read_config())
    results = load_run(copy)
    (copy / "checkpoints/state.json").unlink()
    for name in {"everything": [], "checkpoints": ["results.json", "matrix.csv", "report.html"],
                 "results": ["checkpoints"]}[left]:  # fmt: skip
        shutil.rmtree(copy / name) if name == "checkpoints" else (copy / name).unlink()
    files = {path: path.stat().st_mtime_ns for path in copy.rglob("*.*")}
    with pytest.raises(EverclipError, match=r"state\.json is missing; put it back from a copy"):
        runner.run(config, copy, resume=True)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*.*")} == files
    assert damage(copy, "") == ["checkpoints/state.json"]
    if left == "results":
        assert load_run(copy) == results, "who keeps results and deletes checkpoints can compare them"
    elif left == "everything":
        with pytest.raises(EverclipError, match=r"state\.json is missing"):
            compare([copy])


def test_results_of_a_run_that_is_not_finished_are_not_compared(copy: Path) -> None:
    directory = RunDirectory(copy)
    state = directory.peek_state()
    assert state is not None
    state.finished, state.written = False, {name: state.written[name] for name in ("config.yaml", "matrix.csv")}
    directory.save_state(state)
    with pytest.raises(EverclipError, match=r"results\.json .* is not finished and needs `everclip run --resume`"):
        compare([copy])
