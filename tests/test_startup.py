"""What a fresh process imports: time to start is lost by modules that nothing asks for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from everclip.learner import Learner

from . import tiny

HEAVY = {"matplotlib", "onnx", "pandas", "scipy", "sklearn", "torch._dynamo", "torch._inductor", "transformers"}
"""What takes part in no answer."""

SCRIPT = """
import json, sys
{first}
before = set(sys.modules)
try:
    {code}
except SystemExit:
    pass
sys.stdout.flush()
print()
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def imported(code: str, first: str = "") -> set[str]:
    """The modules that some code loads in a fresh process, beyond those of what is run first."""
    source = str(Path(__file__).parents[1] / "src")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", SCRIPT.format(code=code, first=first)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return set(json.loads(done.stdout.splitlines()[-1]))


def run(*arguments: str) -> str:
    return f"import everclip.cli; everclip.cli.main({list(arguments)!r})"


def test_the_package_alone_loads_nothing_large() -> None:
    loaded = imported("import everclip")
    assert "everclip" in loaded
    assert not loaded & {"torch", "numpy", "open_clip", "pydantic", *HEAVY}


@pytest.mark.parametrize("arguments", [["--help"], ["learn", "--help"], ["--version"]])
def test_help_loads_no_torch(arguments: list[str]) -> None:
    loaded = imported(run(*arguments))
    assert "everclip.cli" in loaded
    assert not loaded & {"torch", "numpy", "open_clip", *HEAVY}


@pytest.fixture(scope="module")
def learned(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A learner of two tasks, and an image."""
    folder = tmp_path_factory.mktemp("startup")
    learner = Learner.create(str(tiny_clip), settings={"random_features": 64}, device="cpu")
    for seed, name in enumerate(("one", "two")):
        tiny.image_folder(folder / name, ["red", "green"] if seed else ["blue", "gray"], train=10, seed=seed)
        learner.learn(name, folder / name)
    learner.save(folder / "model")
    return folder / "model", next((folder / "one").rglob("*.png"))


@pytest.mark.slow
def test_an_answer_loads_only_what_it_needs(learned: tuple[Path, Path]) -> None:
    model, image = map(str, learned)
    # What torch loads by itself differs between its versions.
    loaded = imported(run("predict", model, image, "--device", "cpu", "--labels", "a dog"), first="import torch")
    assert "open_clip" in loaded
    assert not loaded & HEAVY
