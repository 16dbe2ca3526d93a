"""A run whose cache was damaged ends as it ended the first time, to the last bit of what it learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from everclip.data import verify_cache
from everclip.experiment.config import Config
from everclip.experiment.runner import run


def end(out: Path) -> dict[str, bytes]:
    """What a run found, and what it learned."""
    kept = [out / "matrix.csv", out / "results.json", *out.glob("checkpoints/*.safetensors")]
    return {str(path.relative_to(out)): path.read_bytes() for path in kept}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["zscl", "attention-adapter"])
def test_a_damaged_cache_changes_no_result(
    method: str, tiny_clip: Path, two_folders: str, paint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """One learns from pixels, frozen images and texts, the other from tokens. A byte of every file is changed."""
    monkeypatch.setenv("EVERCLIP_CACHE", str(tmp_path / "cache"))
    texts = tmp_path / "texts.txt"
    texts.write_text("a dog\ntwo trees\na cat\n")
    settings = {
        "zscl": {
            **{"iterations": 3, "batch": 4, "warmup": 1},
            **{"reference": str(paint / "test"), "reference_texts": str(texts)},
        },
        "attention-adapter": {"epochs": 1},
    }
    common = {"stream": two_folders, "backbone": str(tiny_clip), "device": "cpu", "method": method}
    config = Config.of(common | settings[method])
    run(config, tmp_path / "intact")
    expected = end(tmp_path / "intact")
    assert len(expected) > 2
    random = np.random.default_rng(len(method))
    for number in range(3):
        files = [file.path for file in verify_cache()]
        assert len(files) > 4
        for path in files:
            content = bytearray(path.read_bytes())
            # The end is not damaged every time: then all of the file is computed again, and not a block of it.
            place = int(random.integers(len(content) if number == 0 else len(content) // 2))
            content[place] ^= int(random.integers(1, 256))
            path.write_bytes(content)
        assert all(file.problem for file in verify_cache())
        capsys.readouterr()
        run(config, tmp_path / f"damaged-{number}")
        assert end(tmp_path / f"damaged-{number}") == expected
        lines = [line for line in capsys.readouterr().err.splitlines() if "is damaged" in line]
        assert sorted(line.split()[1] for line in lines) == sorted(str(path) for path in files)
        assert not any(file.problem for file in verify_cache())
