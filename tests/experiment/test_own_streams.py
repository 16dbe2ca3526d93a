"""Runs over a stream that a program made: recorded, resumed, judged again, compared, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from everclip import Config, Stream, run
from everclip.errors import EverclipError, InputError
from everclip.experiment.config import default_directory
from everclip.experiment.learned import judgment
from everclip.experiment.plan import plan
from everclip.report import compare
from everclip.storage.run import RunDirectory, config_text
from everclip.storage.state import CONFIG
from everclip.streams import Protocol

COLORS = np.array([(200, 40, 40), (40, 190, 60), (50, 60, 210)])
NAMES = ["red", "green", "blue"]


def part(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(3), count)
    noise = np.random.default_rng(seed).normal(0, 25, (len(labels), 32, 32, 3))
    return (COLORS[labels][:, None, None] + noise).clip(0, 255).astype(np.uint8), labels


def stream(seed: int = 0, **changed: Any) -> Stream:
    return Stream.of(
        {"paint": (part(6, seed), part(3, seed + 1)), "cloth": (part(6, seed + 2), part(2, seed + 3))},
        **{"name": "colors", "class_names": NAMES} | changed,
    )


def steps(**changed: Any) -> Stream:
    return Stream.of(
        {"paint": (part(6, 0), part(3, 1))}, "steps", "class-incremental", class_names=NAMES, steps=3, **changed
    )


@pytest.fixture
def values(tiny_clip: Path) -> dict[str, Any]:
    return {"method": "ncm", "backbone": str(tiny_clip), "device": "cpu"}


def test_a_run_records_its_stream_and_goes_on(values: dict[str, Any], tmp_path: Path) -> None:
    values |= {"method": "finetune", "iterations": 2, "batch": 4, "warmup": 1}
    config = Config.of(values)
    results = run(config, str(tmp_path / "run"), stream=stream())
    assert (results["stream"], results["scenario"], results["protocol"]["stream"]) == (
        "colors",
        "multi-domain",
        "colors",
    )
    assert [dataset["name"] for dataset in results["datasets"]] == ["paint", "cloth"]
    stored = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert stored["stream"] == "python:colors"
    (tmp_path / "run/results.json").unlink()
    for again in (config, Config.of(stored)):
        assert run(again, tmp_path / "run", resume=True, stream=stream()) == results
    with pytest.raises(InputError, match=r"no stream is given; .*stream="):
        run(config, tmp_path / "run", resume=True)
    (tmp_path / "run/results.json").unlink()
    with pytest.raises(InputError, match=r"'python:colors' was made by a program .* give it again in Python"):
        run(Config.of(stored), tmp_path / "run", resume=True)
    with pytest.raises(EverclipError, match="made on other images, labels"):
        run(config, tmp_path / "run", resume=True, stream=stream(seed=9))
    with pytest.raises(InputError, match="stream=python:colors, not python:others"):
        run(config, tmp_path / "run", resume=True, stream=stream(name="others"))


def test_a_stream_is_named_once(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="names the stream drawn, and stream 'colors' is given beside it"):
        run(Config.of(values | {"stream": "drawn"}), tmp_path / "run", stream=stream())
    assert not (tmp_path / "run").exists()


def test_what_a_run_learned_is_judged_again(values: dict[str, Any], tmp_path: Path) -> None:
    values |= {"method": "separate", "iterations": 2, "batch": 4, "warmup": 1, "keep_stages": True}
    run(Config.of(values), tmp_path / "run", stream=stream())
    again = judgment(tmp_path / "run", {"candidates": "all"})
    results = run(again, tmp_path / "judged", stream=stream())
    assert results["protocol"]["candidates"] == "all"
    with pytest.raises(InputError, match="was made by a program"):
        run(again, tmp_path / "other")
    with pytest.raises(EverclipError, match="made on other images, labels"):
        run(again, tmp_path / "other", stream=stream(seed=9))


def test_average_and_last_are_those_of_the_scenario(values: dict[str, Any], tmp_path: Path) -> None:
    results = run(Config.of(values), tmp_path / "run", stream=steps())
    assert (results["scenario"], results["protocol"]["candidates"]) == ("class-incremental", "seen")
    matrix = np.array(results["by_candidates"]["seen"]["matrix"])
    assert results["last"] == pytest.approx(matrix[-1].mean()), "three steps have as many test images"
    assert results["average"] == pytest.approx(np.mean([matrix[step, : step + 1].mean() for step in range(3)]))
    told = Config.of(values | {"candidates": "all"})
    assert run(told, tmp_path / "all", stream=steps())["protocol"]["candidates"] == "all"


def test_the_protocol_is_that_of_both(values: dict[str, Any], tmp_path: Path) -> None:
    few = steps(protocol=Protocol(shots=2, validation=0.5))
    planned = plan(Config.of(values), tmp_path / "run", stream=few)
    assert [(lesson.train, lesson.validation) for lesson in planned.lessons] == [(2, 3)] * 3
    assert (planned.protocol["shots"], planned.protocol["candidates"]) == (2, "seen")
    planned = plan(Config.of(values | {"shots": 1, "validation": 0}), tmp_path / "run", stream=steps())
    assert [(lesson.train, lesson.validation) for lesson in planned.lessons] == [(1, 0)] * 3
    with pytest.raises(InputError, match="was made with shots=2, but the configuration says shots=1"):
        plan(Config.of(values | {"shots": 1}), tmp_path / "run", stream=few)
    routed = stream(protocol=Protocol(selector="prototype"))
    assert plan(Config.of(values), tmp_path / "run", stream=routed).protocol["selector"] == "prototype"


def test_embeddings_are_learned(values: dict[str, Any], tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(18, 32)) + np.repeat(np.eye(3, 32) * 9, 6, axis=0)
    labels = np.repeat(np.arange(3), 6)
    stored = Stream.of({"a": ((rows, labels), (rows, labels))}, "stored", class_names=NAMES)
    assert run(Config.of(values), tmp_path / "run", stream=stored)["last"] == 100


# -- seeds -------------------------------------------------------------------------------------------------------------


def test_seeds_of_their_own_make_runs_of_one_row(values: dict[str, Any], tmp_path: Path) -> None:
    orders = [{}, {"order_seed": 1}, {"seed": 1}]
    runs = [tmp_path / str(number) for number in range(len(orders))]
    for order, out in zip(orders, runs, strict=True):
        results = run(Config.of(values | order), out, stream=steps())
        assert results["protocol"].get("order_seed") == order.get("order_seed")
    tasks = [json.loads((out / "results.json").read_text()) for out in runs]
    assert tasks[0]["protocol"].keys() == tasks[2]["protocol"].keys(), "what was not given is not printed"
    (row,) = compare(runs).rows
    assert row.seeds == (0, "0+order1", 1)
    run(Config.of(values | {"order_seed": 0}), tmp_path / "same", stream=steps())
    with pytest.raises(InputError, match="hold the same run"):
        compare([runs[0], tmp_path / "same"])


def test_a_directory_is_named_by_all_seeds() -> None:
    config = Config.of({"method": "ncm", "stream": "drawn", "seed": 3, "init_seed": 4, "shots_seed": 3})
    assert default_directory(config) == Path("runs/drawn/ncm-seed3+init4")


def test_initialization_has_a_seed_of_its_own(values: dict[str, Any], tmp_path: Path) -> None:
    values |= {"method": "moe-adapters", "iterations": 2, "batch": 4, "warmup": 1, "validation": 0}
    learned = []
    for number, seeds in enumerate(({}, {"init_seed": 0}, {"init_seed": 1})):
        run(Config.of(values | seeds), tmp_path / str(number), stream=stream())
        state = RunDirectory(tmp_path / str(number)).peek_state()
        assert state is not None
        learned.append({name: digest for name, digest in state.files.items() if "working" in name or "task" in name})
    assert learned[0] == learned[1] != learned[2]


def test_a_setting_that_an_older_run_lacks_is_todays_default(values: dict[str, Any], tmp_path: Path) -> None:
    results = run(Config.of(values), tmp_path / "run", stream=steps())
    directory = RunDirectory(tmp_path / "run")
    lacking = {"order_seed", "shots_seed", "init_seed", "resolution"}
    stored = {name: value for name, value in directory.read_config().items() if name not in lacking}
    state = directory.peek_state()
    assert state is not None
    directory.save_state(state, {CONFIG: config_text(stored)})
    with pytest.raises(InputError, match="order_seed=None, not 1"):
        run(Config.of(values | {"order_seed": 1}), tmp_path / "run", resume=True, stream=steps())
    with pytest.raises(InputError, match="resolution=None, not 16"):
        run(Config.of(values | {"resolution": 16}), tmp_path / "run", resume=True, stream=steps())
    assert run(Config.of(values), tmp_path / "run", resume=True, stream=steps()) == results
