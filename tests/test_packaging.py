"""Wheel, sdist and the example of a plug-in: complete, small, and enough by themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from everclip import __version__

from . import tiny

ROOT = Path(__file__).parents[1]
INSTALL = (
    sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps", "--no-index",
    "--no-build-isolation", "--upgrade", "--target",
)  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("built")
    hatch = (sys.executable, "-m", "hatchling", "build", "--directory", str(folder))
    subprocess.run([*hatch, "--target", "sdist"], cwd=ROOT, check=True)
    with tarfile.open(folder / f"everclip-{__version__}.tar.gz") as archive:
        archive.extractall(folder / "source", filter="data")
    subprocess.run([*hatch, "--target", "wheel"], cwd=folder / "source" / f"everclip-{__version__}", check=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is installed; torch and the rest are those of the environment of the tests."""
    place = tmp_path_factory.mktemp("site")
    subprocess.run([*INSTALL, str(place), str(wheel)], check=True)
    return place


def python(site: Path, here: Path, *arguments: str) -> str:
    """What Python prints in a folder, with the installed wheel and without the source tree."""
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


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


def test_an_installed_wheel_runs_from_anywhere(site: Path, tmp_path: Path) -> None:
    tiny.image_folder(tmp_path / "photos", ["red", "green"])
    assert Path(python(site, tmp_path, "-c", "import everclip; print(everclip.__file__)").strip()).is_relative_to(site)
    options = ["--stream", "folders:photos", "--method", "finetune", "--device", "cpu"]
    steps = ["--set", "iterations=2", "--set", "batch=4"]
    assert "finetune" in python(site, tmp_path, "-m", "everclip", "run", *options, *steps, "--out", "out")
    assert (tmp_path / "out/report.html").is_file()


def test_the_contracts_run_from_an_installed_wheel(site: Path, tmp_path: Path) -> None:
    script = """
from pathlib import Path

from everclip.methods import method_class
from everclip.selectors import selector_class
from everclip.streams import Protocol, open_stream
from everclip.testing import check_method, check_selector, check_stream
from everclip.testing.tiny import image_folder

print(*check_method(method_class("ncm")), *check_selector(selector_class("gaussian")))
image_folder(Path("birds"), ["wren", "owl"])
print(*check_stream(open_stream("folders:birds", Protocol())))
"""
    kept = python(site, tmp_path, "-c", script).split()
    assert {"order_free", "tells_clear_tasks_apart", "parts_are_apart"} <= set(kept)


def test_the_example_of_a_plugin_installs_and_keeps_the_contracts(site: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples/plugin", tmp_path / "plugin")
    subprocess.run([*INSTALL, str(site), str(tmp_path / "plugin")], check=True)
    assert "4 passed" in python(site, tmp_path / "plugin", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    listed = python(site, tmp_path, "-m", "everclip", "methods")
    assert "from everclip-olora 0.1.0" in listed
    lines = (tmp_path / "plugin/src/everclip_olora/method.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 100
