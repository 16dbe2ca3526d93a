"""Class-incremental streams, from folders to figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from everclip.errors import InputError
from everclip.experiment.config import Config
from everclip.experiment.runner import run
from everclip.streams import Protocol, open_stream, stream_defaults
from tests import tiny

NAMES = ["ant", "bee", "cow", "dog", "elk"]


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    return tiny.image_folder(tmp_path / "animals", NAMES)


def paths(part) -> list[str]:
    return [part.name(index) for index in range(len(part))]


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_folder_is_cut_into_steps_that_share_no_class_and_lose_no_image(animals: Path, steps: int):
    whole = open_stream(f"folders:{animals}", Protocol()).tasks[0]
    stream = open_stream(f"cil:{animals}:{steps}", Protocol())
    assert (stream.name, stream.scenario) == (f"cil:animals:{steps}", "class-incremental")
    assert len(stream.tasks) == steps
    assert [name for info in stream.infos for name in info.class_names] != NAMES, "shuffled by the seed"
    assert sorted(name for info in stream.infos for name in info.class_names) == NAMES
    assert len({key for info in stream.infos for key in info.keys}) == len(NAMES)
    sizes = [len(info.class_names) for info in stream.infos]
    assert max(sizes) - min(sizes) <= 1
    for part in ("train", "validation", "test"):
        own = [path for task in stream.tasks for path in paths(getattr(task, part))]
        assert len(set(own)) == len(own)
    for kept in ("test", "train"):
        count = sum(len(getattr(task, kept)) for task in stream.tasks)
        assert count == len(getattr(whole, kept))
    for task in stream.tasks:
        for part in (task.train, task.validation, task.test):
            named = [task.info.class_names[label] for label in part.labels]
            assert [Path(path).parent.name for path in paths(part)] == named


def test_the_seed_gives_the_order_of_classes(animals: Path):
    orders = [
        [name for info in open_stream(f"cil:{animals}:5", Protocol(seed=seed)).infos for name in info.class_names]
        for seed in (0, 0, 1, 2)
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] or orders[0] != orders[3]


def test_folders_as_steps_bring_new_classes_and_more_images_of_known_ones(tmp_path: Path):
    first = tiny.image_folder(tmp_path / "may", ["ant", "bee"])
    second = tiny.image_folder(tmp_path / "june", ["bee", "cow"], seed=1)
    may, june = open_stream(f"cil:{first},{second}", Protocol()).infos
    assert may.keys == ((0, 0), (0, 1))
    assert june.class_names == ("bee", "cow")
    assert june.keys == ((0, 1), (0, 2)), "bee is the bee of May"
    apart = open_stream(f"folders:{first},{second}", Protocol()).infos
    assert not set(apart[0].keys) & set(apart[1].keys), "in a multi-domain stream it is another one"


@pytest.mark.parametrize("method", ["ncm", "linear-adapter"])
def test_learned_end_to_end(tiny_clip: Path, tmp_path: Path, method: str):
    """Three classes in two steps, one of which comes twice: one answer per class, judged over all of them."""
    first = tiny.image_folder(tmp_path / "may", ["ant", "bee"])
    second = tiny.image_folder(tmp_path / "june", ["bee", "cow"], seed=1)
    settings = {"method": method, "stream": f"cil:{first},{second}", "backbone": str(tiny_clip), "device": "cpu"}
    results = run(Config.of(settings), tmp_path / "run")
    assert (results["scenario"], results["protocol"]["candidates"]) == ("class-incremental", "seen")
    assert [dataset["classes"] for dataset in results["datasets"]] == [2, 2]
    seen, every = results["by_candidates"]["seen"], results["by_candidates"]["all"]
    matrix = np.array(seen["matrix"])
    assert matrix[-1].tolist() == every["matrix"][-1], "in the end all classes are seen, each once"
    assert results["last"] == pytest.approx(matrix[-1].mean()), "both steps have as many test images"
    assert results["average"] == pytest.approx((matrix[0, 0] + matrix[-1].mean()) / 2)


def test_shots_and_validation_hold_in_every_step(animals: Path):
    for task in open_stream(f"cil:{animals}:2", Protocol(shots=3)).tasks:
        assert np.bincount(task.train.labels).tolist() == [3] * len(task.info.class_names)
        assert len(np.unique(task.validation.labels)) == len(task.info.class_names)


@pytest.mark.parametrize("steps", [0, 6])
def test_more_steps_than_classes_are_refused(animals: Path, steps: int):
    with pytest.raises(InputError, match=f"'animals' has 5 classes, which can't make {steps} steps; ask for 1 to 5"):
        open_stream(f"cil:{animals}:{steps}", Protocol())


def test_steps_are_a_number(animals: Path):
    with pytest.raises(InputError, match="wants a number of steps after the colon, not 'ten'"):
        open_stream(f"cil:{animals}:ten", Protocol())


def test_a_folder_may_have_a_colon_in_its_name(tmp_path: Path):
    folder = tiny.image_folder(tmp_path / "may:1", ["ant", "bee"])
    assert len(open_stream(f"cil:{folder}", Protocol()).tasks) == 1
    assert len(open_stream(f"cil:{folder}:2", Protocol()).tasks) == 2


def test_what_is_no_folder_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="nowhere' in the stream is not a folder"):
        open_stream(f"cil:{tmp_path / 'nowhere'}:3", Protocol())


def test_seen_classes_are_the_candidates_unless_said_otherwise():
    assert stream_defaults("cil:birds:10") == {"candidates": "seen"}
    assert stream_defaults("folders:birds") == {}
