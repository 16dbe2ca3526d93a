"""The learner's commands as a new user meets them."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import Console

from everclip.cli import main
from everclip.system.display import Display

from .. import tiny


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict]:
        """JSON lines on standard output."""
        return [json.loads(line) for line in self.out.splitlines()]


Everclip = Callable[..., Answer]


@pytest.fixture
def everclip(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Everclip:
    """Runs a command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str | Path) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(arg) for arg in args])
        return Answer(end.value.code or 0, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.image_folder(tmp_path_factory.mktemp("cli") / "paint", ["red", "green"])


@pytest.fixture(scope="module")
def learned(tiny_clip: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A learner of one task, on disk."""
    out = tmp_path_factory.mktemp("learned") / "model"
    with pytest.raises(SystemExit) as end:
        main(["learn", str(out), str(folder), "--backbone", str(tiny_clip), "--set", "random_features=16"])
    assert not end.value.code
    return out


@pytest.fixture
def model(learned: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(learned, tmp_path / "model"))


def test_a_story(everclip: Everclip, model: Path, folder: Path, tmp_path: Path) -> None:
    other = tiny.image_folder(tmp_path / "cloth", ["gray", "blue"], seed=1)
    answer = everclip("learn", model, other, "--name", "rags [old]", "--json")
    assert answer.code == 0
    (report,) = answer.lines
    assert (report["task"], report["new_classes"], report["images"]) == ("rags [old]", ["blue", "gray"], 12)
    shutil.rmtree(other / "train")
    known = json.loads(everclip("show", model, "--json").out)
    assert [(task["name"], task["classes"]) for task in known["tasks"]] == [
        ("paint", ["green", "red"]),
        ("rags [old]", ["blue", "gray"]),
    ]
    assert [row["after"] for row in known["accuracy"]] == ["paint", "rags [old]"]
    assert "rags [old]" in everclip("show", model).out
    found = json.loads(everclip("evaluate", model, folder, "--json").out)
    assert found["images"] == 6
    assert set(found["per_class"]) == {"red", "green"}
    assert "95 % interval" in everclip("evaluate", model, folder).out
    gone = everclip("forget", model, "rags [old]")
    assert gone.code == 0
    assert "never learned it" in gone.out
    assert [task["name"] for task in json.loads(everclip("show", model, "--json").out)["tasks"]] == ["paint"]


@pytest.mark.parametrize("name", ["..", "a\nb", "\x1b[31mred", "a" * 201, " "])
def test_a_name_that_no_other_door_could_use_is_refused(
    everclip: Everclip, model: Path, folder: Path, name: str
) -> None:
    answer = everclip("learn", model, folder, "--name", name)
    assert answer.code == 2
    assert "give it another name" in answer.err
    assert answer.err.strip().isprintable()


@pytest.mark.skipif(sys.platform == "win32", reason="such names cannot be there")
def test_what_a_file_or_a_label_is_called_commands_no_terminal(
    everclip: Everclip, model: Path, folder: Path, tmp_path: Path
) -> None:
    image = next((folder / "test/red").iterdir())
    hostile = "\x1b[2J[red]\n\x9b"
    shutil.copy(image, tmp_path / f"{hostile}.png")
    (tmp_path / f"{hostile}no.png").write_text("words")
    for arguments in (
        ("predict", model, tmp_path / f"{hostile}.png", "--labels", f"a {hostile} label"),
        ("predict", model, tmp_path / f"{hostile}no.png", image),
        ("forget", model, hostile),
        ("show", tmp_path / hostile),
    ):
        answer = everclip(*arguments)
        shown = answer.out + answer.err
        assert "\\x1b[2J[red]\\n\\x9b" in shown, arguments
        assert not set("\x1b\x9b") & set(shown), arguments
        assert all(line.startswith(("everclip: ", str(tmp_path), str(folder))) for line in shown.splitlines())


def test_predictions_are_lines(everclip: Everclip, model: Path, folder: Path) -> None:
    image = next((folder / "test/red").iterdir())
    answer = everclip("predict", model, image, folder / "test", "--json", "--labels", "cat, dog", "--top-k", "2")
    assert (answer.code, answer.err) == (0, "")
    assert len(answer.lines) == 1 + 6
    first = answer.lines[0]
    assert first.keys() == {"path", "label", "probability", "task", "route_confidence", "top"}
    assert first["path"] == str(image)
    assert len(first["top"]) == 2
    assert first["top"][0] == {name: first[name] for name in ("label", "probability", "task")}
    only = everclip("predict", model, image, "--json", "--labels", "cat,dog", "--only").lines[0]
    assert {entry["label"] for entry in only["top"]} == {"cat", "dog"}
    assert only["task"] == "zero-shot"
    assert f"{image}: " in everclip("predict", model, image).out


def test_a_bad_file_is_told_and_the_others_are_answered(everclip: Everclip, model: Path, folder: Path) -> None:
    image = next((folder / "test/red").iterdir())
    Path("words.png").write_text("words")
    answer = everclip("predict", model, "words.png", image, "nowhere.png", "--json")
    assert answer.code == 1
    assert [sorted(line)[:2] for line in answer.lines][::2] == [["error", "path"]] * 2
    assert answer.lines[1]["path"] == str(image)
    assert answer.err.splitlines()[-1] == "everclip: 2 of 3 files can't be used; the others are answered."


def state(model: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in model.iterdir() if path.name != "lock"}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["learn", "MODEL", "nowhere"], ["nowhere"]),
        (["learn", "MODEL", "FOLDER", "--method", "ncm"], ["method=rail, not ncm"]),
        (["learn", "MODEL", "FOLDER", "--set", "random_features=32"], ["random_features=16, not 32"]),
        (["learn", "MODEL", "FOLDER", "--set", "nope=1"], ["'nope'"]),
        (["learn", "MODEL", "FOLDER", "--name", "zero-shot"], ["another name"]),
        (["learn", "MODEL", "bad"], ["none of the 1 images"]),
        (["learn", "fresh", "FOLDER", "--method", "finetune"], ["can't forget"]),
        (["learn", "fresh", "FOLDER", "--backbone", "ViT-B-61"], ["'ViT-B-61'"]),
        (["learn", "fresh", "FOLDER", "--set", "nope=1"], ["'nope'"]),
        (["learn", "fresh", "bad"], ["none of the 1 images"]),
        (["learn", "bad", "FOLDER"], ["other files"]),
        (["predict", "fresh", "a.png"], ["holds no learner"]),
        (["predict", "MODEL", "bad/empty"], ["no image"]),
        (["predict", "MODEL", "a.png", "--only"], ["give labels"]),
        (["predict", "MODEL", "a.png", "--top-k", "0"], ["top-k"]),
        (["show", "fresh"], ["holds no learner"]),
        (["forget", "MODEL", "nothing"], ["learned so far: paint"]),
        (["forget", "fresh", "paint"], ["holds no learner"]),
        (["evaluate", "MODEL", "nowhere"], ["nowhere"]),
        (["evaluate", "MODEL", "bad"], ["none of the 1 images"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_bad_input_is_one_sentence_and_changes_nothing(
    everclip: Everclip, model: Path, folder: Path, args: list[str], words: list[str]
) -> None:
    Path("bad/words").mkdir(parents=True)
    Path("bad/empty").mkdir()
    Path("bad/words/0.png").write_text("words")
    if args[-1] == "bad":
        Path("bad/empty").rmdir()
    before = state(model)
    places = {"MODEL": model, "FOLDER": folder}
    answer = everclip(*(places.get(arg, arg) for arg in args))
    assert answer.code == 2
    assert answer.out == ""
    *before_it, line = answer.err.splitlines()
    assert all(word in line for word in words)
    assert not before_it or (args[0] == "learn" and "images of" in before_it.pop() and not before_it)
    assert state(model) == before
    assert not Path("fresh").exists()


def test_the_same_settings_again_are_no_change(everclip: Everclip, model: Path, folder: Path, tiny_clip: Path) -> None:
    again = ("--backbone", tiny_clip, "--method", "rail", "--set", "random_features=16")
    answer = everclip("learn", model, folder, *again)
    assert answer.code == 0
    assert "0 new and 2 known classes" in answer.out
    assert "are now of another task" in answer.out


def test_what_is_printed_beside_a_bar_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True)
    with Display(console=terminal).bar("predicting") as bar:
        bar(1, 2)
        print("a result", file=sys.stdout)
    assert capsys.readouterr().out == "a result\n"
    assert "a result" not in terminal.file.getvalue()


def test_export(everclip: Everclip, model: Path, folder: Path) -> None:
    import onnxruntime

    asked = ("--labels", "a cat,red", "--compare-on", folder / "test")
    answer = everclip("export", model, "answers.onnx", *asked, "--json")
    assert (answer.code, answer.err) == (0, "")
    report = json.loads(answer.out)
    assert report["columns"] == [["green", "paint"], ["red", "paint"], ["a cat", "zero-shot"]]
    assert report["compared"] == 6 + 4
    (images, *_) = onnxruntime.InferenceSession("answers.onnx").get_inputs()
    assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(uint8)", [3, 32, 32])
    answer = everclip("export", model, "answers.bin")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.splitlines() == [
        "everclip: answers.bin does not end in .onnx; name the file so, for readers of the format go by it."
    ]


# -- what is learned of a folder ---------------------------------------------------------------------------------------


def test_a_folder_of_tasks_is_learned_task_by_task(everclip: Everclip, tiny_clip: Path, tmp_path: Path) -> None:
    for month, names in (("may", ["red", "green"]), ("june", ["red", "blue"])):
        shutil.copytree(tiny.image_folder(tmp_path / f"all-{month}", names) / "train", tmp_path / f"months/{month}")
    (tmp_path / "months/notes").mkdir()
    new = ("--backbone", tiny_clip, "--set", "random_features=16")
    refused = everclip("learn", "model", "months", *new)
    assert refused.code == 2
    assert all(words in refused.err for words in ("'june' and 'may' may be classes", "--tasks FOLDER", '"classes" in'))
    answer = everclip("learn", "model", "--tasks", "months", *new, "--json")
    assert answer.code == 0, answer.err
    assert [(line["task"], line["new_classes"]) for line in answer.lines] == [
        ("june", ["blue", "red"]),
        ("may", ["green", "red"]),
    ]
    again = everclip("learn", "model", "--tasks", "months", "--set", "random_features=16")
    assert again.out.count("0 new and 2 known classes") == 2
    (tmp_path / "months/dataset.json").write_text('{"classes": ["may", "june"]}')
    answer = everclip("learn", "model", "months", "--json")
    assert answer.lines[0]["new_classes"] == ["may", "june"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["learn", "m"], "a FOLDER, or --tasks"),
        (["learn", "m", "FOLDER", "--tasks", "FOLDER"], "give one of them"),
        (["learn", "m", "--tasks", "FOLDER", "--name", "x"], "--name names one task"),
        (["learn", "m", "--tasks", "empty"], "holds no folder with images"),
        (["learn", "m", "--tasks", "nowhere"], "cannot list the folder nowhere"),
    ],
)
def test_refused_lessons(everclip: Everclip, folder: Path, args: list[str], words: str) -> None:
    Path("empty/task").mkdir(parents=True)
    answer = everclip(*(folder if arg == "FOLDER" else arg for arg in args))
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err
    assert not Path("m").exists()


def test_what_is_left_out_is_told(everclip: Everclip, model: Path, folder: Path, tmp_path: Path) -> None:
    album = Path(shutil.copytree(folder, tmp_path / "album"))
    for number in range(3):
        (album / f"test/red/{number}.mov").write_bytes(b"film")
    (album / "train/green/1.xmp").write_bytes(b"notes")
    left = "4 files left out: 3 .mov, 1 .xmp"
    learned = everclip("learn", model, album)
    first = learned.err.splitlines()[0]
    assert all(
        words in first for words in ("12 images of 2 classes to learn (green 6, red 6)", "without 6 of test", left)
    )
    report = everclip("learn", model, album, "--json").lines[0]
    assert (report["left_out"], report["said"]) == ({".mov": 3, ".xmp": 1}, left)
    assert left in everclip("evaluate", model, album).err
    assert left in everclip("predict", model, album).err


def test_labels_may_have_commas(everclip: Everclip, model: Path, folder: Path) -> None:
    image = next((folder / "test/red").iterdir())
    tench = ("--label", "tench, Tinca tinca", "--label", "b")
    answer = everclip("predict", model, image, *tench, "--labels", "c,d", "--only", "--json")
    assert {entry["label"] for entry in answer.lines[0]["top"]} == {"tench, Tinca tinca", "b", "c", "d"}
    report = json.loads(everclip("export", model, "answers.onnx", *tench, "--only", "--json").out)
    assert [label for label, _ in report["columns"]] == ["tench, Tinca tinca", "b"]
