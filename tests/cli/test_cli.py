"""The command line as a new user meets it: what it prints where, what it refuses, and what it leaves on disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from everclip import __version__
from everclip.cli import main
from everclip.experiment import runner
from everclip.storage.run import RunDirectory

from .. import tiny

SMALL = ("--set", "iterations=2", "--set", "batch=4", "--set", "warmup=1", "--device", "cpu")


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line on standard error, where there is nothing else."""
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("everclip: ")
        return line


Everclip = Callable[..., Answer]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Many threads slow a tiny model down, most of all beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")  # for the processes started here
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, with a cache folder that would be made in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERCLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def everclip(capsys: pytest.CaptureFixture[str]) -> Everclip:
    """Runs a command line in this process."""

    def call(*args: str | Path) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(arg) for arg in args])
        return Answer(end.value.code or 0, *capsys.readouterr())

    return call


@pytest.fixture
def run(everclip: Everclip, here: Path, tiny_clip: Path) -> Everclip:
    """Runs `everclip run` with the tiny CLIP, two steps per task and `--out out`."""
    return lambda *args: everclip("run", "--backbone", tiny_clip, "--out", "out", *SMALL, *args)


def process(*args: str | Path, **options: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "everclip", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def results(out: str | Path = "out") -> dict:
    return json.loads((Path(out) / "results.json").read_text(encoding="utf-8"))


# -- asking for help ---------------------------------------------------------------------------------------------------


def test_help_is_for_everyone(everclip: Everclip) -> None:
    alone, asked = everclip(), everclip("--help")
    assert alone.code == asked.code == 0
    learner = ("learn", "predict", "show", "forget", "evaluate")
    for command in ("run", "judge", "demo", "compare", "methods", "selectors", *learner):
        assert command in alone.out
        assert command in asked.out
        assert everclip(command, "--help").code == 0
    for option in ("--stream", "--method", "--backbone", "--selector", "--candidates", "--seed", "--device"):
        assert option in everclip("run", "--help").out
    for option in ("--precision", "--workers", "--out", "--resume", "--set"):
        assert option in everclip("run", "--help").out


def test_version(everclip: Everclip) -> None:
    assert everclip("--version") == (0, f"everclip {__version__}\n", "")


def test_the_module_is_the_command() -> None:
    out, err = process("--version").communicate()
    assert (out, err) == (f"everclip {__version__}\n", "")


def test_help_loads_no_torch() -> None:
    script = "import sys, everclip.cli\ntry: everclip.cli.main(['--help'])\nfinally: sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["trian"], ["'trian'", "everclip --help"]),
        (["--nope"], ["--nope"]),
        (["run", "--methd", "x"], ["--methd", "--method", "everclip run --help"]),
        (["run", "--out"], ["--out", "argument"]),
        (["run", "a.yaml", "b.yaml"], ["b.yaml"]),
        (["compare"], ["everclip compare --help"]),
        (["demo", "--nope"], ["--nope"]),
    ],
)
def test_a_command_line_that_makes_no_sense(everclip: Everclip, args: list[str], words: list[str]) -> None:
    answer = everclip(*args)
    assert answer.code == 2
    assert all(word in answer.sentence for word in words)


# -- refused settings --------------------------------------------------------------------------------------------------


REFUSED = [
    (["--method", "finetun"], ["'finetun'", "zero-shot, finetune"]),
    (["--method", ""], ["--method"]),
    (["--selector", "orakel"], ["'orakel'", "oracle"]),
    (["--stream", "photos:a,b"], ["'photos:a,b'", "folders, cil, drawn, embeddings"]),
    (["--stream", "folders"], ["'folders'", "folders:A,B"]),
    (["--stream", "folders:nowhere"], ["nowhere"]),
    (["--stream", "drawn:nope"], ["'nope'", "shapes"]),
    (["--stream", "embeddings:nowhere.npz", "--method", "zero-shot"], ["nowhere.npz"]),
    (["--candidates", "some"], ["candidates=some", "'task', 'seen' or 'all'"]),
    (["--precision", "fp8"], ["precision=fp8", "'float32' or 'bf16'"]),
    (["--device", "cudda"], ["'cudda'", "cpu"]),
    (["--seed", "-1"], ["seed=-1", "0"]),
    (["--seed", "first"], ["seed=first", "integer"]),
    (["--workers", "0"], ["workers=0", "1"]),
    (["--set", "iterations=0"], ["iterations=0", "1"]),
    (["--set", "iterations=ten"], ["iterations=ten", "integer"]),
    (["--set", "lr=-1"], ["lr=-1", "greater than 0"]),
    (["--set", "lr=nan"], ["lr=nan", "finite"]),
    (["--set", "lr=fast"], ["lr=fast", "number"]),
    (["--set", "lr="], ["lr=", "number"]),
    (["--set", "lr=[1e-3,1e-3,1e-3]"], ["lr lists 3", "2 tasks"]),
    (["--set", "lr=[1"], ["--set lr=[1", "not a value"]),
    (["--set", "lr"], ["--set lr", "KEY=VALUE"]),
    (["--set", "=3"], ["--set =3", "KEY=VALUE"]),
    (["--set", "rate=3"], ["'rate'", "finetune", "lr", "label_smoothing"]),
    (["--set", "backbone=[a]", "--method", "finetune"], ["backbone"]),
    (["--seed", "1", "--set", "seed=2"], ["--set seed=2", "seed=1", "once"]),
    (["--set", "shots=2", "--set", "shots=3"], ["--set shots=3", "shots=2", "once"]),
    (["--set", "validation=1"], ["validation=1", "less than 1"]),
    (["--set", "evaluate_on=validation", "--set", "validation=0"], ["evaluate_on=validation", "validation=0"]),
]


@pytest.mark.parametrize(("args", "words"), REFUSED, ids=lambda value: " ".join(value))
def test_a_wrong_setting_is_one_sentence_and_leaves_nothing(
    everclip: Everclip, here: Path, tiny_clip: Path, two_folders: str, args: list[str], words: list[str]
) -> None:
    usual = {"--stream": two_folders, "--method": "finetune", "--backbone": str(tiny_clip), "--device": "cpu"}
    answer = everclip("run", *(part for pair in usual.items() if pair[0] not in args for part in pair), *args)
    assert answer.code == 2
    assert all(word in answer.sentence for word in words)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        ("ViT-B-61", ["'ViT-B-61'", "ViT-B-16"]),
        ("ViT-B-16/nope", ["'nope'", "openai"]),
        (".", ["open_clip_config.json"]),
    ],
)
def test_a_wrong_backbone(everclip: Everclip, here: Path, two_folders: str, backbone: str, words: list[str]) -> None:
    answer = everclip("run", "--stream", two_folders, "--method", "zero-shot", "--backbone", backbone)
    assert answer.code == 2
    assert all(word in answer.sentence for word in words)
    assert list(here.iterdir()) == []


def test_a_run_needs_a_method_and_a_stream(everclip: Everclip, two_folders: str) -> None:
    assert "--method" in everclip("run").sentence
    assert "--stream" in everclip("run", "--method", "finetune").sentence
    assert "--method" in everclip("run", "--stream", two_folders).sentence


# -- a run -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tiny_clip: Path, two_folders: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("finished") / "run"
    common = ["--stream", two_folders, "--method", "finetune", "--backbone", str(tiny_clip), *SMALL]
    with pytest.raises(SystemExit) as end:
        main(["run", *common, "--out", str(out)])
    assert not end.value.code
    return out


def test_the_table_alone_goes_to_standard_output(run: Everclip, two_folders: str) -> None:
    answer = run("--stream", two_folders, "--method", "finetune")
    assert answer.code == 0
    assert "finetune" in answer.out
    assert "candidates task" in " ".join(answer.out.split())
    assert "learned so far" not in answer.out
    lines = answer.err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["after paint (1/2)", "after cloth (2/2)", "report"]
    assert lines[-1] == "report: out/report.html"
    assert not {"\r", "\x1b"} & set(answer.out + answer.err)


def test_a_long_path_stays_on_one_line(run: Everclip, two_folders: str, here: Path) -> None:
    out = here / ("long" * 30)
    answer = run("--stream", two_folders, "--method", "zero-shot", "--out", out)
    assert answer.err.splitlines()[-1] == f"report: {out / 'report.html'}"


def test_the_default_directory_is_named_by_stream_and_method(
    everclip: Everclip, here: Path, tiny_clip: Path, two_folders: str
) -> None:
    Path("a b").symlink_to(two_folders.removeprefix("folders:").split(",")[0])
    args = ("--stream", "folders:a b", "--method", "zero-shot", "--seed", "3", "--backbone", tiny_clip)
    assert everclip("run", *args).code == 0
    assert (here / "runs/folders-a-b/zero-shot-seed3/results.json").is_file()


def test_options_and_settings_reach_the_run(run: Everclip, two_folders: str) -> None:
    args = ("--stream", two_folders, "--method", "finetune", "--set", "lr=[1e-3, 2e-3]", "--set", "shots=")
    answer = run(*args, "--candidates", "all", "--seed", "4", "--workers", "1", "--precision", "bf16")
    assert answer.code == 0
    config = yaml.safe_load(Path("out/config.yaml").read_text())
    chosen = {"candidates": "all", "seed": 4, "workers": 1, "precision": "bf16", "lr": [1e-3, 2e-3], "shots": None}
    assert chosen.items() <= config.items()


def test_a_dry_run_tells_what_would_be_learned_and_leaves_nothing(run: Everclip, two_folders: str, here: Path) -> None:
    answer = run("--stream", two_folders, "--method", "moe-adapters", "--dry-run", "--set", "lr={paint: 0.5, cloth: 1}")
    assert (answer.code, answer.err) == (0, "")
    table = [line.split() for line in answer.out.splitlines()]
    assert table[:3] == [
        ["task", "classes", "train", "validation", "test", "steps", "lr"],
        ["paint", "3", "15", "3", "9", "2", "0.5"],
        ["cloth", "2", "10", "2", "6", "2", "1.0"],
    ]
    assert "moe-adapters trains" in answer.out
    assert "candidates task" in " ".join(answer.out.split())  # lines break where a path is long
    assert not (here / "out").exists()
    assert "'nope'" in run("--stream", "drawn:nope", "--method", "finetune", "--dry-run").sentence


def test_an_option_wins_over_the_recipe(run: Everclip, two_folders: str, here: Path) -> None:
    recipe = {"stream": two_folders, "method": "finetune", "seed": 5, "lr": 1e-2, "shots": 3}
    (here / "mine.yaml").write_text(yaml.safe_dump(recipe))
    assert run("mine.yaml", "--seed", "6", "--set", "lr=1e-4").code == 0
    config = yaml.safe_load((here / "out/config.yaml").read_text())
    assert (config["seed"], config["lr"], config["shots"]) == (6, 1e-4, 3)


def test_a_run_is_not_overwritten_but_resumed(everclip: Everclip, here: Path, finished: Path) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    (here / "same.yaml").write_text(yaml.safe_dump(config))
    refused = everclip("run", "same.yaml", "--out", finished)
    assert refused.code == 2
    assert "--resume" in refused.sentence
    again = everclip("run", "same.yaml", "--out", finished, "--resume")
    assert again.code == 0
    assert "finished already" in again.err
    assert "finetune" in again.out
    other = everclip("run", "same.yaml", "--out", finished, "--resume", "--seed", "9")
    assert other.code == 2
    assert "seed=0, not 9" in other.sentence


def test_an_out_that_is_no_run_directory(run: Everclip, two_folders: str, here: Path) -> None:
    (here / "file").write_text("")
    for out in ("file", "file/run", "."):
        answer = run("--stream", two_folders, "--method", "zero-shot", "--out", out)
        assert answer.code == 2
        assert "--out" in answer.sentence


def test_a_refusing_system_is_one_sentence(run: Everclip, two_folders: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **fields: object) -> None:
        raise OSError(28, "No space left on device", "events.jsonl")

    monkeypatch.setattr(RunDirectory, "event", full)
    answer = run("--stream", two_folders, "--method", "zero-shot")
    assert answer.code == 1
    assert "No space left on device: 'events.jsonl'" in answer.sentence


# -- stopped -----------------------------------------------------------------------------------------------------------


LONG = ("--set", "checkpoint_every=2", "--set", "iterations=60", "--set", "batch=2")


def wait_for_a_checkpoint(out: Path, give_up: Callable[[], bool]) -> None:
    while not give_up():
        state = RunDirectory(out).peek_state()
        if state is not None and state.step is not None:
            break
        time.sleep(0.002)


@pytest.fixture
def long_run(tiny_clip: Path, two_folders: str) -> tuple[str | Path, ...]:
    first = two_folders.split(",")[0]
    return ("run", "--stream", first, "--method", "finetune", "--backbone", tiny_clip, "--device", "cpu", *LONG)


def test_a_plain_kill_is_one_sentence_and_the_run_goes_on(
    everclip: Everclip, here: Path, long_run: tuple[str | Path, ...]
) -> None:
    over = threading.Event()

    def kill() -> None:
        wait_for_a_checkpoint(here / "out", over.is_set)
        if not over.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    killer = threading.Thread(target=kill)
    before = signal.getsignal(signal.SIGTERM)
    killer.start()
    answer = everclip(*long_run, "--out", "out")
    over.set()
    killer.join()
    assert answer.code == 143
    assert "SIGTERM" in answer.sentence
    assert "--resume" in answer.sentence
    assert signal.getsignal(signal.SIGTERM) is before
    resumed = everclip(*long_run, "--out", "out", "--resume")
    assert resumed.code == 0
    assert resumed.err.startswith("going on where the run was cut off: 0 of 1 stages learned, step ")


def test_ctrl_c_is_one_sentence(here: Path, long_run: tuple[str | Path, ...]) -> None:
    running = process(*long_run, "--out", here / "out")
    wait_for_a_checkpoint(here / "out", lambda: running.poll() is not None)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    answer = Answer(running.returncode, out, err)
    assert answer.code == 130
    assert "SIGINT" in answer.sentence
    assert "--resume" in answer.sentence


def test_a_reader_that_leaves_early_is_no_drama() -> None:
    talking = process("methods", "--json")
    assert talking.stdout is not None
    assert talking.stderr is not None
    talking.stdout.close()
    assert talking.stderr.read() == ""
    talking.stderr.close()
    talking.wait()


# -- compare, methods, selectors ---------------------------------------------------------------------------------------


def test_compare_shows_and_writes(
    everclip: Everclip, run: Everclip, here: Path, finished: Path, two_folders: str
) -> None:
    assert run("--stream", two_folders, "--method", "zero-shot").code == 0
    answer = everclip("compare", finished, "out", "--csv", "a/t.csv", "--latex", "t.tex", "--plot", "t.svg")
    assert answer.code == 0
    assert "zero-shot" in answer.out
    assert "finetune" in answer.out
    assert answer.err == ""
    assert "numbers trained" not in answer.out
    assert (here / "a/t.csv").read_text().count("\n") == 3
    assert "finetune" in (here / "t.tex").read_text()
    assert "</svg>" in (here / "t.svg").read_text()


def test_compare_tells_costs(everclip: Everclip, finished: Path) -> None:
    answer = everclip("compare", finished, "--costs")
    assert answer.code == 0
    assert "numbers trained" in answer.out
    assert re.search(r"finetune +0 +[\d,]+ +\d+\.\d–\d+\.\d +\d+\.\d\d MB", answer.out)


def test_compare_refuses_what_cannot_be_compared(
    everclip: Everclip, run: Everclip, here: Path, finished: Path, two_folders: str
) -> None:
    (here / "empty").mkdir()
    (here / "unfinished").mkdir()
    (here / "unfinished/config.yaml").write_text("method: finetune\n")
    for path in ("nowhere", "empty", "unfinished"):
        answer = everclip("compare", finished, path)
        assert answer.code == 2
        assert path in answer.sentence
    assert "--resume" in everclip("compare", "unfinished").sentence
    assert "'some'" in everclip("compare", finished, "--candidates", "some").sentence
    assert "same run" in everclip("compare", finished, finished).sentence
    assert "t.doc" in everclip("compare", finished, "--plot", "t.doc").err
    assert run("--stream", two_folders, "--method", "zero-shot", "--set", "templates=first").code == 0
    mixed = everclip("compare", finished, "out")
    assert mixed.code == 2
    assert "templates" in mixed.sentence
    assert "--mix" in mixed.sentence
    assert everclip("compare", finished, "out", "--mix").code == 0


def test_published_rows_alone_and_beside_runs(everclip: Everclip, finished: Path) -> None:
    assert "tinyimagenet-20" in everclip("published").out
    rows = everclip("published", "mtil-1").out.splitlines()
    places = [next(i for i, row in enumerate(rows) if f" {name} " in row) for name in ("dpw", "moe-adapters", "lwf")]
    assert places == sorted(places)
    assert "2403.11549" in rows[places[1]]
    assert "'mtil'; choose one of mtil-1" in everclip("published", "mtil").sentence
    assert "rows of mtil-1 are of 'mtil-1'" in everclip("compare", finished, "--published", "mtil-1").sentence


def test_a_run_is_judged_again(run: Everclip, everclip: Everclip, two_folders: str) -> None:
    learn = ("--stream", two_folders, "--method", "moe-adapters")
    assert run(*learn, "--set", "keep_stages=true").code == 0
    answer = everclip("judge", "out", "--selector", "prototype", "--set", "routing=batch")
    assert answer.code == 0, answer.err
    assert "moe-adapters" in answer.out
    assert results("out-prototype-batch")["protocol"]["routing"] == "batch"
    costs = everclip("compare", "out-prototype-batch", "--costs").out
    assert re.search(r"moe-adapters +0 +[\d,]+ +– +–", costs), "the learning was another run's"
    for args, words in (
        (["nowhere"], ["nowhere holds no run"]),
        (["out", "--selector", "nobody"], ["'nobody'", "gaussian"]),
        (["out", "--set", "lr=1", "--out", "other"], ["learned with lr", "may change only candidates"]),
        (["out", "--selector", "prototype", "--set", "routing=batch"], ["already holds a run"]),
    ):
        refused = everclip("judge", *args)
        assert (refused.code, refused.out) == (2, "")
        assert all(word in refused.err for word in words), refused.err
    assert not Path("other").exists()


@pytest.mark.parametrize("command", ["methods", "selectors"])
def test_catalogs_in_words_and_as_json(everclip: Everclip, command: str) -> None:
    from everclip.methods import METHODS
    from everclip.selectors import SELECTORS

    registry = {"methods": METHODS, "selectors": SELECTORS}[command]
    entries = json.loads(everclip(command, "--json").out)
    assert [entry["name"] for entry in entries] == list(registry)
    for entry in entries:
        assert set(entry["settings"]) == set(registry[entry["name"]].Config.model_fields)
        assert all(setting["description"] for setting in entry["settings"].values())
    words = everclip(command)
    assert words.code == 0
    assert all(kind.summary in words.out for kind in registry.values())


# -- images of all sorts -----------------------------------------------------------------------------------------------


def huge_png() -> bytes:
    """A PNG whose header promises 20000 × 20000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels


def put_good_images(folder: Path) -> int:
    """Add sorts of images that people have; returns how many."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.convert("P").save(folder / "palette.png")
    image.convert("RGBA").save(folder / "alpha.webp")
    image.save(folder / "animated.gif", save_all=True, append_images=[image.rotate(90)])
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40).save(folder / "deep.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(folder / "turned.jpg", exif=turned)
    image.save(folder / "name, with ünï.png")
    return 7


def put_bad_images(folder: Path) -> set[str]:
    """Add files that are no good images; returns their names."""
    good = next(folder.glob("*.png")).read_bytes()
    bad = {"cut.png": good[: len(good) // 2], "empty.png": b"", "words.jpg": b"words", "huge.png": huge_png()}
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    (folder / os.fsdecode(b"latin-\xe9.png")).write_bytes(b"words")
    return {*bad, os.fsdecode(b"latin-\xe9.png")}


def test_good_images_are_used_and_bad_ones_counted(run: Everclip, here: Path) -> None:
    folder = tiny.image_folder(here / "some, photos of ünï" / "mine", ["red", "green"])
    good = {part: put_good_images(folder / part / "red") for part in ("train", "test")}
    bad = {part: put_bad_images(folder / part / "red") for part in ("train", "test")}
    shutil.copytree(folder, here / "with space")
    answer = run("--stream", "folders:with space", "--method", "finetune", "--set", "validation=0")
    assert answer.code == 0
    (dataset,) = results()["datasets"]
    assert dataset["train"] == 12 + good["train"]
    assert dataset["skipped"] == len(bad["train"]) + len(bad["test"]) == len(dataset["skipped_files"])
    assert {Path(entry["name"]).name for entry in dataset["skipped_files"]} == bad["train"]
    lines = (here / "out/matrix.csv").read_text().splitlines()
    assert lines[1].split(",")[3] == str(6 + good["test"])


def test_a_class_without_a_good_image_is_counted(run: Everclip, here: Path) -> None:
    folder = tiny.image_folder(here / "set", ["red", "green"])
    for path in (folder / "train/green").iterdir():
        path.write_text("words")
    assert run("--stream", "folders:set", "--method", "finetune", "--set", "validation=0").code == 0
    (dataset,) = results()["datasets"]
    assert (dataset["classes"], dataset["train"], dataset["skipped"]) == (2, 6, 6)


def remove_images(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.unlink()


def remove_images_of(folder: Path, name: str) -> None:
    for part in ("train", "test"):
        remove_images(folder / part / name)


def spoil_images(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.write_text("words")


SPOILED = {
    "missing": (shutil.rmtree, ["set"]),
    "empty class": (lambda folder: remove_images(folder / "train/green"), ["'green'", "the training part lacks"]),
    "single class": (lambda folder: remove_images_of(folder, "green"), ["set", "at least two"]),
    "untrained class": (lambda folder: shutil.copytree(folder / "test/red", folder / "test/blue"), ["'blue'", "lacks"]),
    "equal names": (lambda folder: (folder / "train/green").rename(folder / "train/Red"), ["'Red' and 'red'"]),
    "no tests": (lambda folder: remove_images(folder / "test"), ["set/test", "no image"]),
    "bad tests": (lambda folder: spoil_images(folder / "test"), ["none of the 6 images", "000.png"]),
    "bad card": (lambda folder: (folder / "dataset.json").write_text("{"), ["dataset.json"]),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_folder_that_cannot_be_used(run: Everclip, here: Path, case: str) -> None:
    spoil, words = SPOILED[case]
    spoil(tiny.image_folder(here / "set", ["red", "green"]))
    answer = run("--stream", "folders:set", "--method", "finetune")
    assert answer.code == 2
    assert all(word in answer.sentence for word in words)
    assert not (here / "out").exists()


def test_two_folders_of_one_name(run: Everclip, here: Path) -> None:
    for parent in ("january", "february"):
        tiny.image_folder(here / parent / "photos", ["red", "green"])
    answer = run("--stream", "folders:january/photos,february/photos", "--method", "finetune")
    assert answer.code == 2
    assert "'photos'" in answer.sentence


def test_a_folder_without_permission(run: Everclip, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.image_folder(here / "set", ["red", "green"])
    listed = os.scandir

    def scandir(folder: str | Path) -> object:
        if Path(folder).name == "green":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    answer = run("--stream", "folders:set", "--method", "finetune")
    assert answer.code == 2
    assert re.search(r"set/(train|test)/green \(Permission denied\)", answer.sentence)


def test_other_errors_are_not_hidden(run: Everclip, two_folders: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **named: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(runner, "run", broken)
    with pytest.raises(ZeroDivisionError):
        run("--stream", two_folders, "--method", "finetune")
