"""What pages say of methods and settings is written from the code; every method has a page of the same parts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, Field

import everclip
import facts
from everclip.errors import InputError
from everclip.methods import METHODS
from everclip.selectors import SELECTORS

DOCS = Path(__file__).parents[2] / "docs"
PARTS = ["Idea", "Formula", "What the published code does differently", "Law", "Cost", "Figures", "Settings"]
OURS = [name for name in METHODS if METHODS.origin(name) == "everclip"]


class Example(BaseModel):
    needed: str = Field(description="a | b")
    share: float = Field(0.5, ge=0, lt=1, description="a part")
    rate: float | dict[str, float] | None = None
    order: Literal["up", "down"] = "up"
    kept: bool = False


def test_a_table_of_settings_says_what_is_taken_and_what_is_the_default() -> None:
    rows = facts.settings(Example).splitlines()
    assert rows[2:] == [
        r"| `needed` | text | must be given | a \| b |",
        "| `share` | number ≥ 0 and < 1 | `0.5` | a part |",
        "| `rate` | number or number by name or nothing | empty |  |",
        "| `order` | `up`, `down` | `up` |  |",
        "| `kept` | `true`, `false` | `false` |  |",
    ]
    assert facts.settings(BaseModel) == "There is nothing to set."


@pytest.mark.parametrize("name", OURS)
def test_a_method_says_what_it_is(name: str) -> None:
    said = facts.facts(name)
    assert METHODS[name].summary[1:] in said
    assert ("selectors.md" in said) == METHODS[name].routed
    for promise in METHODS[name].promises:
        assert f"* `{promise}`: " in facts.law(name)
    settings = facts.all_settings(name)
    assert all(f"| `{field}` |" in settings for field in METHODS[name].Config.model_fields)
    assert all(f"`{key}=" in settings for key in METHODS[name].defaults)


@pytest.mark.parametrize("name", OURS)
def test_every_method_has_a_page_of_the_same_parts(name: str) -> None:
    page = (DOCS / f"methods/{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == PARTS
    for directive, argument in (("facts", name), ("law", name), ("settings", f"method {name}")):
        assert f"```{{{directive}}} {argument}\n```" in page
    index = (DOCS / "methods/index.md").read_text(encoding="utf-8")
    assert f"\n{name}\n" in index.split("{toctree}")[1]
    assert f"[`{name}`]({name}.md)" in facts.overview(DOCS / "methods")


def test_every_selector_is_on_its_page() -> None:
    page = (DOCS / "selectors.md").read_text(encoding="utf-8")
    for name in SELECTORS:
        assert f"`{name}`" in page
        if SELECTORS.origin(name) == "everclip" and SELECTORS[name].Config.model_fields:
            assert f"```{{settings}} selector {name}\n```" in page


def test_a_directive_names_a_section_of_settings() -> None:
    assert facts.section("method rail") is METHODS["rail"].Config
    assert facts.section("everclip.streams:Protocol").__name__ == "Protocol"
    with pytest.raises(InputError, match="no method 'nothing'"):
        facts.section("method nothing")


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^\.\. (?:auto\w+|py:data):: everclip\.(\w+)$", page, re.MULTILINE))
    assert set(everclip.__all__) <= shown


def test_every_page_has_a_place_in_the_contents() -> None:
    for folder in (DOCS, DOCS / "methods"):
        contents = (folder / "index.md").read_text(encoding="utf-8")
        trees = re.findall(r"```{toctree}\n(.*?)```", contents, re.DOTALL)
        listed = set(re.findall(r"^[\w/-]+$", "".join(trees), re.MULTILINE))
        pages = {path.stem for path in folder.glob("*.md")} - {"index"}
        assert pages <= listed
