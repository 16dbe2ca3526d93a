"""One folder, one answer: the tables of docs/data.md at every door where a folder or a name may be given."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from everclip.cli import main
from everclip.data import Found, LabeledImages, check, left_out_of, read
from everclip.errors import EverclipError, InputError
from everclip.learner import Learner
from everclip.storage.directory import body_digest
from everclip.streams import STREAMS, Protocol, open_stream
from everclip.streams.own import own_dataset

PAGE = (Path(__file__).parents[1] / "docs/data.md").read_text(encoding="utf-8")


class Row(NamedTuple):
    """What a folder holds; class → images, or words of the refusal, for each use; what is said."""

    files: list[str]
    learned: dict[str, int] | str
    judged: dict[str, int] | str
    said: str


def table(name: str) -> list[list[str]]:
    body = re.search(rf"<!-- {name} -->\n\n\|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE)
    return [[cell.strip() for cell in line.strip("|\n").split("|")] for line in body[1].splitlines()]


def outcome(cell: str) -> dict[str, int] | str:
    if cell.startswith("refused: "):
        return cell.removeprefix("refused: ")
    return {name: int(count) for name, count in re.findall(r"`([^`]+)` (\d+)", cell)}


def rows() -> Iterator[Row]:
    for files, learned, judged, said in table("folders"):
        first = outcome(learned)
        yield Row(re.findall("`([^`]+)`", files), first, first if judged == "the same" else outcome(judged), said)


ROWS = list(rows())
NAMES = [[cell.strip("`").encode().decode("unicode_escape") for cell in row] for row in table("names")]


def draw(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")


@pytest.fixture(params=ROWS, ids=lambda row: " ".join(row.files))
def row(request: pytest.FixtureRequest) -> Row:
    return request.param


@pytest.fixture
def birds(row: Row, tmp_path: Path) -> Path:
    """The folder that a row tells of."""
    for number, name in enumerate(row.files):
        draw(tmp_path / "birds" / name, number)
    return tmp_path / "birds"


@pytest.fixture
def learner(tiny_clip: Path) -> Learner:
    return Learner.create(str(tiny_clip), "zero-shot", device="cpu")


def counts(images: LabeledImages) -> dict[str, int]:
    return dict(Counter(images.class_names[label] for label in images.source.labels))


def agree(expected: dict[str, int] | str, get: Callable[[], dict[str, int]]) -> None:
    """What a door gives is what the table says, or its refusal says why."""
    if isinstance(expected, str):
        with pytest.raises(EverclipError, match=expected):
            get()
    else:
        assert get() == expected


# -- folders -----------------------------------------------------------------------------------------------------------


def test_the_tables_are_read() -> None:
    assert len(ROWS) > 15
    assert len(NAMES) > 5
    assert {type(row.learned) for row in ROWS} == {dict, str}
    assert sum(bool(row.said) for row in ROWS) > 3


def test_python_reads_it(row: Row, birds: Path) -> None:
    agree(row.learned, lambda: counts(read(birds).to_learn()))
    agree(row.judged, lambda: counts(read(str(birds)).to_judge()))
    if not isinstance(row.learned, str):
        found = read(birds)
        assert (found.said, found.name) == (row.said, "birds")
        origins = {entry.origin: entry.class_name for entry in found.entries}
        assert len(origins) == len(found)
        assert all(Path(origin).is_file() for origin in origins)


def test_a_learner_learns_and_is_evaluated(row: Row, birds: Path, learner: Learner) -> None:
    agree(row.judged, lambda: {name: total for name, (_, total) in learner.evaluate(birds).per_class.items()})

    def learned() -> dict[str, int]:
        report = learner.learn("birds", birds)
        assert report.said == row.said
        assert sum(report.left_out.values()) == int((re.findall(r"(\d+) files? left out", row.said) or ["0"])[0])
        assert sum(row.learned.values()) == report.images
        return dict.fromkeys(report.new_classes, 1)

    agree(row.learned if isinstance(row.learned, str) else dict.fromkeys(row.learned, 1), learned)


def test_the_commands_learn_and_evaluate(
    row: Row, birds: Path, tiny_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*args: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(list(args))
        out, err = capsys.readouterr()
        if end.value.code:
            raise InputError(err)
        return out + err

    new = ("--backbone", str(tiny_clip), "--method", "zero-shot")

    def learned() -> dict[str, int]:
        text = call("learn", str(tmp_path / "model"), str(birds), *new)
        assert row.said in text
        assert f"{sum(row.learned.values())} images of {len(row.learned)} class" in text
        (task,) = json.loads(call("show", str(tmp_path / "model"), "--json"))["tasks"]
        return dict.fromkeys(task["classes"], 1)

    agree(row.learned if isinstance(row.learned, str) else dict.fromkeys(row.learned, 1), learned)

    def judged() -> dict[str, int]:
        found = json.loads(call("evaluate", str(tmp_path / "model"), str(birds), "--json"))
        assert found["said"] == row.said
        return {name: total for name, (_, total) in found["per_class"].items()}

    Learner.create(str(tiny_clip), "zero-shot", device="cpu").save(tmp_path / "model")
    agree(row.judged, judged)


def test_check_says_what_would_be_learned(row: Row, birds: Path) -> None:
    for refused in {each for each in (row.learned, row.judged) if isinstance(each, str) and "holds" not in each}:
        return agree(refused, lambda: vars(check(read(birds))))
    checked = check(read(birds))
    told = left_out_of(checked.left_out)
    assert told == row.said or row.said.startswith(f"{told}; ") or not told
    for part, expected in ((checked.learned, row.learned), (checked.judged, row.judged)):
        assert (part is None) == isinstance(expected, str)
        if part is not None:
            assert {name: of[part] for name, of in checked.classes.items() if part in of} == expected


@pytest.mark.parametrize("kind", ["folders", "cil"])
def test_a_stream_learns_and_judges(kind: str, row: Row, birds: Path) -> None:
    def opened() -> Any:
        (dataset,) = STREAMS.find(kind).open([str(birds)], Protocol(), Path())
        return dataset

    if isinstance(row.learned, str):
        return agree(row.learned, opened)
    dataset, judged = opened(), row.judged
    train, test = (counts(LabeledImages(part, dataset.class_names, None)) for part in (dataset.train, dataset.test))
    if isinstance(judged, str) or judged == row.learned:  # not divided, or train alone: the seed divides
        assert Counter(train) + Counter(test) == row.learned
    else:
        assert (train, test) == (row.learned, judged)
    assert dataset.said == row.said


def test_a_stream_in_python_learns_and_judges(row: Row, birds: Path) -> None:
    def part(which: str) -> dict[str, int]:
        dataset = own_dataset("birds", (str(birds), birds), None, None, "multi-domain")
        return counts(LabeledImages(getattr(dataset, which), dataset.class_names, None))

    refused = next((each for each in (row.learned, row.judged) if isinstance(each, str)), None)
    agree(refused or row.learned, lambda: part("train"))
    agree(refused or row.judged, lambda: part("test"))


@pytest.fixture(scope="module")
def service(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("fastapi", reason="the service needs the extra `serve`")
    from everclip.serve import Service

    path = tmp_path_factory.mktemp("served") / "model"
    Learner.create(str(tiny_clip), "zero-shot", device="cpu").save(path)
    with Service(path, device="cpu") as service:
        yield service


def test_a_form_is_learned(row: Row, birds: Path, service: Any) -> None:
    from fastapi.testclient import TestClient

    from everclip.serve import create_app

    client = TestClient(create_app(service))

    def learned(**fields: str) -> dict[str, int]:
        files = [("files", (name, (birds / name).read_bytes())) for name in row.files]
        answer = client.post("/tasks", data=fields, files=files).json()
        if "error" in answer:
            raise InputError(answer["error"])
        state: dict[str, Any] = {}
        while state.get("state") not in ("done", "failed"):
            state = client.get(f"/jobs/{answer['job']}").json()
        assert state["state"] == "done"
        assert row.said in state["message"]
        (task,) = client.get("/tasks").json()["tasks"]
        assert task["images"] == sum(row.learned.values())
        return dict.fromkeys(task["classes"], 1)

    expected = row.learned if isinstance(row.learned, str) else dict.fromkeys(row.learned, 1)
    for fields in ({"name": "birds"}, {"name": "other", "folder": "birds"}):
        agree(expected, lambda fields=fields: learned(**fields))
        with contextlib.suppress(InputError):
            service.forget(fields["name"])


# -- names -------------------------------------------------------------------------------------------------------------


class Pairs:
    """A data set in the manner of torchvision."""

    def __init__(self, *names: str) -> None:
        self.classes = list(names)

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return np.full((8, 8, 3), 40 * index, dtype=np.uint8), index


def forms(folder: Path, *names: str) -> dict[str, Any]:
    """Sources of one image for each of these class names and for a further class."""
    every = [*names, "zebra"]
    for number, name in enumerate(every):
        draw(folder / name / "1.jpg", number)
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    return {
        "folder": folder,
        "pairs": [(picture, name) for name in every],
        "arrays": (np.stack([picture] * len(every)), np.array(every)),
        "data set": Pairs(*every),
        "names in items": [(str(folder / name / "1.jpg"), name) for name in every],
    }


@pytest.mark.parametrize(("first", "then", "shown"), NAMES)
def test_two_names_are_one_class_in_every_form(first: str, then: str, shown: str, tmp_path: Path) -> None:
    for form, source in forms(tmp_path / "one", first).items():
        assert read(source).class_names == (shown, "zebra"), form
    for form, source in forms(tmp_path / "both", first, then).items():
        found: Found = read(source)
        assert len(found.class_names) == 2, form
        assert form == "folder" or found.class_names[0] == shown  # folders are sorted
        assert Counter(found.images.labels.tolist()) in (Counter({0: 2, 1: 1}), Counter({0: 1, 1: 2}))
        assert list(found.spellings.values()) == [tuple(sorted((first, then)) if form == "folder" else (first, then))]


@pytest.mark.parametrize(("first", "then", "shown"), NAMES)
def test_a_learner_knows_the_class_by_both_names(
    first: str, then: str, shown: str, tmp_path: Path, learner: Learner
) -> None:
    taught, again = forms(tmp_path / "first", first), forms(tmp_path / "then", then)
    assert learner.learn("one", taught["folder"]).new_classes == (shown, "zebra")
    for source in again.values():
        report = learner.learn("one", source)
        assert (report.new_classes, report.known_classes) == ((), (shown, "zebra"))
        asked = learner.predict(np.zeros((8, 8, 3), np.uint8), [then, "house"], top_k=9)
        assert sorted(str(label) for label, _, _ in asked.top) == sorted([shown, "zebra", "house"])
        assert {label for label, _, _ in learner.predict(np.zeros((8, 8, 3), np.uint8), [then], only=True).top} == {
            shown
        }
    (task,) = learner.tasks
    assert task.class_names == (shown, "zebra")


@pytest.mark.parametrize(("first", "then", "shown"), NAMES)
def test_labels_that_nobody_taught_are_one_as_well(first: str, then: str, shown: str, learner: Learner) -> None:
    answer = learner.predict(np.zeros((8, 8, 3), np.uint8), [first, "house", then], top_k=9)
    assert sorted(str(label) for label, _, _ in answer.top) == sorted([first, "house"])


@pytest.mark.parametrize(("first", "then", "shown"), NAMES)
def test_steps_of_a_stream_share_the_class(first: str, then: str, shown: str, tmp_path: Path) -> None:
    for step, name in (("s1", first), ("s2", then)):
        for part in ("train", "test"):
            for number in range(2):
                draw(tmp_path / step / part / name / f"{number}.jpg", number)
                draw(tmp_path / step / part / f"z{step}" / f"{number}.jpg", number)
    one, other = open_stream(f"cil:{tmp_path / 's1'},{tmp_path / 's2'}", Protocol()).infos
    assert one.keys[one.class_names.index(shown)] == other.keys[other.class_names.index(shown)]
    assert len({*one.keys, *other.keys}) == 3


def test_a_learner_that_was_saved_earlier_keeps_the_names_it_shows(learner: Learner, tmp_path: Path) -> None:
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    learner.learn("cats", [(picture, "tabby cat"), (picture, "lynx"), (picture, "x")])
    learner.save(tmp_path / "model")
    file = tmp_path / "model/learner.json"
    stored = json.loads(file.read_bytes())
    names = stored["state"]["increments"][0]["class_names"]
    assert names == ["tabby cat", "lynx", "x"]
    names[:] = ["Tabby_Cat", "lynx", "tabby cat"]  # which were two classes once
    file.write_text(json.dumps({**stored, "sha256": body_digest(stored["state"])}), encoding="utf-8")
    saved = Learner.load(tmp_path / "model", device="cpu")
    assert saved.tasks[0].class_names == ("Tabby_Cat", "lynx", "tabby cat")
    report = saved.learn("cats", [(picture, "TABBY  cat"), (picture, "lynx")])
    assert (report.new_classes, report.known_classes) == ((), ("Tabby_Cat", "lynx"))
    assert saved.evaluate([(picture, "tabby_cat")]).images == 1
