from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from everclip.report import render

from .invented import build

VOID = {"meta", "input", "br", "link", "img"}


class Page(HTMLParser):
    """Collects tags, attributes, ids and visible text, and checks that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data.strip())


def test_nothing_is_loaded_from_elsewhere():
    html = render(build())
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert "src" not in attributes
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "http" not in html
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))


def test_equal_results_give_equal_pages():
    assert render(build()) == render(json.loads(json.dumps(build())))
    assert render(build()) != render(build(seed=1))


def test_names_are_text_wherever_they_come_from():
    results = build(method="<b>method", names=('<script>alert("1")</script>', "a&b", "$x_1$"), note="<i>")
    results["settings"]["<u>"] = ["</td>"]
    page = Page(render(results))
    assert not {"script", "b>method", "i", "u"} & {tag for tag, _ in page.tags}
    for name in ('<script>alert("1")</script>', "a&b", "$x_1$", "<b>method", "<i>", "<u>", '["</td>"]'):
        assert name in page.text


@pytest.mark.parametrize("scenario", ["multi-domain", "class-incremental"])
def test_every_headline_figure_and_matrix_entry_is_shown_for_every_candidate_set(scenario):
    results = build(scenario=scenario)
    html = render(results)
    panels = [part.split("</section>")[0] for part in html.split('<section class="panel"')[1:]]
    assert len(panels) == 3
    assert ("of all classes learned so far" in html) == (scenario == "class-incremental")
    for panel, figures in zip(panels, results["by_candidates"].values(), strict=True):
        for source in (figures, figures["above_chance"]):
            for name in ("transfer", "average", "last"):
                low, high = source["ci95"][name]
                assert f"{source[name]:.1f}" in panel
                assert f"[{low:.1f}, {high:.1f}]" in panel
        cells = re.findall(r'<td class="(learned|learned now|not-yet)"[^>]*>([\d.]+)</td>', panel)
        expected = [value for row in (figures["zero_shot"], *figures["matrix"]) for value in row]
        assert [float(value) for _, value in cells] == pytest.approx(expected, abs=0.051)
        kinds = [kind for kind, _ in cells]
        assert kinds[3:6] == ["learned now", "not-yet", "not-yet"]
        assert kinds[-3:] == ["learned", "learned", "learned now"]


@pytest.mark.parametrize("candidates", ["task", "seen", "all"])
def test_the_protocol_chooses_the_panel_shown_first(candidates):
    page = Page(render(build(candidates=candidates)))
    inputs = [attributes for tag, attributes in page.tags if tag == "input"]
    assert ["checked" in attributes for attributes in inputs] == [
        name == candidates for name in ("task", "seen", "all")
    ]


def test_the_routing_table_outlines_where_images_belong():
    results = build()
    html = render(results)
    last, earlier = html.split("<h2>Routing</h2>")[1].split("<h2>Data</h2>")[0].split("<details>")
    outlined = [int(value) for value in re.findall(r'class="learned right"[^>]*>(\d+)<', last)]
    assert outlined == [results["routing"]["after"][-1][j][j] for j in range(3)]
    # After the first of three tasks the other two datasets belong to zero-shot.
    first = earlier.split("<caption>After learning shapes")[1]
    outlined = [int(value) for value in re.findall(r'class="learned right"[^>]*>(\d+)<', first)]
    assert outlined == [results["routing"]["after"][0][j][0 if j == 0 else -1] for j in range(3)]


def test_a_run_without_routing_or_with_its_last_row_alone_has_a_page():
    html = render(build(upper_bound=True, routed=False))
    assert "Routing</h2>" not in html
    assert "upper bound" in Page(html).text
    assert "None" not in html
    assert "nan" not in html


def test_routing_of_the_last_row_alone():
    results = build(upper_bound=True)
    results["routing"]["after"][:2] = [None, None]
    routing = render(results).split("<h2>Routing</h2>")[1].split("<h2>Data</h2>")[0]
    assert routing.count("<table") == 1


def test_one_task_has_a_page():
    assert "Transfer" in render(build(names=("only",)))
