"""The model card shows names and does nothing else with them."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from everclip.learner.card import card

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "a|b\\|c",
    "**bold** _it_ `code` ~~gone~~",
    "a\n---\n# title\nlicense: evil",
    "http://evil.example www.evil.example",
    "&lt;b&gt; &amp;",
    "$x$ @somebody",
    "\x1b[31mred",
    "`` ` ``",
]


class Parsed(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def known(name: str, backbone: str = "embedded") -> dict[str, Any]:
    return {
        "method": "rail",
        "backbone": backbone,
        "tasks": [{"name": name, "classes": [name, "plain"], "images": 3, "increments": 1}],
        "accuracy": [{"after": name, "tasks": {name: 50.0}}],
    }


def rendered(markdown: str) -> Parsed:
    body = markdown.split("---\n", 2)[2]
    return Parsed(MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(body))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text_and_stays_in_its_cell(name: str) -> None:
    plain, hostile = card(known("plain name")), card(known(name, backbone=name))
    assert sorted(rendered(hostile).tags) == sorted(rendered(plain).tags), "no tag but those of a harmless card"
    shown = " ".join(name.split()).replace("\x1b", "\\x1b")
    texts = rendered(hostile).text
    assert "".join(texts).count(shown) >= 5, "in both tables, twice in each, and as the backbone"
    assert hostile.split("---\n")[1] == plain.split("---\n")[1]
    assert set(yaml.safe_load(hostile.split("---\n")[1])) == {"library_name", "pipeline_tag", "tags"}


def test_no_bare_address_is_left_to_become_a_link() -> None:
    text = card(known("http://evil.example www.evil.example"))
    assert "http://" not in text
    assert "www." not in text


def test_a_plain_name_is_written_as_it_is() -> None:
    assert "| birds of prey (2024), 50 % | 2 | 3 | birds of prey (2024), 50 %, plain |" in card(
        known("birds of prey (2024), 50 %")
    )
