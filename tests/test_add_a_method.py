"""The method in docs/add-a-method.md works, and passes what every method passes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from everclip.experiment import runner
from everclip.experiment.config import Config
from everclip.methods import METHODS, Method
from everclip.testing import check_method
from everclip.testing.lessons import Lessons

PAGE = (Path(__file__).parents[1] / "docs/add-a-method.md").read_text(encoding="utf-8")


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Method]]:
    """The class on the page, registered as the page says."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    module = ModuleType("everclip.methods.norm_tuning")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where pydantic looks annotations up
    exec(compile(code, "add-a-method.md", "exec"), module.__dict__)
    METHODS.register(module.NormTuning, module.NormTuning.name)
    yield module.NormTuning
    METHODS.unregister(module.NormTuning.name)


def test_it_passes_what_every_method_passes(kind: type[Method], lessons: Lessons) -> None:
    assert {"learns", "state_is_complete", "interrupted_within_a_task"} <= set(check_method(kind, lessons))


def test_it_runs_with_its_settings(kind: type[Method], tiny_clip: Path, two_folders: str, tmp_path: Path) -> None:
    values = {"method": kind.name, "stream": two_folders, "backbone": str(tiny_clip), "device": "cpu"}
    results = runner.run(Config.of(values | {"iterations": 3, "batch": 4, "pull": 0.1}), tmp_path / "run")
    assert results["settings"]["pull"] == 0.1
    assert results["training"]["lr"] == 1e-3
    assert 0 < results["trained_parameters"]["total"] < 5000


def test_what_the_page_names_is_there() -> None:
    _, table = PAGE.split("|---|---|\n")
    for row in table.split("\n\n")[0].splitlines():
        for name in re.findall(r"`(\w+)`", row.split("|")[1]):
            assert hasattr(Method, name), name
