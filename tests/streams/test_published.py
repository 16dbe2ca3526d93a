"""The published benchmarks as streams, over miniatures of their data sets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from timm.data import ImageNetInfo

from everclip.data.published import PUBLISHED
from everclip.errors import InputError
from everclip.experiment.config import Config
from everclip.experiment.runner import run
from everclip.streams import GROUPS, PUBLISHED_STREAMS, Protocol, Stream, open_stream, stream_defaults
from tests import miniatures
from tests.miniatures import TEST, TRAIN, read_mark


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """All data sets but the large ImageNet."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        miniatures.without_md5(patch)
        for name in (*GROUPS["mtil"], "tinyimagenet", "cub200"):
            miniatures.write(name, folder)
    return str(folder)


@pytest.fixture(autouse=True)
def _no_md5(monkeypatch: pytest.MonkeyPatch) -> None:
    miniatures.without_md5(monkeypatch)


def opened(spec: str, root: str, **changed: object) -> Stream:
    return open_stream(spec, Protocol(**stream_defaults(spec) | changed), root)


def protocol_of(spec: str, **changed: object) -> Protocol:
    return Config.of({"method": "zero-shot", "stream": spec, **changed}).protocol


# -- domains -----------------------------------------------------------------------------------------------------------

ORDERS = {
    "mtil-1": "aircraft caltech101 cifar100 dtd eurosat flowers102 food101 mnist oxford_pets stanford_cars sun397",
    "mtil-2": "stanford_cars food101 mnist oxford_pets flowers102 sun397 aircraft caltech101 dtd eurosat cifar100",
    "xtail-1": "aircraft caltech101 dtd eurosat flowers102 food101 mnist oxford_pets stanford_cars sun397",
    "xtail-2": "stanford_cars aircraft oxford_pets food101 sun397 mnist flowers102 dtd caltech101 eurosat",
}


@pytest.mark.parametrize("spec", ORDERS)
def test_domains_in_the_published_order(spec: str, root: str) -> None:
    stream = opened(spec, root)
    assert (stream.name, stream.kind, stream.scenario) == (spec, "images", "multi-domain")
    assert [info.name for info in stream.infos] == ORDERS[spec].split()
    for task in stream.tasks:
        templates = PUBLISHED[task.name].templates
        assert task.info.templates == (templates if spec.startswith("mtil") else templates[:1])
        assert len(task.validation) == 0, "published runs hold nothing back"
    assert len({key for info in stream.infos for key in info.keys}) == sum(
        len(info.class_names) for info in stream.infos
    ), "every class of every domain is a class of its own"


def test_both_orders_hold_the_same_sets() -> None:
    assert sorted(ORDERS["mtil-1"].split()) == sorted(ORDERS["mtil-2"].split()) == sorted(GROUPS["mtil"])
    assert sorted(ORDERS["xtail-1"].split()) == sorted(ORDERS["xtail-2"].split()) == sorted(GROUPS["xtail"])


def test_the_published_protocols_are_the_defaults() -> None:
    mtil, xtail, steps = protocol_of("mtil-1"), protocol_of("xtail-2"), protocol_of("cifar100-50")
    assert (mtil.candidates, mtil.shots, mtil.validation, mtil.templates) == ("task", None, 0, "ensemble")
    assert (xtail.candidates, xtail.shots, xtail.validation, xtail.templates) == ("all", 16, 0, "first")
    assert (steps.candidates, steps.shots, steps.validation) == ("seen", None, 0)
    assert (mtil.splits, xtail.splits, steps.splits) == ("torchvision", "torchvision", None)
    few = protocol_of("mtil-1", shots=5, candidates="seen", splits="coop")
    assert (few.shots, few.candidates, few.splits) == (5, "seen", "coop")
    assert protocol_of("folders:a") == Protocol()


def test_few_shot_draws_are_the_seed_s_and_have_a_checksum(root: str) -> None:
    def draws(**changed: object) -> list[tuple[str | None, list[str]]]:
        tasks = opened("xtail-1", root, **{"shots": 1} | changed).tasks
        return [(task.few_shot_sha256, [task.train.name(i) for i in range(len(task.train))]) for task in tasks]

    first, again, other = draws(), draws(), draws(seed=1)
    assert first == again
    assert [draw[1] for draw in first] != [draw[1] for draw in other]
    for (checksum, names), (another, others) in zip(first, other, strict=True):
        assert len(checksum) == 64
        assert (checksum == another) == (names == others)
    for task in opened("xtail-1", root, shots=1).tasks:
        assert np.bincount(task.train.labels).max() == 1
    assert [checksum for checksum, _ in draws(shots=None)] == [None] * 10


def test_splits_of_coop_are_asked_for_by_name(root: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"splits=coop needs .*split_zhou_Caltech101\.json, which is not there"):
        opened("xtail-1", root, splits="coop")
    shutil.copytree(root, tmp_path / "data")
    for name in GROUPS["xtail"]:
        if PUBLISHED[name].coop:
            split, images = PUBLISHED[name].coop
            file = next(path for path in (tmp_path / "data" / name / images).rglob("*.jpg"))
            entry = [file.relative_to(tmp_path / "data" / name / images).as_posix(), 0, f"{name} of_CoOp"]
            (tmp_path / "data" / name / split).write_text(json.dumps({"train": [entry], "val": [], "test": [entry]}))
    stream = opened("xtail-1", str(tmp_path / "data"), splits="coop")
    theirs = [info.name for info in stream.infos if info.class_names[0].endswith("of CoOp")]
    assert [info.name for info in stream.infos if info.name not in theirs] == ["aircraft", "mnist"]


def test_splits_are_of_published_sets_alone(two_folders: str) -> None:
    with pytest.raises(InputError, match="splits=coop is for published data sets, but stream 'folders:"):
        open_stream(two_folders, Protocol(splits="coop"))


# -- classes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "sizes"),
    [
        ("cifar100-10", [10] * 10),
        ("cifar100-20", [5] * 20),
        ("cifar100-50", [2] * 50),
        ("tinyimagenet-5", [100] + [20] * 5),
        ("tinyimagenet-10", [100] + [10] * 10),
        ("tinyimagenet-20", [100] + [5] * 20),
        ("cub200-10", [20] * 10),
    ],
)
def test_classes_in_the_published_order(spec: str, sizes: list[int], root: str, golden) -> None:
    stream = opened(spec, root)
    assert (stream.name, stream.scenario) == (spec, "class-incremental")
    assert [len(info.class_names) for info in stream.infos] == sizes
    name, _, steps = spec.rpartition("-")
    published = json.loads((Path(__file__).parents[1] / "golden" / "cil_orders.json").read_text(encoding="utf-8"))
    if name in published["class_order"]:
        order = published["class_order"][name]
        assert published["splits"][name][f"{steps}_steps"] == sizes
    else:
        order = np.random.RandomState(1993).permutation(200).tolist()
    assert [key for info in stream.infos for key in info.keys] == [(0, label) for label in order]
    done = 0
    for task in stream.tasks:
        own = order[done : (done := done + len(task.info.class_names))]
        for part, images in ((TRAIN, task.train), (TEST, task.test)):
            assert sorted(set(images.labels)) == list(range(len(own)))
            for index in range(0, len(images), 7):
                assert read_mark(images.decode(index)) == (own[images.labels[index]], part)
        assert len(task.validation) == 0


def test_prompts_of_class_incremental_streams(root: str) -> None:
    first = opened("cifar100-10", root).infos[0]
    assert first.templates == ("a bad photo of a {}.",)
    assert first.class_names[:3] == ("thing_87", "thing_00", "thing_52"), "underscores kept"
    assert opened("mtil-1", root).infos[2].class_names[87] == "thing 87"
    assert opened("tinyimagenet-5", root).infos[0].class_names[:2] == ("thing 131", "thing 181")
    assert opened("tinyimagenet-5", root).infos[1].templates == ("a bad photo of a {}.",)
    assert opened("cub200-10", root).infos[0].templates == ("a photo of a {}.",)


def test_imagenet(tmp_path: Path) -> None:
    wnids = ImageNetInfo("imagenet-1k").label_names()
    miniatures.imagenet(tmp_path / "imagenet", wnids)
    stream = opened("imagenet-10", str(tmp_path))
    assert [len(info.class_names) for info in stream.infos] == [100] * 10
    labels = [number for info in stream.infos for _, number in info.keys]
    assert labels == np.random.RandomState(1993).permutation(1000).tolist()
    task = stream.tasks[3]
    assert task.info.templates == ("a good photo of a {}.",)
    assert Path(task.test.name(5)).parent.name == wnids[labels[300 + task.test.labels[5]]]
    names = [name for info in stream.infos for name in info.class_names]
    assert len(set(names)) < len(names) == len({key for info in stream.infos for key in info.keys}), (
        "two names stand for two classes each, which stay apart"
    )


def test_an_order_of_classes_is_for_all_of_them(tmp_path: Path) -> None:
    miniatures.cub200(tmp_path / "cub200", classes=20)
    with pytest.raises(InputError, match="has 20 classes, but its order of classes is for 200; complete it"):
        opened("cub200-10", str(tmp_path))


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", PUBLISHED_STREAMS)
def test_absent_data_is_one_sentence(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERCLIP_DATA", str(tmp_path))
    with pytest.raises(InputError, match=f"everclip data prepare .* --root {tmp_path}"):
        open_stream(spec, Protocol())


@pytest.mark.parametrize("spec", ["mtil", "mtil-3", "mtil-1:aircraft", "cifar100-7"])
def test_other_names_are_refused_with_the_names_there_are(spec: str) -> None:
    with pytest.raises(InputError, match="of no known kind") as error:
        open_stream(spec, Protocol())
    assert all(name in str(error.value) for name in PUBLISHED_STREAMS)


def test_a_run_states_its_protocol_and_goes_on_where_the_data_moved(
    root: str, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"method": "ncm", "stream": "xtail-1", "backbone": str(tiny_clip), "device": "cpu", "shots": 1}
    results = run(Config.of(wanted | {"root": root}), tmp_path / "run")
    assert results["stream"] == "xtail-1"
    stated = {name: results["protocol"][name] for name in ("candidates", "shots", "validation", "splits", "templates")}
    assert stated == {"candidates": "all", "shots": 1, "validation": 0, "splits": "torchvision", "templates": "first"}
    drawn = {dataset["name"]: dataset["few_shot_sha256"] for dataset in results["datasets"]}
    assert drawn == {task.name: task.few_shot_sha256 for task in opened("xtail-1", root, shots=1).tasks}
    monkeypatch.setenv("EVERCLIP_DATA", root)
    assert run(Config.of(wanted), tmp_path / "run", resume=True) == results
