"""The wheel: complete, small, and enough by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from everclip import __version__

from . import tiny

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder))
    subprocess.run([*PIP, "wheel", str(ROOT), *options], check=True)
    (path,) = folder.iterdir()
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"everclip-{__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < 60e6
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    source = ROOT / "src"
    wanted = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and path.suffix in (".py", ".yaml", ".css", ".typed", ".safetensors", ".json")
    }
    assert {"everclip/py.typed", "everclip/report/page.css", "everclip/experiment/recipes/demo.yaml"} <= wanted <= names
    assert "everclip/embedded/open_clip_model.safetensors" in names
    assert "everclip/embedded/open_clip_config.json" in names
    assert {name.split("/")[0] for name in names} == {"everclip", f"everclip-{__version__}.dist-info"}
    assert not [name for name in names if "tests/" in name or name.endswith(".pyc")]


def test_an_installed_wheel_runs_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    place, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--target", str(place), str(wheel)], check=True)
    elsewhere.mkdir()
    tiny.image_folder(elsewhere / "photos", ["red", "green"])
    environment = os.environ | {"PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"}

    def python(*args: str) -> str:
        return subprocess.run(
            [sys.executable, *args], cwd=elsewhere, env=environment, check=True, capture_output=True, text=True
        ).stdout

    assert Path(python("-c", "import everclip; print(everclip.__file__)").strip()).is_relative_to(place)
    options = ["--stream", "folders:photos", "--method", "finetune", "--device", "cpu"]
    table = python("-m", "everclip", "run", *options, "--set", "iterations=2", "--set", "batch=4", "--out", "out")
    assert "finetune" in table
    assert (elsewhere / "out/report.html").is_file()
