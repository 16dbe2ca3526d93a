"""What the pages of this site need beyond Sphinx and MyST.

* `{facts}`, `{law}`, `{settings}`, `{methods}`: written from the code by `facts.py`.
* `<!-- whole: ../README.md -->` stands for that file, with its links as seen from this folder.
* Formulas become MathML, which browsers draw themselves: no script, nothing from the network.
* Docstrings are Markdown at heart: indented code and `names` are shown as such.
* A page that would load anything from the network is a warning, and so an error in `make docs`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import facts

logger = logging.getLogger(__name__)

OWN_PAGES = {
    "README.md": "start.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
"""Files at the root that have a page here."""
WHOLE = re.compile(r"^<!-- whole: (\S+) -->$", re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\(((?!\w+:|#)[^)\s]+)\)")
LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\ssrc=\"(?:https?:)?//|<link\b[^>]*rel=\"stylesheet\"[^>]*//")


class Written(SphinxDirective):
    """Markdown that a function of `facts.py` writes, given the argument of the directive."""

    has_content = False
    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Parse what the function gives as if it stood on the page."""
        self.env.note_dependency(facts.__file__)
        text = self.written(self.arguments[0] if self.arguments else "")
        holder = nodes.Element()
        self.state.nested_parse(StringList(text.splitlines(), source=self.get_location()), 0, holder)
        return holder.children

    def written(self, argument: str) -> str:
        """The Markdown."""
        raise NotImplementedError


class Facts(Written):
    """`{facts} NAME`: what a method says of itself."""

    def written(self, argument: str) -> str:
        """A sentence and a list."""
        return facts.facts(argument)


class Law(Written):
    """`{law} NAME`: what a method promises."""

    def written(self, argument: str) -> str:
        """A list."""
        return facts.law(argument)


class Settings(Written):
    """`{settings} method NAME`, `selector NAME` or `package.module:Class`: a table of settings."""

    def written(self, argument: str) -> str:
        """A table, and for a method its other defaults."""
        kind, _, name = argument.partition(" ")
        return facts.all_settings(name) if kind == "method" else facts.settings(facts.section(argument))


class Methods(Written):
    """`{methods}`: the table of all methods."""

    def written(self, argument: str) -> str:
        """A table."""
        return facts.overview(Path(self.get_source_info()[0]).parent)


def whole_files(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put a file of the project in the place of its mark."""

    def text(found: re.Match[str]) -> str:
        path = (Path(app.srcdir) / found[1]).resolve()
        app.env.note_dependency(str(path))
        return LINK.sub(moved, path.read_text(encoding="utf-8"))

    source[0] = WHOLE.sub(text, source[0])


def moved(link: re.Match[str]) -> str:
    """A link in a file at the root, as seen from this folder; the plain path where nothing here is linked to."""
    said, target = link.groups()
    path, hash_, part = target.partition("#")
    if page := OWN_PAGES.get(path) or (path.startswith("docs/") and path.removeprefix("docs/")):
        return f"[{said}]({page}{hash_}{part})"
    return f"`{path}`" if said == path else f"{said} (`{path}`)"


def markdown_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Indented code after a blank line becomes a block of code, as in Markdown."""
    out: list[str] = []
    section = False
    for number, line in enumerate(lines):
        indented = line.startswith("    ") and line.strip()
        if line and not indented:
            section = line.strip() in {"Args:", "Returns:", "Raises:", "Attributes:", "Yields:"}
        starts = indented and not section and (not number or not lines[number - 1].strip())
        if starts and not (out[-2:] and out[-2].startswith("    ")):
            out += ["::", ""]
        out.append(line)
    lines[:] = out


def inline_math(self: Any, node: nodes.math) -> None:
    """A formula in a line."""
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block_math(self: Any, node: nodes.math_block) -> None:
    """A formula of its own."""
    self.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>\n')
    raise nodes.SkipNode


def nothing_from_the_network(app: Sphinx, error: Exception | None) -> None:
    """Warn of every page that would load something from elsewhere."""
    for page in sorted(Path(app.outdir).rglob("*.html")) if error is None else ():
        if found := LOADED.search(page.read_text(encoding="utf-8")):
            logger.warning("%s loads something from the network: %s", page.name, found[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Register everything with Sphinx."""
    for name, directive in {"facts": Facts, "law": Law, "settings": Settings, "methods": Methods}.items():
        app.add_directive(name, directive)
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.connect("source-read", whole_files)
    app.connect("autodoc-process-docstring", markdown_docstring, priority=100)
    app.connect("build-finished", nothing_from_the_network)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
