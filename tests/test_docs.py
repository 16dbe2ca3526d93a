"""The documentation names modules, files and pages that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/everclip"
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "src/**/*.md", "tests/*/*.md")
    for path in ROOT.glob(pattern)
)
SOURCES = sorted(path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py"))
NO_MODULES = {"everclip.columns", "everclip.preprocessing", "everclip.datasets"}
"""They look like modules, but are metadata of an exported graph and a group of entry points."""


def read(name: str) -> str:
    text = (ROOT / name).read_text(encoding="utf-8")
    if name == "CHANGELOG.md":  # the first column of its table says what modules were called before
        text = re.sub(r"^\| `everclip\.[^|]*\|", "|", text, flags=re.MULTILINE)
    return text


def module_file(dotted: str) -> Path | None:
    """The file that holds a module, or a name in it: `everclip.a.b.Name`. None: there is no such thing."""
    place, (_, *parts) = PACKAGE, dotted.split(".")
    while parts and (place / parts[0]).is_dir():
        place = place / parts.pop(0)
    if parts and place.joinpath(f"{parts[0]}.py").is_file():
        place = place / f"{parts.pop(0)}.py"
    else:
        place = place / "__init__.py"
    text = place.read_text(encoding="utf-8") if place.is_file() else ""
    return place if all(re.search(rf"\b{part}\b", text) for part in parts) and (text or not parts) else None


def exists(named: str, page: str) -> bool:
    """Whether a file that a page names lies beside the page, in the project or in the package.

    A name without a folder may lie anywhere in the package, if only one file is called so.
    """
    if any((folder / named).is_file() for folder in ((ROOT / page).parent, ROOT, PACKAGE)):
        return True
    return "/" not in named and len(list(PACKAGE.rglob(named))) == 1


def rooms() -> str:
    """The picture of the rooms in the page on the architecture: a room at the margin, its files four columns in."""
    return re.findall(r"## The rooms.*?```\n(.*?)```", read("docs/architecture.md"), re.DOTALL)[0]


def files_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w/.:-])(?:[\w-]+/)*[\w-]+\.(?:py|md)\b(?![/\w])", text))


def unknown_modules(name: str) -> list[str]:
    named = set(re.findall(r"(?<![\w./-])everclip(?:\.[A-Za-z_]\w*)+", read(name))) - NO_MODULES
    return sorted(each for each in named if module_file(each) is None)


def unknown_files(name: str) -> list[str]:
    code = " ".join(re.findall(r"```.*?```|`[^`\n]+`", read(name).replace(rooms(), ""), re.DOTALL))
    return sorted(each for each in files_in(code) if not exists(each, name))


@pytest.mark.parametrize("page", PAGES)
def test_every_module_and_file_that_a_page_names_exists(page: str) -> None:
    assert not unknown_modules(page)
    assert not unknown_files(page)


def test_every_module_and_file_that_the_code_names_exists() -> None:
    assert not {name: unknown for name in SOURCES if (unknown := unknown_modules(name) + unknown_files(name))}


def test_the_picture_shows_every_room_in_the_order_of_the_contract_and_files_that_exist() -> None:
    room, shown = PACKAGE, []
    for line in rooms().splitlines():
        indent, name = re.match(r"( *)(\S+)", line).groups()
        if not indent:
            shown.append(name)
            room = PACKAGE / name
            assert room.exists(), name
        elif len(indent) == 4:
            assert (room / name).exists(), f"{room.name}/{name}"
    contract = re.findall(r'^  "(.*)",$', read("pyproject.toml").split("\nlayers = [")[1].split("]")[0], re.MULTILINE)
    in_order = [room for layer in contract for room in layer.split(" | ")]
    assert [name.removesuffix(".py").rstrip("/") for name in shown][: len(in_order)] == in_order
    folders = {f"{path.name}/" for path in PACKAGE.iterdir() if any(path.glob("*.py"))}
    files = {path.name for path in PACKAGE.glob("*.py")}
    assert set(shown) - {"embedded/"} == folders | files


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!\w+:)([^)#\s]+)", read(page))
    assert not [link for link in links if not ((ROOT / page).parent / link).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_every_import_in_an_example_works(page: str) -> None:
    for code in re.findall(r"```python\n(.*?)```", read(page), re.DOTALL):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("everclip"):
                for alias in node.names:
                    assert module_file(f"{node.module}.{alias.name}"), f"{node.module}.{alias.name}"


def test_what_does_not_exist_is_found() -> None:
    assert module_file("everclip.training") is None
    assert module_file("everclip.engine.training.Nothing") is None
    assert module_file("everclip.engine.training.Trainer") == PACKAGE / "engine/training.py"
    assert module_file("everclip.engine") == PACKAGE / "engine/__init__.py"
    assert not exists("runs.py", "README.md")
    assert not exists("config.py", "README.md")
    assert exists("storage/run.py", "README.md")
    assert files_in("see `runs.py`, docs/learner.md and a.py/b") == {"runs.py", "docs/learner.md"}
