"""A source of images on one page: every class with some of its pictures, and what `check` found. Nothing is loaded from
elsewhere, so that the file can be sent around."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape
from importlib.resources import files

import numpy as np
from PIL import Image

from everclip.data.checking import UNDIVIDED, Checked, Progress
from everclip.data.found import Found
from everclip.data.source import BadImage, ImageSource

SIDE = 112
"""Pixels of a thumbnail's longer side."""
PER_CLASS = 12
"""Thumbnails of one class, spread over its images."""
IN_ALL = 3000
"""Thumbnails on the page: of many classes each has fewer, but one at least."""
COPIES = 40
"""Groups of equal images that are drawn; the others are counted."""
NAMED = 200
"""Lines of a list; the others are counted."""


def contact_sheet(found: Found, checked: Checked, workers: int = 2, progress: Progress | None = None) -> str:
    """The page.

    Args:
        found: the source.
        checked: what `check` said of it.
        workers: threads that decode.
        progress: called after each thumbnail.

    Returns:
        A complete HTML document, to be written in UTF-8.
    """
    labels = found.images.labels
    each = max(1, min(PER_CLASS, IN_ALL // max(1, len(found.class_names))))
    chosen = [_spread(np.flatnonzero(labels == label), each) for label in range(len(found.class_names))]
    place = {found.images.name(row): row for row in range(len(found))}
    copies = [[place[name] for name in group.names[:PER_CLASS]] for group in checked.copies[:COPIES]]
    rows = list(dict.fromkeys(row for group in (*chosen, *copies) for row in group))
    drawn = dict(zip(rows, _thumbnails(found.images, rows, workers, progress), strict=True))
    sections = [_head(checked), _copies(found, checked, copies, drawn)]
    for name, own in zip(found.class_names, chosen, strict=True):
        sections.append(_class(found, checked, name, own, drawn))
    title = f"{checked.name}: {checked.images} images"
    style = files("everclip.data").joinpath("sheet.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)} – EverCLIP</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"{''.join(sections)}</main>\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    """A text to be put into the page; a file name of other bytes than UTF-8 would not be written."""
    return escape(text.encode(errors="backslashreplace").decode())


def _spread(rows: np.ndarray, most: int) -> list[int]:
    if len(rows) <= most:
        return [int(row) for row in rows]
    return [int(row) for row in rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]]


def _thumbnails(
    images: ImageSource, rows: Sequence[int], workers: int, progress: Progress | None
) -> Iterable[str | BadImage]:
    """Of every image a small one as an address that holds it, or why there is none."""

    def draw(row: int) -> str | BadImage:
        try:
            image = images.decode(row)
        except BadImage as error:
            return error
        image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=75)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"

    with ThreadPoolExecutor(workers) as pool:
        for done, drawn in enumerate(pool.map(draw, rows), 1):
            yield drawn
            if progress is not None:
                progress(done, len(rows))


def _head(checked: Checked) -> str:
    learned = checked.parts.get(checked.learned or "", 0)
    facts = [f"{checked.images} images of {len(checked.classes)} classes", f"read as: {checked.read_as}"]
    if checked.learned != UNDIVIDED:
        judged = f"evaluate the part {checked.judged}" if checked.judged else "evaluate none"
        facts.append(f"learn takes {f'the part {checked.learned}, {learned} images' if learned else 'none'}; {judged}")
    if checked.left_out:
        facts.append(checked.left_out_in_words)
    if checked.empty:
        facts.append(f"no image of {', '.join(checked.empty)}")
    parts = [f"<h1>{_text(checked.name)}</h1>\n<p>{_text(checked.where)}</p>\n", _list(facts)]
    if checked.broken:
        lines = [f"{name}: {reason}" for name, reason in checked.broken]
        parts.append(f'<p class="bad">{len(lines)} that can’t be used</p>{_list(lines)}')
    if checked.alike:
        lines = [f"{one} · {other}" for one, other in checked.alike]
        parts.append(f'<p class="warn">Different classes whose names look alike</p>{_list(lines)}')
    return f"<header>\n{''.join(parts)}</header>\n"


def _list(lines: Sequence[str]) -> str:
    more = [f"and {len(lines) - NAMED} more"] if len(lines) > NAMED else []
    return f"<ul>{''.join(f'<li>{_text(line)}</li>' for line in (*lines[:NAMED], *more))}</ul>\n"


def _copies(
    found: Found, checked: Checked, drawn_rows: Sequence[Sequence[int]], drawn: dict[int, str | BadImage]
) -> str:
    if not checked.copies:
        return ""
    groups = []
    for group, rows in zip(checked.copies, drawn_rows, strict=False):
        wrong = [
            words
            for words, of in (("of different classes", group.classes), ("in different parts", group.parts))
            if len(of) > 1
        ]
        said = f'<p class="bad">{" and ".join(wrong)}</p>' if wrong else "<p>of one class</p>"
        figures = [_figure(drawn[row], found.images.name(row), _place(found, row)) for row in rows]
        groups.append(f'<div class="copies">{said}<div class="images">{"".join(figures)}</div></div>\n')
    known = "whatever way they are stored" if checked.decoded else "file by file"
    more = f"<p>and {len(checked.copies) - COPIES} more</p>" if len(checked.copies) > COPIES else ""
    return (
        f"<section>\n<h2>There more than once</h2>\n<p>{len(checked.copies)} images, compared {known}</p>\n"
        f'<div class="groups">{"".join(groups)}</div>{more}</section>\n'
    )


def _place(found: Found, row: int) -> str:
    """The class and the part of an image."""
    part = found.parts[row]
    name = found.class_names[found.images.labels[row]]
    return f"{name}, {part}" if part else name


def _class(found: Found, checked: Checked, name: str, rows: Sequence[int], drawn: dict[int, str | BadImage]) -> str:
    counts = checked.classes[name]
    count = ", ".join(f"{many} {part}" if part != UNDIVIDED else str(many) for part, many in counts.items()) or "0"
    marks = [_mark(f"few to learn: {checked.tiny[name]}", "warn")] if name in checked.tiny else []
    if checked.known and checked.known[name]:
        marks.append(_mark(f"known to {', '.join(checked.known[name])}", ""))
    if name in checked.spellings:
        marks.append(_mark(f"written {' and '.join(checked.spellings[name])}", ""))
    figures = [
        _figure(drawn[row], found.images.name(row), str(found.parts[row] or "") if found.divided else "")
        for row in rows
    ]
    return (
        f'<section>\n<h2>{_text(name)} <span class="mark">{count}</span>{"".join(marks)}</h2>\n'
        f'<div class="images">{"".join(figures)}</div>\n</section>\n'
    )


def _mark(text: str, kind: str) -> str:
    return f'<span class="mark {kind}">{_text(text)}</span>'


def _figure(drawn: str | BadImage, name: str, caption: str) -> str:
    shown = (
        f'<span class="bad">{_text(drawn.reason)}</span>'
        if isinstance(drawn, BadImage)
        else f'<img src="{drawn}" alt="{_text(name)}" title="{_text(name)}" loading="lazy">'
    )
    said = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    return f'<figure><div class="frame">{shown}</div>{said}</figure>'
