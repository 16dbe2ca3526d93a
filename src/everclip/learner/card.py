"""The model card: what a learner knows, written from its `learner.json` alone, without loading a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from everclip.system.display import visible


def summary(about: Mapping[str, Any]) -> dict[str, Any]:
    """Tasks and accuracies of a learner.

    Args:
        about: see `learner_directory.Stored`.

    Returns:
        `method`, `backbone`, `settings` (all of them); `tasks`: name, classes, images and times learned of each, in the
        order in which they were first learned; `accuracy`: per increment still known, `after` (its name) and `tasks`
        (percent right on the held-out images of each task at that time, None where it could not be measured).
    """
    tasks: dict[str, dict[str, Any]] = {}
    for increment in about["increments"]:
        task = tasks.setdefault(
            increment["task"], {"name": increment["task"], "classes": [], "images": 0, "increments": 0}
        )
        task["classes"] += [name for name in increment["class_names"] if name not in task["classes"]]
        task["images"] += increment["images"]
        task["increments"] += 1
    settings = about["settings"]
    return {
        "method": settings["method"],
        "backbone": settings["backbone"],
        "settings": settings,
        "tasks": list(tasks.values()),
        "accuracy": [{"after": increment["name"], "tasks": increment["accuracy"]} for increment in about["increments"]],
    }


def accuracy_rows(known: Mapping[str, Any]) -> list[list[str]]:
    """The accuracy matrix as words, a row per increment: after which, then percent per task (see `summary`)."""
    names = [task["name"] for task in known["tasks"]]
    return [[row["after"], *(percent(row["tasks"].get(name)) for name in names)] for row in known["accuracy"]]


def percent(value: float | None) -> str:
    """87.54 → 87.5, nothing where nothing was measured."""
    return "–" if value is None else f"{value:.1f}"


def card(known: Mapping[str, Any]) -> str:
    """The model card (Markdown) of a learner, given its `summary`."""
    names = [_plain(task["name"]) for task in known["tasks"]]
    accuracies = [[_plain(cell) for cell in row] for row in accuracy_rows(known)]
    tasks = [
        [
            _plain(task["name"]),
            str(len(task["classes"])),
            str(task["images"]),
            ", ".join(map(_plain, task["classes"][:12])) + _more(task),
        ]
        for task in known["tasks"]
    ]
    return f"""---
library_name: everclip
pipeline_tag: zero-shot-image-classification
tags: [clip, continual-learning]
---

# A CLIP that keeps learning

Learned by EverCLIP with method {_code(known["method"])} on backbone
{_code(known["backbone"])}, task after task.
It answers with any class that it learned, and with any label that it did not.

```python
from everclip.learner import Learner

learner = Learner.from_pretrained("this/repository")
print(learner.predict("photo.jpg", labels=["something else"]))
```

## What it learned

{_table(["task", "classes", "images", "names"], tasks)}

## Accuracy

Percent right on the images that were held out of each task, all learned classes being possible answers: a row after
each lesson, a column per task. Small samples; "–" where nothing could be measured.

{_table(["after", *names], accuracies)}
"""


def _more(task: Mapping[str, Any]) -> str:
    return f" and {len(task['classes']) - 12} more" if len(task["classes"]) > 12 else ""


_MARKS = str.maketrans(
    {mark: f"\\{mark}" for mark in "\\`*_[]|~$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
)
"""What Markdown, HTML and the Hub's pages would read as more than a letter."""


def _plain(name: str) -> str:
    """A name as Markdown that shows it and does nothing else: no markup, no HTML, no link, one line."""
    text = visible(" ".join(name.split())).translate(_MARKS)
    # Bare addresses become links where pages are rendered as GitHub does.
    return text.replace("://", "&#58;//").replace("www.", "www&#46;")


def _code(text: str) -> str:
    """A text as a code span, whatever backticks it has."""
    plain = visible(" ".join(text.split()))
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    space = " " if "`" in plain else ""
    return f"{fence}{space}{plain}{space}{fence}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
