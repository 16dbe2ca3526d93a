"""What stands about the project outside of its code: targets, versions and Pythons agree wherever they are named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from everclip import __version__

ROOT = Path(__file__).parents[1]
WORKFLOW = ".github/workflows/ci.yml"
PAGES = ("README.md", "CONTRIBUTING.md", *(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md")))
SCRIPTS = (WORKFLOW, ".pre-commit-config.yaml", ".ci/run")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code_of(name: str) -> str:
    """What is meant to be run: the code in a page, all but the comments of a script."""
    if name.endswith(".md"):
        return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", read(name), re.DOTALL))
    return re.sub(r"(^|\s)#.*", "", read(name))


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", read("Makefile"), re.MULTILINE))


def pythons() -> list[str]:
    """The versions of Python that the package says it supports."""
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', read("pyproject.toml"))


@pytest.mark.parametrize("name", [*PAGES, *SCRIPTS])
def test_every_target_that_is_named_exists(name: str) -> None:
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)", code_of(name))) <= targets()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", *SCRIPTS])
def test_the_targets_of_a_page_or_script_are_found(name: str) -> None:
    assert re.search(r"\bmake (lint|test)\b", code_of(name))


def test_no_target_is_taken_for_a_file() -> None:
    phony = re.findall(r"^\.PHONY:(.*)", read("Makefile"), re.MULTILINE)
    assert set(" ".join(phony).split()) == targets()


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == __version__
    assert citation["license"] in read("pyproject.toml")
    assert f"## {__version__}" in read("CHANGELOG.md")


def test_the_papers_of_the_citation_are_those_of_the_methods() -> None:
    papers = [identifier["value"] for each in yaml.safe_load(read("CITATION.cff"))["references"]
              for identifier in each["identifiers"]]  # fmt: skip
    assert len(papers) == 3
    methods = read("docs/methods/index.md")
    assert all(paper.replace(":", " ") in methods for paper in papers)


def test_every_supported_python_is_tested() -> None:
    jobs = yaml.safe_load(read(WORKFLOW))["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == pythons()
    assert jobs["test-lowest"]["strategy"]["matrix"]["python"] == [pythons()[0], pythons()[-1]]
    used = re.findall(r'python-version: "(3\.\d+)"', read(WORKFLOW))
    assert used
    assert set(used) <= set(pythons())


def test_the_lowest_python_is_the_one_that_is_required() -> None:
    lowest = pythons()[0]
    assert f'requires-python = ">={lowest}"' in read("pyproject.toml")
    assert f"Python {lowest} or newer" in read("CONTRIBUTING.md")
