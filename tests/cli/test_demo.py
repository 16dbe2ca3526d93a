from __future__ import annotations

import json
from pathlib import Path

import pytest

from everclip.cli import demo, main
from everclip.system.display import Display


@pytest.fixture
def quick(tiny_clip: Path, two_folders: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo over two small folders, with the tiny CLIP and two steps per task."""
    recipe = {"stream": two_folders, "backbone": str(tiny_clip), "iterations": 2, "batch": 4, "warmup": 1}
    monkeypatch.setattr(demo, "read_recipe", lambda name, method: {"demo": recipe}[name])


@pytest.mark.usefixtures("quick")
def test_the_demo_compares_every_kind_of_learner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    with pytest.raises(SystemExit) as end:
        main(["demo", "--out", str(out)])
    printed = capsys.readouterr()
    assert not end.value.code
    for method in demo.METHODS:
        assert method in printed.out
        assert f"— {method}\n" in printed.err
        assert json.loads((out / method / "results.json").read_text())["method"] == method
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    for page in demo.reports(out):
        assert page.is_file()
        assert str(page) in printed.err


@pytest.mark.usefixtures("quick")
def test_a_demo_goes_on_where_an_earlier_one_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(demo, "METHODS", demo.METHODS[:2])
        demo.run(tmp_path, Display(quiet=True))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*") if path.is_file()}
    comparison = demo.run(tmp_path, Display(quiet=True))
    assert len(comparison.rows) == len(demo.METHODS)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
