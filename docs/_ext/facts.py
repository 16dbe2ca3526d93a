"""What pages of the site say of methods and settings, written from the code, so that nobody types it.

Everything here gives Markdown; `everclip_pages.py` puts it on the pages.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from everclip.methods import METHODS, Method
from everclip.selectors import SELECTORS
from everclip.testing import methods as contract

_BOUNDS = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
_FORGETS = {
    None: "nothing: a learner cannot use it",
    "exactly": "a task exactly, as if it had never been learned",
    "answers": "the answers of a task; what it left in shared weights stays",
}
_FEEDS = {
    "images": "the images of a step, augmented",
    "embeddings": "embeddings of the frozen tower, computed once",
    "tokens": "output tokens of the frozen tower, computed once",
}


def settings(model: type[BaseModel]) -> str:
    """Every setting of a section: name, what it takes, default, help line."""
    if not model.model_fields:
        return "There is nothing to set."
    rows = [
        f"| `{name}` | {_takes(field)} | {_default(field)} | {_cell(field.description or '')} |"
        for name, field in model.model_fields.items()
    ]
    return "\n".join(["| setting | takes | default | what it is |", "|---|---|---|---|", *rows])


def section(place: str) -> type[BaseModel]:
    """The section of settings that a directive names.

    Args:
        place: `method NAME`, `selector NAME`, or `package.module:Class`.

    Raises:
        InputError: there is no such method or selector.
    """
    kind, _, name = place.partition(" ")
    if name:
        registry: Any = {"method": METHODS, "selector": SELECTORS}[kind]
        return registry.find(name).Config
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def facts(name: str) -> str:
    """What a method says of itself, as a list."""
    method = METHODS.find(name)
    lines = [f"**{method.summary[0].upper()}{method.summary[1:]}.**", ""]
    if method.paper:
        lines.append(f"* Source: {_linked(method.paper)}")
    if method.closed_form:
        lines.append("* Learns in closed form, from embeddings of the frozen tower that are computed once.")
    elif method.trains:
        lines.append(f"* Learns by gradient from {_FEEDS[method.feed]}.")
    else:
        lines.append("* Learns nothing.")
    if "embeddings" in method.reads:
        lines.append("* Learns and answers from stored embeddings too (the stream `embeddings:A.npz,…`).")
    if method.requires:
        lines.append(f"* Needs `{'`, `'.join(sorted(method.requires))}`.")
    lines.append(
        "* An answer needs a route: a [selector](../selectors.md) chooses the task of each image."
        if method.routed
        else "* Needs no selector: one classifier answers for all classes."
    )
    if method.upper_bound:
        lines.append("* An upper bound: it uses what a continual learner does not have.")
    lines.append(f"* Takes back {_FORGETS[method.forgets]}.")
    return "\n".join(lines)


def law(name: str) -> str:
    """What a method promises, in the words of the test that holds it to that."""
    promises = sorted(METHODS.find(name).promises)
    if not promises:
        return "It promises nothing: what it keeps of earlier tasks and of zero-shot is a matter of measurement."
    said = [f"* `{promise}`: {_first_line(getattr(contract, promise))}" for promise in promises]
    return "\n".join(["It promises, and every build tests:", "", *said])


def all_settings(name: str) -> str:
    """A method's own settings, and where it departs from the defaults of a run."""
    method = METHODS.find(name)
    own = settings(method.Config)
    if not method.defaults:
        return own
    changed = ", ".join(f"`{key}={value}`" for key, value in method.defaults.items())
    return f"{own}\n\nDefaults of its own, for these and for [settings of a run](../settings.md): {changed}."


def overview(folder: Path) -> str:
    """The table of all methods that come with EverCLIP, with links to their pages.

    Args:
        folder: holds a page NAME.md for each.
    """
    rows = []
    for name, method in METHODS.items():
        if METHODS.origin(name) == "everclip":
            page = f"[`{name}`]({name}.md)" if (folder / f"{name}.md").is_file() else f"`{name}`"
            rows.append(f"| {page} | {_cell(method.summary)} | {_kind(method)} | {_cell(_linked(method.paper))} |")
    return "\n".join(["| name | what it does | how it learns | source |", "|---|---|---|---|", *rows])


def _kind(method: type[Method]) -> str:
    if method.closed_form:
        return "closed form"
    return "by gradient" if method.trains else "not at all"


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _linked(paper: str) -> str:
    paper = re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", paper)
    return re.sub(r"doi (10\.\S+)", r"[doi \1](https://doi.org/\1)", paper)


def _takes(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {value:g}"
        for limit in field.metadata
        for bound, sign in _BOUNDS
        if (value := getattr(limit, bound, None)) is not None and value < 2**53
    ]
    return _cell(" ".join([_type(field.annotation), " and ".join(bounds)]).strip())


def _type(annotation: Any) -> str:
    if annotation is None or annotation is type(None):
        return "nothing"
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inside)
    if origin in (Union, UnionType):
        return " or ".join(_type(each) for each in inside)
    if origin is not None and hasattr(annotation, "__metadata__"):
        return _type(inside[0])
    if origin in (list, tuple):
        return f"list of {_type(inside[0])}"
    if origin is not None:
        return f"{_type(inside[-1])} by name"
    return {int: "whole number", float: "number", str: "text", bool: "`true`, `false`"}.get(
        annotation, str(getattr(annotation, "__name__", annotation))
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _cell(text: str) -> str:
    return re.sub(r"\|", r"\\|", " ".join(text.split()))
