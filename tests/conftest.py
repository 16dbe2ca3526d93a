from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from . import tiny


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
