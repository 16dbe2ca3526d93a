from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .invented import build


@pytest.fixture
def results() -> dict[str, Any]:
    return build()


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """`make_run("name", **changes)` writes an invented run directory and returns its path."""

    def make(name: str, **changes: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps(build(**changes), allow_nan=False), encoding="utf-8")
        return folder

    return make
