"""What is promised of other packages: the lowest version of each works, and nothing is used that they are to drop."""

from __future__ import annotations

import os
import re
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest needs there

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(line) for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines]
OTHERS = sorted({requirement.name for requirement in REQUIREMENTS} - {"everclip"})


def lowest(name: str, python: str) -> Version:
    """The highest lower bound of a package that holds for a Python."""
    bounds = [
        Version(part.version)
        for requirement in REQUIREMENTS
        if requirement.name == name
        and (requirement.marker is None or requirement.marker.evaluate({"python_version": python}))
        for part in requirement.specifier
        if part.operator == ">="
    ]
    return max(bounds)


def test_every_requirement_has_a_lower_bound() -> None:
    for requirement in REQUIREMENTS:
        if requirement.name == "everclip":
            assert requirement.extras <= set(EXTRAS), requirement
        else:
            assert [part.operator for part in requirement.specifier] == [">="], requirement
    assert {"torch", "numpy", "typer", "fastapi", "onnxruntime", "transformers", "tensorboard", "uv"} <= set(OTHERS)


@pytest.mark.parametrize("name", OTHERS)
def test_a_newer_python_never_needs_an_older_version(name: str) -> None:
    bounds = [lowest(name, python) for python in PYTHONS]
    assert bounds == sorted(bounds)
    lines = [requirement for requirement in REQUIREMENTS if requirement.name == name]
    assert len(set(bounds)) == len({str(line.specifier) for line in lines}), "a line that no Python reads"


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_installed_is_what_is_promised(name: str) -> None:
    bound = lowest(name, "{}.{}".format(*sys.version_info))
    try:
        installed = Version(version(name))
    except PackageNotFoundError:
        pytest.skip("an extra that is not installed")
    if os.environ.get("EVERCLIP_LOWEST"):  # set by `make test-lowest`
        assert installed == bound, "the bound is not the lowest version that can be installed"
    assert installed >= bound


class OddWarning(UserWarning):
    """A kind of its own, as some libraries have."""


@pytest.mark.parametrize("module", ["everclip", "everclip.data.images"])
@pytest.mark.parametrize(
    "warning",
    [
        DeprecationWarning("old"),
        PendingDeprecationWarning("old"),
        FutureWarning("old"),
        np.exceptions.VisibleDeprecationWarning("old"),
        UserWarning("The use of x.T here is\ndeprecated"),
        OddWarning("this will be removed in version 9"),
    ],
    ids=lambda warning: type(warning).__name__,
)
def test_what_a_library_is_to_drop_is_an_error_in_our_calls(warning: Warning, module: str) -> None:
    with pytest.raises(type(warning), match=re.escape(str(warning))):
        warnings.warn_explicit(warning, type(warning), "images.py", 1, module=module)


@pytest.mark.parametrize("module", ["everclipped", "torch.everclip", "matplotlib"])
def test_what_others_call_is_theirs(module: str) -> None:
    with pytest.warns(DeprecationWarning, match="old"):
        warnings.warn_explicit("old", DeprecationWarning, "images.py", 1, module=module)


def test_other_warnings_in_our_calls_are_warnings() -> None:
    with pytest.warns(UserWarning, match="large"):
        warnings.warn_explicit("an image is large", UserWarning, "images.py", 1, module="everclip.data.images")
