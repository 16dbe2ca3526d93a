from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from safetensors.torch import load_file

from everclip.backbone import Backbone
from everclip.testing.lessons import Lessons, lessons_of

from . import tiny
from .golden_clip import golden_backbone
from .places import read_only as read_only

# Tiny tensors gain nothing from threads, and several test processes side by side lose much by them. More of them show
# that no result depends on their number.
THREADS = int(os.environ.get("EVERCLIP_TEST_THREADS", "1"))
os.environ["OMP_NUM_THREADS"] = str(THREADS)
torch.set_num_threads(THREADS)

# How long an example takes says how busy the machine is.
settings.register_profile("everclip", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("everclip")


class Golden:
    """The recorded reference numbers: `golden("metrics")` is one file's tensors, `golden.settings` the sizes.

    The folder is `tests/golden`, or EVERCLIP_GOLDEN for numbers recorded at other sizes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))

    def __call__(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / f"{name}.safetensors")


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden(Path(os.environ.get("EVERCLIP_GOLDEN", Path(__file__).parent / "golden")))


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    """In every process of the tests; whoever changes it puts it back."""
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["EVERCLIP_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: ViT type, random weights."""
    return tiny.clip_folder(tmp_path_factory.mktemp("models") / "vit", tiny.VIT)


@pytest.fixture(scope="session")
def tiny_siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: SigLIP type (timm image tower, text without causal mask), random weights."""
    return tiny.clip_folder(tmp_path_factory.mktemp("models") / "siglip", tiny.SIGLIP)


@pytest.fixture(scope="session")
def two_folders(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A stream of two image folders."""
    root = tmp_path_factory.mktemp("folders")
    first = tiny.image_folder(root / "paint", ["red", "green", "blue"])
    second = tiny.image_folder(root / "cloth", ["gray", "red"], seed=1)
    return f"folders:{first},{second}"


@pytest.fixture(scope="session")
def golden_clip(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """The backbone that the golden numbers were recorded with, frozen; shared, so tests that train take a clone."""
    folder = tmp_path_factory.mktemp("golden") / "clip"
    return golden_backbone(golden.settings["clip"], golden("clip_weights"), folder)


@pytest.fixture(scope="session")
def lessons(tiny_clip: Path, two_folders: str) -> Lessons:
    """The two folders, decoded for the tiny CLIP."""
    return lessons_of(tiny_clip, two_folders)


@pytest.fixture(scope="session")
def paint(two_folders: str) -> Path:
    return Path(two_folders.removeprefix("folders:").split(",")[0])


@pytest.fixture(scope="session")
def cloth(two_folders: str) -> Path:
    return Path(two_folders.split(",")[1])


@pytest.fixture(scope="session")
def photos(paint: Path, cloth: Path) -> list[Path]:
    """New images of both tasks."""
    return sorted([*(paint / "test").rglob("*.png"), *(cloth / "test").rglob("*.png")])
