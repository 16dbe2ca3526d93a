"""`--track`: who looks on at a run, named on the command line and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from everclip.cli import main
from everclip.experiment.trackers import CALLBACKS

CODE = """
import everclip

class Noting(everclip.Callback):
    name, summary = "noting", "writes a file"

    def on_start(self, run):
        self.file = run.path / "noted.txt"

    def on_task(self, row):
        with open(self.file, "a") as file:
            print(row.task, len(row.accuracy["all"]), file=file)

class Stumbling(everclip.Callback):
    name, summary = "stumbling", "fails"

    def on_step(self, step):
        raise OSError(28, "No space left on device")
"""

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_clip: Path,
    two_folders: str,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Run]:
    """Runs `everclip run` in a folder with a module of callbacks; its exit status and what it said."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "looking_on.py").write_text(CODE)
    path = list(sys.path)
    common = ["--stream", two_folders, "--backbone", str(tiny_clip), "--device", "cpu", "--out", "out"]
    small = ["--method", "prompt-tuning", "--set", "iterations=2", "--set", "batch=4"]

    def call(*args: str) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["run", *args, *common, *small])
        return int(end.value.code or 0), capsys.readouterr().err

    yield call
    sys.path[:] = path
    sys.modules.pop("looking_on", None)
    for name in set(CALLBACKS._registered):
        CALLBACKS.unregister(name)


def test_callbacks_by_their_place(run: Run) -> None:
    status, said = run("--track", "looking_on:Stumbling", "--track", "looking_on:Noting")
    assert status == 0
    assert Path("out/noted.txt").read_text() == "paint 2\ncloth 2\n"
    warnings = [line for line in said.splitlines() if "stumbling" in line]
    assert warnings == [
        "callback 'stumbling' failed in on_step (OSError: [Errno 28] No space left on device) and is left out; the run "
        "goes on."
    ]
    assert "track" not in yaml.safe_load(Path("out/config.yaml").read_text())
    assert run("--resume")[0] == 0, "who looks on is no part of the configuration"


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("track", "words"),
    [
        ("tensorbord", "there is no callback 'tensorbord'; choose from tensorboard, wandb"),
        ("looking_on:Nobody", "module 'looking_on' has no 'Nobody'"),
        ("wandb", "callback 'wandb' needs wandb, which is not installed; get it by pip install 'everclip[trackers]'."),
    ],
)
def test_who_cannot_look_on_is_refused_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, track: str, words: str, more: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    status, said = run("--track", track, *more)
    assert status == 2
    assert len(said.splitlines()) == 1
    assert words in said
    assert not Path("out").exists()


def test_a_file_names_nobody(run: Run) -> None:
    Path("recipe.yaml").write_text("track: looking_on:Noting\n")
    status, said = run("recipe.yaml")
    assert status == 2
    assert "'track' is no setting" in said
    assert "looking_on" not in sys.modules


def test_nothing_of_a_tracker_is_imported_unasked() -> None:
    script = "import sys, everclip.cli, everclip.experiment.trackers; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert not {"tensorboard", "wandb", "torch.utils.tensorboard"} & set(done.stdout.split())
