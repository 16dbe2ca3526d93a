"""The public face: what it names is there, it is listed once, and importing it loads nothing heavy."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import everclip

PUBLIC = {
    "Callback", "Config", "EverclipError", "InputError", "Learner", "Method", "Selector", "Stream", "Task",
    "__version__", "register", "run",
}  # fmt: skip


def test_no_name_goes_missing() -> None:
    assert set(everclip.__all__) == PUBLIC, "a name that people import is gone, or one more is public"
    assert set(dir(everclip)) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_every_name_is_documented(name: str) -> None:
    thing = getattr(everclip, name)
    assert inspect.getdoc(thing)
    assert thing.__name__ == name


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'learner_of_all'"):
        _ = everclip.learner_of_all


def test_importing_it_loads_no_heavy_library() -> None:
    script = "import sys, everclip; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"torch", "matplotlib", "numpy", "open_clip", "pydantic", "PIL"} & set(done.stdout.split())


def test_readme_imports_only_what_is_public() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    imported = re.findall(r"^from everclip import (.+)$", readme, re.MULTILINE)
    assert imported
    assert {name.strip() for line in imported for name in line.split(",")} <= PUBLIC
