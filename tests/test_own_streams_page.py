"""The code in docs/own-streams.md runs, and a run that is there is gone on with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parents[1] / "docs/own-streams.md").read_text(encoding="utf-8")


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(code) == 2
    names: dict[str, Any] = {}
    for block in code:
        exec(compile(block, "own-streams.md", "exec"), names)
    results = names["results"]
    assert (results["scenario"], results["protocol"]["shots"]) == ("class-incremental", 5)
    assert results["last"] > 90
    assert (tmp_path / "runs/colors/results.json").is_file()
