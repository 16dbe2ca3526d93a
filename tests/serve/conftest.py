from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everclip.learner import Learner
from everclip.serve import Limits, Service

pytest.importorskip("fastapi", reason="the service needs the extra `serve`")


@pytest.fixture(scope="session")
def folders(two_folders: str) -> list[Path]:
    """Two tasks, each a folder divided into train and test."""
    return [Path(path) for path in two_folders.removeprefix("folders:").split(",")]


@pytest.fixture(scope="session")
def taught(tiny_clip: Path, folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A learner's directory; to be copied, not changed."""
    learner = Learner.create(str(tiny_clip), "rail", {"random_features": 32})
    for folder in folders:
        learner.learn(folder.name, folder)
    path = tmp_path_factory.mktemp("learners") / "taught"
    learner.save(path)
    return path


@pytest.fixture
def model(taught: Path, tmp_path: Path) -> Path:
    """A directory of one's own."""
    return Path(shutil.copytree(taught, tmp_path / "model"))


@pytest.fixture
def serving(model: Path) -> Iterator[Callable[..., Service]]:
    """Makes services on `model`, with these limits."""
    opened = []

    def make(**limits: object) -> Service:
        opened.append(Service(model, Limits(**limits), device="cpu"))
        return opened[-1]

    yield make
    for service in opened:
        service.close()


def photos(folder: Path, part: str = "test") -> list[Path]:
    return sorted((folder / part).rglob("*.png"))


def lesson(folder: Path) -> list[tuple[str, tuple[str, bytes]]]:
    """A folder's training images as the files of a form, each named CLASS/FILE."""
    found = photos(folder, "train")
    return [("files", (f"{path.parent.name}/{path.name}", path.read_bytes())) for path in found]


Start = Callable[..., tuple[str, subprocess.Popen]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `everclip serve` on a free port; returns its address and the process."""
    running = []

    def begin(*args: str) -> tuple[str, subprocess.Popen]:
        command = [sys.executable, "-m", "everclip", "serve", *args, "--port", "0", "--device", "cpu"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"})
        running.append(process)
        for line in process.stderr:
            if found := re.search(r"http://\S+:\d+", line):
                return found[0], process
        raise AssertionError(f"it ended with {process.wait()}")

    yield begin
    for process in running:
        process.kill()
        process.wait()
        process.stderr.close()
