from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures
from everclip.data import LabeledEmbeddings, few_shot, split
from everclip.engine.evaluation import Evaluator, TestSet
from everclip.errors import InputError
from everclip.methods.zero_shot import ZeroShot
from everclip.selectors import selector_class
from everclip.streams import STREAMS, Protocol, Task, open_stream
from everclip.streams.stream import Dataset, build_stream
from everclip.testing import LawBroken, check_stream
from everclip.testing.streams import STREAM_LAWS

from .. import tiny


def numbered(per_class: int = 20, name: str = "numbers", first: int = 0) -> Dataset:
    """Two classes of embeddings whose one value tells which row they are."""

    def part(start: int, count: int) -> LabeledEmbeddings:
        rows = np.arange(start, start + count, dtype=np.float32)
        return LabeledEmbeddings(rows[:, None], np.arange(count) % 2)

    return Dataset(name, ("even", "odd"), ("a {}", "{}"), part(first, 2 * per_class), part(1000, 10))


def rows_of(split_of_task) -> set[int]:
    return set(split_of_task.embeddings[:, 0].astype(int).tolist())


def task_of(dataset: Dataset, **protocol) -> Task:
    return build_stream("numbers", "embeddings", [dataset], Protocol(**protocol)).tasks[0]


# -- the protocol ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("candidates", "every"),
        ("routing", "vote"),
        ("evaluate_on", "train"),
        ("templates", "mean"),
        ("shots", 0),
        ("seed", -1),
        ("validation", 1.0),
        ("validation", -0.1),
        ("resolution", 0),
        ("shot", 3),
    ],
)
def test_protocol_refuses(field: str, value: object):
    with pytest.raises(ValidationError, match=field):
        Protocol(**{field: value})


def test_protocol_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Protocol().seed = 1


def test_validation_is_cut_from_training_only():
    dataset = numbered()
    task = task_of(dataset, validation=0.2)
    train, held_out, test = rows_of(task.train), rows_of(task.validation), rows_of(task.test)
    assert not train & held_out
    assert train | held_out == rows_of(dataset.train)
    assert test == rows_of(dataset.test)
    assert np.bincount(task.validation.labels).tolist() == [4, 4], "the same share of each class"
    for part in (task.train, task.validation):
        assert np.array_equal(part.labels, part.embeddings[:, 0].astype(int) % 2), "labels stay with their rows"


def test_no_validation():
    task = task_of(numbered(), validation=0)
    assert len(task.validation.labels) == 0
    assert len(task.train.labels) == 40


def test_seed_decides_the_cut():
    cuts = [rows_of(task_of(numbered(), seed=seed).validation) for seed in (0, 0, 1)]
    assert cuts[0] == cuts[1] != cuts[2]


@pytest.mark.parametrize("shots", [1, 3, 99])
def test_shots_are_drawn_after_the_cut(shots: int):
    whole, few = task_of(numbered()), task_of(numbered(), shots=shots)
    assert rows_of(few.validation) == rows_of(whole.validation)
    assert rows_of(few.train) <= rows_of(whole.train)
    assert np.bincount(few.train.labels).tolist() == [min(shots, 18)] * 2
    kept, _ = split(numbered().train.labels, 0.1, 0)
    expected = kept[few_shot(numbered().train.labels[kept], shots, 0)]
    assert sorted(rows_of(few.train)) == expected.tolist()


def test_evaluate_on_validation():
    task = task_of(numbered(), evaluate_on="validation")
    assert rows_of(task.test) == rows_of(task.validation)
    assert not rows_of(task.test) & rows_of(task.train)
    with pytest.raises(InputError, match="evaluate_on=validation needs held-out images, but validation=0"):
        task_of(numbered(), evaluate_on="validation", validation=0)
    with pytest.raises(InputError, match="'numbers' has too few training images"):
        task_of(numbered(per_class=1), evaluate_on="validation")


def test_templates():
    assert task_of(numbered()).info.templates == ("a {}", "{}")
    assert task_of(numbered(), templates="first").info.templates == ("a {}",)


def test_tasks_keep_their_order_and_place():
    stream = build_stream("s", "embeddings", [numbered(name=n) for n in ("z", "a", "m")], Protocol())
    assert [(task.index, task.name) for task in stream.infos] == [(0, "z"), (1, "a"), (2, "m")]
    assert stream.tasks[1].name == "a"


def test_equal_names_are_refused():
    with pytest.raises(InputError, match="2 data sets of the stream are called 'a'; give them different names"):
        build_stream("s", "embeddings", [numbered(name=n) for n in ("a", "b", "a")], Protocol())
    with pytest.raises(InputError, match="names no data set"):
        build_stream("s", "embeddings", [], Protocol())


# -- by name -----------------------------------------------------------------------------------------------------------


def test_unknown_kind_lists_the_kinds():
    with pytest.raises(InputError, match="'photos' is of no known kind") as error:
        open_stream("photos", Protocol())
    assert all(kind in str(error.value) for kind in STREAMS)


@pytest.mark.parametrize("spec", ["folders", "folders:", "folders: , ", "embeddings:"])
def test_empty_list_is_refused(spec: str):
    with pytest.raises(InputError, match="names no data set; write"):
        open_stream(spec, Protocol())


def test_missing_folder_is_one_sentence(tmp_path: Path):
    with pytest.raises(InputError) as error:
        open_stream(f"folders:{tmp_path / 'absent'}", Protocol())
    assert str(tmp_path / "absent") in str(error.value)
    assert "\n" not in str(error.value)


def test_folders(tmp_path: Path):
    first = tiny.image_folder(tmp_path / "paint", ["red", "dark_blue"])
    second = tiny.image_folder(tmp_path / "cloth", ["gray", "red"], seed=1)
    stream = open_stream(f"folders:{first}, {second}", Protocol())
    assert (stream.name, stream.kind) == ("folders:paint,cloth", "images"), "named by its data, not by where they lie"
    assert [info.name for info in stream.infos] == ["paint", "cloth"]
    assert stream.infos[0].class_names == ("dark blue", "red")
    parts = stream.tasks[0]
    assert [len(part.labels) for part in (parts.train, parts.validation, parts.test)] == [10, 2, 6]
    names = [{part.name(i) for i in range(len(part))} for part in (parts.train, parts.validation, parts.test)]
    assert len(set.union(*names)) == 18
    with pytest.raises(InputError, match="2 data sets of the stream are called 'paint'"):
        open_stream(f"folders:{first},{first}", Protocol())


def test_drawn_is_deterministic():
    def pixels(seed: int) -> list[bytes]:
        stream = open_stream("drawn:shapes,glyphs", Protocol(seed=seed))
        assert [info.name for info in stream.infos] == ["shapes", "glyphs"]
        return [part.decode(0).tobytes() for task in stream.tasks for part in (task.train, task.validation, task.test)]

    first = pixels(0)
    assert pixels(0) == first
    assert not set(pixels(1)) & set(first)


def test_drawn_by_name():
    whole = open_stream("drawn", Protocol())
    assert len(whole.tasks) > 5
    assert "shapes" in [info.name for info in whole.infos]
    with pytest.raises(InputError, match=r"no drawn domain 'photos'; choose from .*shapes"):
        open_stream("drawn:photos", Protocol())


# -- precomputed embeddings --------------------------------------------------------------------------------------------


def test_embeddings_through_zero_shot(tiny_clip: Path, tmp_path: Path):
    """Images that lie exactly where the text tower puts their class are all right; swapped ones are all wrong."""
    backbone = Backbone.load(str(tiny_clip))
    features = FrozenFeatures(backbone)
    files = []
    for name, names, turn in (("good", ["cat", "dog"], 0), ("bad", ["sun", "moon"], 1)):
        classes = features.classes(names, ["a photo of a {}."]).numpy()
        labels = np.arange(40) % 2
        path = tmp_path / f"{name}.npz"
        np.savez(path, embeddings=2.5 * classes[(labels + turn) % 2], labels=labels, class_names=names)
        files.append(str(path))
    stream = open_stream(f"embeddings:{','.join(files)}", Protocol())
    assert stream.kind == "embeddings"
    assert [info.name for info in stream.infos] == ["good", "bad"]
    tests = [TestSet(task.info, task.test) for task in stream.tasks]
    method = ZeroShot(backbone, ZeroShot.Config(), features)
    oracle = selector_class("oracle")
    good, bad = Evaluator(tests, method, oracle(oracle.Config()), Protocol()).row(0)
    assert len(good.correct["task"]) == 8
    assert good.correct["task"].all()
    assert not bad.correct["task"].any()
    assert good.correct["all"].all()
    torch.testing.assert_close(features.images(stream.tasks[0].test).norm(dim=1), torch.full((8,), 2.5))


# -- one resolution for all --------------------------------------------------------------------------------------------


def test_all_images_are_reduced_to_one_resolution(two_folders: str):
    plain = open_stream(two_folders, Protocol()).tasks
    narrow = open_stream(two_folders, Protocol(resolution=7)).tasks
    for before, after in zip(plain, narrow, strict=True):
        assert after.info == before.info
        for part in ("train", "validation", "test"):
            assert min(getattr(after, part).decode(0).size) == 7
            assert getattr(after, part).labels.tolist() == getattr(before, part).labels.tolist()
            assert getattr(after, part).name(0) == getattr(before, part).name(0)


def test_embeddings_have_no_resolution():
    with pytest.raises(InputError, match="'numbers' holds embeddings"):
        task_of(numbered(), resolution=32)


# -- the contract ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [{}, {"shots": 2, "evaluate_on": "validation", "validation": 0.4}])
@pytest.mark.parametrize("spec", ["folders", "cil", "cil-steps", "drawn", "embeddings"])
def test_every_kind_of_stream_keeps_the_laws(two_folders: str, tmp_path: Path, spec: str, protocol: dict) -> None:
    if spec == "embeddings":
        rows = {f"{part}_{what}": value for part in ("train", "test") for what, value in _stored(part).items()}
        np.savez(tmp_path / "a.npz", class_names=np.array(["x", "y"]), **rows)
    stream = open_stream(
        {
            "folders": two_folders,
            "cil": two_folders.replace("folders:", "cil:"),
            "cil-steps": f"{two_folders.split(',')[0].replace('folders:', 'cil:')}:3",
            "drawn": "drawn:shapes,glyphs",
            "embeddings": f"embeddings:{tmp_path / 'a.npz'}",
        }[spec],
        Protocol(**protocol),
    )
    assert set(check_stream(stream)) == {law.__name__ for law in STREAM_LAWS}


def _stored(part: str) -> dict[str, np.ndarray]:
    count = 20 if part == "train" else 6
    return {"embeddings": np.random.default_rng(count).normal(size=(count, 4)), "labels": np.arange(count) % 2}


@pytest.mark.parametrize(
    ("change", "law"),
    [
        (lambda task: replace(task, info=replace(task.info, index=4)), "tasks_are_in_order"),
        (lambda task: replace(task, info=replace(task.info, templates=("no place",))), "classes_can_be_asked_for"),
        (lambda task: replace(task, test=task.train), "parts_are_apart"),
        (lambda task: replace(task, info=replace(task.info, class_names=("one",))), "splits_hold_what_the_stream_says"),
        (lambda task: replace(task, test=task.test.select([])), "splits_hold_what_the_stream_says"),
    ],
)
def test_a_stream_that_breaks_a_law_is_told_which(two_folders: str, change: Callable, law: str) -> None:
    stream = open_stream(two_folders, Protocol())
    with pytest.raises(LawBroken, match=rf"breaks the law '{law}'"):
        check_stream(replace(stream, tasks=(change(stream.tasks[0]), *stream.tasks[1:])))
