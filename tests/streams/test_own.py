"""Streams of data that a program holds: every form, one meaning of a label, one protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import Subset

from everclip import Stream
from everclip.errors import InputError
from everclip.streams import STREAMS, Dataset, Protocol, StreamKind, open_stream, stream_defaults
from everclip.testing import check_stream

from .. import tiny

NAMES = ["ant", "bee", "cow"]
TRAIN, TEST = np.repeat(np.arange(3), 10), np.repeat(np.arange(3), 3)


def images(labels: Any, seed: int = 0) -> np.ndarray:
    """(N, 8, 9, 3) uint8; the red of a class is 80 times its number, up to some noise."""
    noise = np.random.default_rng(seed).integers(0, 40, (len(labels), 8, 9, 3), dtype=np.uint8)
    noise[..., 0] += 80 * np.asarray(labels, dtype=np.uint8)[:, None, None]
    return noise


class Numbered:
    """A data set in the manner of torch: (image, number), with no list of classes."""

    def __init__(self, labels: Any) -> None:
        self.items = [(Image.fromarray(image), int(label)) for image, label in zip(images(labels), labels, strict=True)]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.items[index]


class Listed(Numbered):
    """One in the manner of torchvision."""

    classes = NAMES

    @property
    def targets(self) -> list[int]:
        return [label for _, label in self.items]


FORMS = {
    "arrays": lambda labels: (images(labels), labels),
    "lists": lambda labels: (images(labels), labels.tolist()),
    "named arrays": lambda labels: (images(labels), np.array(NAMES)[labels]),
    "pairs": lambda labels: list(zip(images(labels), labels.tolist(), strict=True)),
    "named pairs": lambda labels: [(Image.fromarray(i), NAMES[n]) for i, n in zip(images(labels), labels, strict=True)],
    "torch": Numbered,
    "torchvision": Listed,
    "subset": lambda labels: Subset(Listed(np.concatenate([labels, [0, 0]])), range(len(labels))),
}


def stream_of(train: Any, test: Any, **changed: Any) -> Stream:
    return Stream.of({"animals": (train, test)}, **{"name": "mine", "class_names": NAMES} | changed)


def described(stream: Stream) -> list[tuple[Any, ...]]:
    """Everything that a run sees of a stream."""
    return [
        (task.info, *((part.labels.tolist(), [part.decode(i).tobytes() for i in range(len(part))]) for part in parts))
        for task in stream.tasks
        for parts in [(task.train, task.validation, task.test)]
    ]


# -- forms -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_stream(form: str) -> None:
    expected = stream_of((images(TRAIN), TRAIN), (images(TEST), TEST))
    found = stream_of(FORMS[form](TRAIN), FORMS[form](TEST))
    assert (found.name, found.kind, found.scenario) == ("mine", "images", "multi-domain")
    assert found.infos[0].class_names == tuple(NAMES)
    assert described(found) == described(expected)
    check_stream(found)
    assert found.tasks[0].test.name(2) in {f"animals/test/{kind} 2" for kind in ("image", "item")} | {
        "animals/test/array/2"
    }


def test_images_may_be_files(tmp_path: Path) -> None:
    folder = tiny.image_folder(tmp_path / "animals", NAMES)
    parts = [
        [(path, path.parent.name) for path in sorted((folder / part).rglob("*.png"))] for part in ("train", "test")
    ]
    listed = stream_of(*parts, class_names=None)
    assert described(listed) == described(open_stream(f"folders:{folder}", Protocol()))
    assert described(stream_of(folder, folder, class_names=None)) == described(listed)


def test_embeddings() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 4))
    stream = stream_of((rows, TRAIN), (rows[:9].astype(np.float32), np.array(NAMES)[TEST]))
    assert stream.kind == "embeddings"
    assert stream.tasks[0].test.labels.tolist() == TEST.tolist()
    assert stream.tasks[0].test.embeddings.tolist() == rows[:9].astype(np.float32).tolist()


def test_names_of_a_data_set_are_its_own_unless_each_is_given_another() -> None:
    train, test = Listed(TRAIN), Listed(TEST)
    assert stream_of(train, test, class_names=None).infos[0].class_names == tuple(NAMES)
    assert stream_of(train, test, class_names=["Ameise", "Biene", "Kuh"]).infos[0].class_names[2] == "Kuh"
    turned = stream_of(train, test, class_names=NAMES[::-1])
    assert turned.tasks[0].test.labels.tolist() == (2 - TEST).tolist(), "names say what a label is, not its number"
    for names in (["ant", "bee"], ["cow", "Biene", "Kuh"]):
        with pytest.raises(InputError, match=r"task 'animals': class_names lists .* the data set has 3 classes of its"):
            stream_of(train, test, class_names=names)


def test_a_test_part_that_counts_otherwise_is_read_by_name() -> None:
    class Turned(Listed):
        classes = NAMES[::-1]

    assert described(stream_of(Listed(TRAIN), Turned(2 - TEST), class_names=None))[0][3][0] == TEST.tolist()


def test_templates_and_names_of_each_task() -> None:
    data = ((images(TRAIN), TRAIN), (images(TEST), TEST))
    stream = Stream.of(
        {"one": data, "two": data},
        "mine",
        class_names={"one": NAMES, "two": ["x", "y", "z"]},
        templates={"two": ["a {}.", "{}!"]},
    )
    assert [info.class_names[0] for info in stream.infos] == ["ant", "x"]
    assert [info.templates for info in stream.infos] == [("a photo of a {}.",), ("a {}.", "{}!")]


# -- refused -----------------------------------------------------------------------------------------------------------

GOOD = (images(TEST), TEST)


@pytest.mark.parametrize(
    ("train", "test", "changed", "sentence"),
    [
        (GOOD, GOOD, {"class_names": None}, "task 'animals': .* numbers for labels; give class names instead"),
        (GOOD, GOOD, {"class_names": "ant"}, "class_names must be a list"),
        (GOOD, GOOD, {"class_names": ["ant", "bee"]}, "item 6 of .* has the label 2, .* labels 0 to 1"),
        (GOOD, GOOD, {"class_names": [*NAMES, "elk"]}, "'animals' has no training image of the class 'elk'"),
        (GOOD, GOOD, {"class_names": ["ant", "Ant", "bee"]}, "equal up to case, spaces and underscores"),
        (GOOD, GOOD, {"class_names": {"birds": NAMES}}, "names the task 'birds', which is none of animals"),
        (GOOD, GOOD, {"templates": "a {}"}, r"templates must be a list, such as \['a {}'\]"),
        (GOOD, GOOD, {"templates": ["a bird"]}, "template 'a bird'"),
        (GOOD, GOOD, {"scenario": "cil"}, "scenario 'cil'; it is multi-domain or class-incremental"),
        (GOOD, GOOD, {"steps": 3}, "steps=3 cuts the one task of a class-incremental stream"),
        (GOOD, GOOD, {"name": "mtil-1"}, "the name of a published benchmark"),
        (GOOD, GOOD, {"name": "folders:a"}, "a name without a colon"),
        (GOOD, [(images([0])[0], "elk")], {}, "task 'animals': .* class 'elk', which is not listed among ant, bee"),
        (GOOD, [(images([0])[0], "ant"), (images([0])[0], 1)], {}, "names for labels, but item 1 has 1"),
        (GOOD, [(images([0])[0], 1.5)], {}, "label 1.5; give a class name or a whole number"),
        (GOOD, [(images([0])[0], True)], {}, "label True; give a class name or a whole number"),
        (GOOD, [images([0])[0]], {}, "item 0 of the list is no pair"),
        (GOOD, [], {}, "is empty"),
        (GOOD, (images(TEST)[:, 0], TEST[:2]), {}, "holds 9, but there are 2 labels"),
        (GOOD, (images(TEST) / 255, TEST), {}, r"must be \(N, H, W, 3\) uint8, not .* float64"),
        (GOOD, (images(TEST), np.stack([TEST, TEST], 1)), {}, r"item 0 of .* a label of shape \(2,\)"),
        (GOOD, (np.ones((9, 4)), TEST), {}, "one of train and test holds images"),
        ((np.ones((9, 4)), TEST), (np.ones((9, 5)), TEST), {}, "4 columns in train and 5 in test"),
        ((np.full((9, 4), np.nan), TEST), (np.ones((9, 4)), TEST), {}, "row 0 of embeddings .* finite"),
        ((images(TEST)[:6], TEST[:6]), GOOD, {}, "tested on the class 'cow', of which it has no training image"),
        (Numbered(TEST), iter([]), {}, "of type list_iterator can't be read"),
    ],
)
def test_what_does_not_fit_is_one_sentence(train: Any, test: Any, changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as error:
        stream_of(train, test, **changed)
    assert "\n" not in str(error.value)


def test_tasks_are_named_pairs_of_one_kind() -> None:
    embeddings = (np.ones((9, 4)), TEST)
    with pytest.raises(InputError, match="mixes images and embeddings"):
        Stream.of({"a": (GOOD, GOOD), "b": (embeddings, embeddings)}, "mine", class_names=NAMES)
    with pytest.raises(InputError, match=r"task 'a' must be a pair \(train, test\)"):
        Stream.of({"a": Listed(TRAIN)}, "mine")  # type: ignore[dict-item]
    with pytest.raises(InputError, match="names no task"):
        Stream.of({}, "mine")
    for name in ("..", "a\nb", "\x1b[31m", "a" * 201, " "):
        with pytest.raises(InputError, match=r"^the stream has a task .* give it another name"):
            Stream.of({name: (GOOD, GOOD)}, "mine")


def test_a_folder_makes_no_task_that_could_not_be_named(tmp_path: Path) -> None:
    folder = tiny.image_folder(tmp_path / "plain", ["red", "green"])
    (folder / "dataset.json").write_text('{"name": "\\u001b[31mred"}')
    with pytest.raises(InputError, match="a character that cannot be shown"):
        open_stream(f"folders:{folder}", Protocol())


# -- scenarios ---------------------------------------------------------------------------------------------------------


def growing(**changed: Any) -> Stream:
    """Two steps of three classes, of which the second comes twice, under two spellings."""
    first, second = TRAIN[TRAIN < 2], TRAIN[TRAIN > 0]
    spelled = np.array(["ant", "Bee ", "cow"])
    return Stream.of(
        {
            "may": ((images(first), first), (images(first), first)),
            "june": ((images(second), spelled[second]), (images(second), spelled[second])),
        },
        **{"name": "mine", "scenario": "class-incremental", "class_names": {"may": NAMES}} | changed,
    )


def test_steps_have_the_classes_of_their_images_and_share_those_of_one_name() -> None:
    may, june = growing().infos
    assert (may.class_names, june.class_names) == (("ant", "bee"), ("bee", "cow"))
    assert (may.keys, june.keys) == (((0, 0), (0, 1)), ((0, 1), (0, 2)))
    check_stream(growing())
    assert growing().defaults == {"candidates": "seen"}
    assert growing().tasks[1].train.labels.max() == 1


def test_one_data_set_is_cut_into_steps() -> None:
    def orders(protocol: Protocol) -> list[tuple[str, ...]]:
        stream = stream_of(*[(images(n), n) for n in (TRAIN, TEST)], scenario="class-incremental", steps=3)
        return [info.class_names for info in stream.under(protocol).infos]

    assert sorted(orders(Protocol())) == [("ant",), ("bee",), ("cow",)]
    assert orders(Protocol(seed=3)) == orders(Protocol(order_seed=3))
    assert len({tuple(orders(Protocol(order_seed=seed))) for seed in range(6)}) > 1
    rows = np.random.default_rng(0).normal(size=(30, 4))
    embedded = stream_of((rows, TRAIN), (rows, TRAIN), scenario="class-incremental", steps=2)
    for task in embedded.tasks:
        names = [task.info.class_names[label] for label in task.test.labels]
        places = [int(np.flatnonzero((rows.astype(np.float32) == row).all(axis=1))[0]) for row in task.test.embeddings]
        assert names == [NAMES[TRAIN[place]] for place in places]


@pytest.fixture
def own_kind() -> Iterator[str]:
    """A kind of stream that says it is class-incremental, and no more."""

    def opened(names: list[str], protocol: Protocol, root: Path) -> list[Dataset]:
        return [
            Dataset(task.name, task.info.class_names, task.info.templates, task.train, task.test)
            for task in growing().tasks
        ]

    STREAMS.register(StreamKind("monthly", opened, scenario="class-incremental", wants=False), "monthly")
    yield "monthly"
    STREAMS.unregister("monthly")


def test_a_kind_of_ones_own_is_what_it_says(own_kind: str) -> None:
    assert stream_defaults(own_kind) == {"candidates": "seen"}
    stream = open_stream(own_kind, Protocol())
    assert stream.scenario == "class-incremental"
    assert [info.keys for info in stream.infos] == [info.keys for info in growing().infos]
    with pytest.raises(InputError, match="'monthly' calls its scenario 'domains'"):
        StreamKind("monthly", lambda names, protocol, root: [], scenario="domains")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="what streams are called that a program made"):
        STREAMS.register(StreamKind("python", lambda names, protocol, root: []), "python")


def test_a_kind_must_give_what_it_says(own_kind: str) -> None:
    def opened(names: list[str], protocol: Protocol, root: Path) -> list[Dataset]:
        good = growing().tasks[0]
        few = ("ant",) if names == ["few"] else good.info.class_names
        return [Dataset("may", few, ("{}",), good.train, good.test)]

    STREAMS.unregister(own_kind)
    STREAMS.register(StreamKind("monthly", opened, holds="embeddings"), "monthly")
    with pytest.raises(InputError, match="'may' holds _Selection where its stream says it holds embeddings"):
        open_stream("monthly:a", Protocol())
    STREAMS.unregister(own_kind)
    STREAMS.register(StreamKind("monthly", opened), "monthly")
    with pytest.raises(InputError, match="'may' has the label 1, but its 1 classes have the labels 0 to 0"):
        open_stream("monthly:few", Protocol())


# -- the protocol ------------------------------------------------------------------------------------------------------


def test_a_protocol_is_applied_once() -> None:
    data = ((images(TRAIN), TRAIN), (images(TEST), TEST))
    protocol = Protocol(shots=4, validation=0.2, resolution=5, evaluate_on="validation", templates="first")
    made = stream_of(*data, protocol=protocol, templates=["a {}", "{}"])
    later = stream_of(*data, templates=["a {}", "{}"]).under(protocol)
    assert described(made) == described(made.under(protocol)) == described(later)
    task = made.tasks[0]
    assert np.bincount(task.train.labels).tolist() == [4, 4, 4], "of the eight that are not held out"
    assert len(task.validation) == len(task.test) == 6
    assert (min(task.test.decode(0).size), task.info.templates) == (5, ("a {}",))
    assert described(later.under(Protocol()))[0][1:] == described(stream_of(*data))[0][1:], "nothing is cut twice"


def test_what_a_stream_states_may_not_be_said_otherwise() -> None:
    stream = stream_of((images(TRAIN), TRAIN), GOOD, protocol=Protocol(shots=4, candidates="all"))
    assert stream.under(Protocol(shots=4, seed=2)).protocol == stream.protocol
    with pytest.raises(InputError, match="was made with shots=4, but the configuration says shots=None"):
        stream.under(Protocol())


def test_a_stream_that_is_cut_stays_so(two_folders: str) -> None:
    stream = open_stream(two_folders, Protocol(shots=2))
    assert stream.under(Protocol(shots=2, candidates="all")) is stream
    with pytest.raises(InputError, match="was made with seed=0, but the configuration says seed=1"):
        stream.under(Protocol(shots=2, seed=1))
    bare = Stream(stream.name, stream.kind, stream.tasks)
    with pytest.raises(InputError, match="does not say under which protocol its tasks were cut"):
        bare.under(Protocol())


def test_what_nothing_reads_is_refused(tmp_path: Path) -> None:
    first, second = (tiny.image_folder(tmp_path / name, ["red", "blue"]) for name in ("a", "b"))
    for spec in (f"folders:{first}", f"cil:{first},{second}", "mtil-1"):
        with pytest.raises(InputError, match="order_seed=1 is for streams that shuffle their classes"):
            open_stream(spec, Protocol(order_seed=1))
    mine = stream_of(GOOD, GOOD)
    with pytest.raises(InputError, match="the order of 'mine' is as it was given"):
        mine.under(Protocol(order_seed=1))
    with pytest.raises(InputError, match="splits=coop is for published data sets, but stream 'mine' has none"):
        mine.under(Protocol(splits="coop"))


# -- seeds -------------------------------------------------------------------------------------------------------------


def test_draws_have_seeds_of_their_own() -> None:
    def parts(**seeds: int) -> tuple[list[bytes], list[bytes]]:
        task = stream_of((images(TRAIN), TRAIN), GOOD).under(Protocol(shots=3, **seeds)).tasks[0]
        train, held_out = (
            [part.decode(i).tobytes() for i in range(len(part))] for part in (task.train, task.validation)
        )
        return train, held_out

    assert parts() == parts(shots_seed=0) == parts(seed=0)
    assert parts(seed=5)[0] != parts(seed=5, shots_seed=6)[0]
    assert parts(seed=5)[1] == parts(seed=5, shots_seed=6)[1], "the cut is the seed's"


def test_the_order_of_classes_has_a_seed_of_its_own(tmp_path: Path) -> None:
    folder = tiny.image_folder(tmp_path / "animals", [*NAMES, "dog", "elk"])

    def opened(**seeds: int) -> Stream:
        return open_stream(f"cil:{folder}:5", Protocol(**seeds))

    def order(stream: Stream) -> list[tuple[str, ...]]:
        return [info.class_names for info in stream.infos]

    assert order(opened(order_seed=7)) == order(opened(seed=7)) != order(opened())
