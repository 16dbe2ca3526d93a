from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test an empty cache folder that does not exist yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EVERCLIP_CACHE", str(folder))
    return folder


@pytest.fixture
def write_images(tmp_path: Path):
    """Return a function that writes one random PNG for each given path."""

    def write(*paths: str, size: tuple[int, int] = (20, 12)) -> Path:
        for path in paths:
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            random = np.random.default_rng(list(path.encode()))
            Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(file)
        return tmp_path / Path(paths[0]).parts[0]

    return write
