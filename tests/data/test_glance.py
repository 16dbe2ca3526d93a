from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everclip.data import BadImage, load_rgb
from everclip.data import glance as module
from everclip.data.glance import glance_at
from everclip.data.source import Glance


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".bmp", ".tif"])
def test_the_header_is_enough(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / f"a{suffix}"
    Image.fromarray(np.zeros((6, 9, 3), np.uint8)).save(file)
    monkeypatch.setattr(module, "load_rgb", None)  # nothing is decoded
    assert glance_at(file, "a") == Glance(9, 6, file.stat().st_size)


def test_what_the_header_does_not_settle_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "words.png").write_bytes(b"words")
    (tmp_path / "folder.png").mkdir()
    Image.fromarray(np.zeros((1, 2000, 3), np.uint8)).save(tmp_path / "long.png")
    for name in ("empty.png", "words.png", "folder.png", "long.png", "nowhere.png"):
        reasons = []
        for read in (glance_at, load_rgb):
            with pytest.raises(BadImage) as refused:
                read(tmp_path / name, name)
            reasons.append(str(refused.value))
        assert reasons[0] == reasons[1]
    Image.fromarray(np.zeros((1, 600, 3), np.uint8)).save(tmp_path / "band.png")
    assert glance_at(tmp_path / "band.png", "band")[:2] == (600, 1)
