"""Commands where things are not as the developer has them: terminals, home folders, disks, clocks, file names."""

from __future__ import annotations

import ast
import errno
import io
import json
import os
import shutil
import sys
import tempfile
import time
import typing
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import save_file

import everclip
from everclip.cli import app, main
from everclip.cli.data import data_app
from everclip.data.cache import cache_dir
from everclip.learner import Learner
from everclip.report import load_run
from everclip.selectors.alexnet import AlexNet
from everclip.storage import lock
from everclip.storage.run import RunDirectory, config_text
from everclip.storage.state import CONFIG
from everclip.system.paths import portable_name

from .. import tiny
from ..places import ReadOnly

QUICK = ("--set", "iterations=2", "--set", "batch=4", "--set", "warmup=1", "--device", "cpu")
SMALL = ("--backbone", "~/clip", *QUICK)


def command(*args: str | Path, encoding: str = "utf-8", errors: str = "strict") -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command whose output has this encoding."""
    with pytest.MonkeyPatch.context() as patch:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors) for _ in range(2)]
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        with pytest.raises(SystemExit) as end:
            main([str(arg) for arg in args])
        for stream in streams:
            stream.flush()
        out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)  # type: ignore[attr-defined]
    return int(end.value.code or 0), out, err


def succeeds(*args: str | Path, **how: str) -> str:
    code, out, err = command(*args, **how)
    assert code == 0, err
    return out


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.image_folder(tmp_path_factory.mktemp("places") / "動物", ["猫", "größer"])


@pytest.fixture(scope="module")
def taught(animals: Path, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("places") / "model"
    succeeds("learn", model, animals, "--backbone", tiny_clip, "--set", "random_features=16")
    return model


@pytest.fixture
def model(taught: Path, here: Path) -> Path:
    return Path(shutil.copytree(taught, here / "model"))


@pytest.fixture(scope="module")
def learned(animals: Path, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose stages are kept."""
    out = tmp_path_factory.mktemp("places") / "run"
    args = ("--method", "moe-adapters", "--backbone", tiny_clip, "--set", "keep_stages=true", *QUICK)
    succeeds("run", "--stream", f"folders:{animals}", *args, "--out", out)
    return out


@pytest.fixture
def finished(learned: Path, here: Path) -> Path:
    return Path(shutil.copytree(learned, here / "run"))


# -- terminals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "shift-jis"])
def test_what_the_output_cannot_say_is_replaced(encoding: str, model: Path, animals: Path, finished: Path) -> None:
    for args in (
        ("--help",), ("run", "--help"), ("methods",), ("published", "mtil-1"), ("data", "list"),
        ("show", model), ("evaluate", model, animals), ("compare", finished, "--costs"),
    ):  # fmt: skip
        assert succeeds(*args, encoding=encoding)
    assert (" ?? " in succeeds("show", model, encoding=encoding)) == (encoding != "shift-jis")
    said = succeeds("predict", model, animals / "test/猫", encoding=encoding)
    assert said.count("\n") == 3
    assert ("猫 " in said) == (encoding == "shift-jis")
    assert ("? " in said) == (encoding != "shift-jis")
    code, out, err = command("learn", model, "猫/nowhere", encoding=encoding)
    assert (code, out) == (2, "")
    assert err.startswith("everclip: ")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_json_loses_nothing(encoding: str, model: Path, animals: Path) -> None:
    known = json.loads(succeeds("show", model, "--json", encoding=encoding))
    assert known["tasks"][0]["classes"] == ["größer", "猫"]
    lines = succeeds("predict", model, animals / "test", "--json", encoding=encoding).splitlines()
    assert {Path(json.loads(line)["path"]).parent.name for line in lines} == {"猫", "größer"}
    found = json.loads(succeeds("evaluate", model, animals, "--json", encoding=encoding))
    assert set(found["per_class"]) == {"猫", "größer"}
    again = json.loads(succeeds("learn", model, animals, "--json", encoding=encoding))
    assert set(again["known_classes"]) == {"猫", "größer"}
    assert json.loads(succeeds("forget", model, "動物", "--json", encoding=encoding))["task"] == "動物"
    assert json.loads(succeeds("methods", "--json", encoding=encoding))


def test_whoever_chose_how_to_replace_has_it_so(model: Path) -> None:
    assert "\\u52d5" in succeeds("show", model, encoding="ascii", errors="backslashreplace")


@pytest.mark.parametrize("closed", ["stdin", "stdout", "stderr"])
def test_a_closed_stream_is_no_drama(
    closed: str, model: Path, animals: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, closed, None)
    for args in (
        ("show", model),
        ("predict", model, animals / "test"),
        ("compare", finished),
    ):
        with pytest.raises(SystemExit) as end:
            main([str(arg) for arg in args])
        assert not end.value.code


# -- home folders ------------------------------------------------------------------------------------------------------


def test_every_path_of_every_command_is_read_in_one_place() -> None:
    """So that none forgets what `~` is."""
    seen = 0
    for registered in (*app.registered_commands, *data_app.registered_commands):
        assert registered.callback is not None
        for name, hint in typing.get_type_hints(registered.callback, include_extras=True).items():
            if typing.get_origin(hint) is typing.Annotated and "Path" in str(hint.__origin__):
                (info,) = hint.__metadata__
                assert info.parser is not None, f"{registered.callback.__name__}: {name}"
                assert info.parser("~/x") == Path(os.path.expanduser("~/x"))
                seen += 1
    assert seen > 20


@pytest.fixture
def at_home(tmp_path: Path, here: Path, animals: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with images, embeddings, a CLIP, …; the working folder is another one."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    (folder / "animals").symlink_to(animals)
    (folder / "clip").symlink_to(tiny_clip)
    rng = np.random.default_rng(0)
    names = np.array(["a", "b"])
    labels = np.arange(10) % 2
    embeddings = rng.normal(size=(10, 32)).astype(np.float32)
    np.savez(folder / "e.npz", class_names=names, labels=labels, embeddings=embeddings)
    (folder / "texts.txt").write_text("a dog\ntwo trees\n", encoding="utf-8")
    settings = {"method": "zero-shot", "stream": "folders:~/animals", "backbone": "~/clip", "device": "cpu"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    yield folder
    assert not list(here.rglob("~*")), "a folder called ~"


def test_a_learner_at_home(at_home: Path) -> None:
    succeeds("learn", "~/model", "~/animals", "--backbone", "~/clip", "--set", "random_features=16")
    assert (at_home / "model/learner.json").is_file()
    image = next((at_home / "animals/test/猫").iterdir()).relative_to(at_home)
    assert len(succeeds("predict", "~/model", f"~/{image}", "~/animals/test", "--json").splitlines()) == 1 + 6
    assert "images right" in succeeds("evaluate", "~/model", "~/animals")
    learner = Learner.load("~/model", device="cpu")
    assert learner.predict(f"~/{image}").label == learner.predict(at_home / image).label
    assert learner.learn("pairs", [(f"~/{image}", "cat"), (Path(f"~/{image}"), "cat")]).skipped == []
    assert learner.evaluate("~/animals").images == 6
    learner.save("~/again")
    assert Learner.from_pretrained("~/again", backbone="~/clip", device="cpu").tasks == learner.tasks


def test_a_run_at_home(at_home: Path) -> None:
    reference = ("--set", "reference=~/animals/test", "--set", "reference_texts=~/texts.txt")
    args = ("--stream", "folders:~/animals", "--method", "zscl", "--set", "distill_text=true")
    succeeds("run", *args, *reference, *SMALL, "--out", "~/zscl")
    assert load_run("~/zscl")["method"] == "zscl"
    succeeds("run", "~/recipe.yaml", "--out", "~/zero")
    succeeds("run", "--stream", "cil:~/animals:2", "--method", "zero-shot", *SMALL, "--out", "~/cil")
    succeeds("run", "--stream", "embeddings:~/e.npz", "--method", "ncm", "--backbone", "~/clip", "--out", "~/e")
    files = ("--csv", "~/t/t.csv", "--latex", "~/t/t.tex", "--plot", "~/t/t.svg")
    succeeds("compare", "~/zscl", "~/zero", "--mix", *files)
    assert sorted(path.suffix for path in (at_home / "t").iterdir()) == [".csv", ".svg", ".tex"]


def test_a_judgment_at_home(at_home: Path, learned: Path) -> None:
    shutil.copytree(learned, at_home / "run")
    weights = {name: tensor.contiguous() for name, tensor in tiny.alexnet_weights().items() if "features" in name}
    save_file(weights, at_home / "alexnet.safetensors")
    succeeds("judge", "~/run", "--selector", "prototype")
    (judged,) = at_home.glob("run-prototype-*")
    assert load_run(f"~/{judged.name}")["method"] == "moe-adapters"
    assert AlexNet("~/alexnet.safetensors").digest == AlexNet(str(at_home / "alexnet.safetensors")).digest


@pytest.mark.parametrize(
    ("setting", "below"),
    [("EVERCLIP_CACHE", ""), ("XDG_CACHE_HOME", "everclip"), (None, ".cache/everclip")],
)
def test_caches_and_data_at_home(
    at_home: Path, monkeypatch: pytest.MonkeyPatch, setting: str | None, below: str
) -> None:
    for name in ("EVERCLIP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if setting:
        monkeypatch.setenv(setting, "~/kept")
    assert cache_dir() == at_home / ("kept" if setting else "") / below
    monkeypatch.setenv("EVERCLIP_DATA", "~/sets")
    (at_home / "sets/mnist").mkdir(parents=True)
    assert "yes" in succeeds("data", "list")
    assert "yes" in succeeds("data", "list", "--root", "~/sets")


def test_nobody_at_all(here: Path, model: Path, animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No HOME, and a uid without a name, as in many a container."""
    pwd = pytest.importorskip("pwd", reason="only Unix has a password database")

    def unknown(user: object) -> None:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "EVERCLIP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    new = tiny.image_folder(tmp_path / "new", ["red", "blue"], seed=5)
    succeeds("learn", model, new)
    assert (cache_dir() / "images").is_dir()
    assert tmp_path in cache_dir().parents
    assert not list(here.glob("~*"))
    code, _, err = command("show", "~/model")
    assert code == 2
    assert "set HOME" in err


# -- disks -------------------------------------------------------------------------------------------------------------


def test_a_read_only_learner_answers_and_does_not_change(model: Path, animals: Path, read_only: ReadOnly) -> None:
    before = succeeds("predict", model, animals / "test", "--json")
    read_only(model)
    assert succeeds("predict", model, animals / "test", "--json") == before
    for args in (("show", model), ("evaluate", model, animals)):
        assert succeeds(*args)
    for args in (("learn", model, animals), ("forget", model, "動物")):
        code, out, err = command(*args)
        assert (code, out) == (2, "")
        assert err.startswith(f"everclip: learner directory {model} is read-only")
        assert err.count("\n") == 1
    code, _, err = command("learn", model / "below", animals)
    assert code == 2
    assert "cannot be made where it is read-only" in err


def test_a_read_only_run_is_compared_and_judged(finished: Path, animals: Path, here: Path, read_only: ReadOnly) -> None:
    read_only(finished)
    assert "moe-adapters" in succeeds("compare", finished, "--costs")
    succeeds("judge", finished, "--selector", "prototype", "--out", here / "judged")
    args = ("run", finished / "config.yaml", "--out", finished)
    assert "moe-adapters" in succeeds(*args, "--resume")  # it is done: nothing is to be written
    state = json.loads((finished / "checkpoints/state.json").read_text(encoding="utf-8"))["state"]
    assert state["finished"]


def test_an_unfinished_run_that_is_read_only_is_refused_at_once(
    finished: Path, read_only: ReadOnly, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finished / "results.json").unlink()
    read_only(finished)
    monkeypatch.setattr("everclip.experiment.runner.Experiment", lambda *args: pytest.fail("loaded everything first"))
    code, _, err = command("run", finished / "config.yaml", "--out", finished, "--resume")
    assert code == 2
    assert f"run directory {finished} is read-only" in err


def test_no_temporary_files_are_needed_to_learn_and_answer(
    model: Path, animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    succeeds("learn", model, animals)
    succeeds("predict", model, animals / "test")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF])
def test_a_file_system_without_locks(model: Path, animals: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    fcntl = pytest.importorskip("fcntl", reason="Windows locks by other means")

    def flock(file: int, how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    succeeds("learn", model, animals)
    succeeds("forget", model, "動物")
    held = lock.Lock(model)
    held.acquire()
    status, _, err = command("learn", model, animals)
    held.release()
    assert status == 1
    assert f"is in use by process {os.getpid()} on " in err


# -- clocks ------------------------------------------------------------------------------------------------------------


def test_a_clock_that_goes_back(
    here: Path, model: Path, animals: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody sets it, or a machine without a battery starts in 1970: durations stay what they are."""
    now = iter(range(2_000_000_000, 0, -100_000))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    assert json.loads(succeeds("learn", model, animals, "--json"))["seconds"] > 0
    args = ("run", "--stream", f"folders:{animals}", "--method", "finetune", "--out", "out", "--backbone", tiny_clip)
    succeeds(*args, *QUICK)
    succeeds(*args, *QUICK, "--resume")
    events = [json.loads(line) for line in Path("out/events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert events[0]["time"] > events[-1]["time"]
    assert all(event.get("seconds", 0) >= 0 for event in events)
    assert succeeds("compare", "out", "--costs")


# -- file names --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there, no folder is called so")
def test_names_that_are_written_are_names_everywhere(here: Path, animals: Path, tiny_clip: Path) -> None:
    """A folder from here has a name that Windows does not know; what is made of it can be copied there."""
    Path("con").symlink_to(animals)
    tiny.image_folder(Path("a:b?."), ["nul", "x:y"])
    common = ("--backbone", tiny_clip, "--device", "cpu")
    kept = ("--method", "moe-adapters", "--set", "keep_stages=true", *QUICK)
    succeeds("run", "--stream", "folders:con,a:b?.", "--backbone", tiny_clip, *kept)
    (run,) = Path("runs").glob("*/*")
    succeeds("judge", run, "--selector", "prototype")
    succeeds("learn", "model", "a:b?.", *common)
    written = [path for top in (Path("runs"), Path("model")) for path in (top, *top.rglob("*"))]
    assert len(written) > 20
    assert [path for path in written if portable_name(path.name) != path.name] == []


@pytest.mark.skipif(os.name == "nt", reason="there was never such a name")
def test_a_run_under_the_name_that_it_once_had_is_found(here: Path, animals: Path, learned: Path) -> None:
    Path("pets.").symlink_to(animals)
    settings = yaml.safe_load((learned / "config.yaml").read_text(encoding="utf-8")) | {"stream": "folders:pets."}
    shutil.copytree(learned, "runs/folders-pets./moe-adapters-seed0")
    run = RunDirectory("runs/folders-pets./moe-adapters-seed0")
    state = run.peek_state()
    assert state is not None
    run.save_state(state, {CONFIG: config_text(settings)})
    Path("again.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    code, _, err = command("run", "again.yaml")
    assert code == 2
    assert "already holds a run" in err
    code, _, err = command("run", "again.yaml", "--resume")
    assert (code, "is finished already" in err) == (0, True)


UNIX_ONLY = {"fcntl", "pwd", "grp", "resource", "termios", "tty", "pty", "syslog", "posix", "crypt", "readline"}


def test_what_only_unix_has_is_imported_where_its_absence_is_met() -> None:
    """At the top of a module such an import ends every command on Windows."""
    root = Path(everclip.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:  # what stands in a `try` is deeper
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not UNIX_ONLY & set(names), path


def test_a_system_without_what_only_unix_has(
    model: Path, animals: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    for name in ("getuid", "geteuid", "uname", "pread", "pwrite", "fork", "O_DIRECTORY", "getpgid", "killpg"):
        monkeypatch.delattr(os, name, raising=False)
    succeeds("learn", model, animals)
    succeeds("predict", model, animals / "test")
    succeeds("compare", finished, "--costs")
    succeeds("judge", finished, "--selector", "prototype")
