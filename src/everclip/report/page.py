"""One run as one HTML file: no script, nothing loaded from elsewhere, equal results give equal bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from everclip.report.losses import Losses
from everclip.report.plots import inline_svg, loss_curves, over_time
from everclip.report.results import text

_EXPLAINED = {
    "task": "the tested set's own classes",
    "seen": "the classes of all tasks learned so far and the tested set's own",
    "all": "every class of the stream",
}
_HEADLINE = {
    "transfer": ("Transfer", "before a dataset is learned"),
    "average": ("Average", "over the whole stream"),
    "last": ("Last", "after the last task"),
}
_INCREMENTAL = _HEADLINE | {
    "average": ("Average", "of all classes learned so far, mean over steps"),
    "last": ("Last", "of all classes, after the last step"),
}
"""The same of class-incremental streams."""
_WIDE = 6  # with more columns than this, their names stand upright


def render(results: Mapping[str, Any], losses: Sequence[Losses] = ()) -> str:
    """The report page of a run.

    Args:
        results: content of `results.json`, from `summarize` or `load_run`.
        losses: of the stages that were trained by gradient, from `read_losses`.

    Returns:
        A complete HTML document, to be written in UTF-8.
    """
    title = f"{results['method']} on {results['stream']}"
    sections = (_header, _candidate_sets, _routing, _data, _settings)
    parts = [section(results) for section in sections]
    parts.insert(-2, _training(losses))
    body = "".join(parts)
    style = files("everclip.report").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)} – EverCLIP</title>\n"
        f"<style>\n{style}{_tab_rules(len(results['by_candidates']))}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def _header(results: Mapping[str, Any]) -> str:
    datasets, backbone = results["datasets"], results["backbone"]
    mark = ' <span class="mark">upper bound</span>' if results["upper_bound"] else ""
    facts = [
        f"{len(datasets)} tasks",
        f"{sum(dataset['classes'] for dataset in datasets):,} classes",
        f"{sum(dataset['test'] for dataset in datasets):,} test images",
        f"{results['trained_parameters']['total']:,} trained parameters",
        f"backbone {escape(backbone['name'])} ({escape(backbone['digest'])})",
        f"EverCLIP {escape(results['everclip'])}",
    ]
    # The tasks, in order, are the columns of every table below.
    protocol = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text(value))}</dd></div>"
        for name, value in results["protocol"].items()
        if name != "tasks"
    )
    return (
        "<header>\n"
        f"<h1>{escape(results['method'])} <small>on {escape(results['stream'])}</small>{mark}</h1>\n"
        f'<p class="soft">{" · ".join(facts)}</p>\n<dl class="protocol">{protocol}</dl>\n</header>\n'
    )


def _candidate_sets(results: Mapping[str, Any]) -> str:
    """One panel per candidate set; radio buttons and CSS show one at a time, so that no script is needed."""
    chosen = results["protocol"]["candidates"]
    sets = list(results["by_candidates"])
    buttons = "".join(
        f'<input type="radio" name="set" id="set{i}"{" checked" if name == chosen else ""}>'
        for i, name in enumerate(sets)
    )
    labels = "".join(
        f'<label for="set{i}">{escape(name)}{" <small>(protocol)</small>" if name == chosen else ""}</label>'
        for i, name in enumerate(sets)
    )
    panels = "".join(
        f'<section class="panel" id="panel{i}">\n{_panel(results, name)}</section>\n' for i, name in enumerate(sets)
    )
    return (
        f'<div class="sets">\n{buttons}\n'
        f'<div class="tabs"><span class="soft">Candidates</span>{labels}</div>\n{panels}</div>\n'
    )


def _tab_rules(count: int) -> str:
    shown = ", ".join(f"#set{i}:checked ~ #panel{i}" for i in range(count))
    active = ", ".join(f"#set{i}:checked ~ .tabs [for=set{i}]" for i in range(count))
    focused = ", ".join(f"#set{i}:focus-visible ~ .tabs [for=set{i}]" for i in range(count))
    return (
        f"{shown} {{ display: block; }}\n"
        f"{active} {{ border-color: rgb(var(--learned)); background: rgb(var(--learned) / .15); }}\n"
        f"{focused} {{ outline: 2px solid rgb(var(--learned)); }}\n"
    )


def _panel(results: Mapping[str, Any], candidates: str) -> str:
    figures = results["by_candidates"][candidates]
    known, total = figures["above_chance"], len(results["datasets"])
    headline = _INCREMENTAL if results["scenario"] == "class-incremental" else _HEADLINE
    cards = "".join(
        f'<div class="card">{title} <span class="soft">{when}</span>'
        f"<b>{_percent(figures[name])}<small> %</small></b>"
        f'<span class="soft">{_interval(figures["ci95"][name])}</span>'
        f'<div class="domains"><span class="soft">at least twice chance:</span> {_percent(known[name])} '
        f'<span class="soft">{_interval(known["ci95"][name])}</span></div></div>\n'
        for name, (title, when) in headline.items()
    )
    others = [
        ("forgetting", figures["forgetting"]),
        ("backward transfer", figures["backward_transfer"]),
        *_other_means(results, figures),
        *((f"{title} by class name", figures["by_name"][name]) for name, (title, _) in _HEADLINE.items()),
    ]
    plot = inline_svg(over_time(results, candidates), f"accuracy over time, candidates {candidates}")
    return (
        f'<p class="soft">An image is scored against {escape(_EXPLAINED.get(candidates, candidates))}. '
        "Brackets: 95 % bootstrap interval over the test images. At least twice chance: the "
        f"{len(known['datasets'])} of {total} datasets on which the untouched CLIP, among the dataset's own "
        "classes, reaches that.</p>\n"
        f'<div class="cards">\n{cards}</div>\n<div class="figures">'
        + "".join(f"<span>{name} <b>{_percent(value)}</b></span>" for name, value in others)
        + "</div>\n"
        + _heat_map(results, figures)
        + "<h2>Accuracy over time</h2>\n"
        + '<p class="soft">Dotted: untouched CLIP. Dot: the moment of learning; orange before, blue after.</p>\n'
        + f"{plot}\n"
        + _per_dataset(results, figures)
    )


def _other_means(results: Mapping[str, Any], figures: Mapping[str, Any]) -> list[tuple[str, float | None]]:
    """Average and Last as the other scenario defines them."""
    if results["scenario"] == "class-incremental":
        columns = figures["per_dataset"].values()
        return [(f"{name}, mean over steps", _mean([step[name] for step in columns])) for name in ("average", "last")]
    return [
        ("images of all learned tasks, mean over steps", figures["incremental"]["average"]),
        ("images of all learned tasks, at the end", figures["incremental"]["last"]),
    ]


def _heat_map(results: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    names = [dataset["name"] for dataset in results["datasets"]]
    rows = [
        '<tr class="before"><th>untouched CLIP</th>'
        + "".join(_accuracy(value, "not-yet") for value in figures["zero_shot"])
        + f'<td class="mean">{_percent(_mean(figures["zero_shot"]))}</td></tr>'
    ]
    for i, (name, row) in enumerate(zip(names, figures["matrix"], strict=True)):
        kinds = ["learned" if j < i else "not-yet" for j in range(len(names))]
        kinds[i] = "learned now"
        cells = "".join(_accuracy(value, kind) for value, kind in zip(row, kinds, strict=True))
        rows.append(f'<tr><th>{escape(name)}</th>{cells}<td class="mean">{_percent(_mean(row))}</td></tr>')
    return (
        "<h2>Accuracy after each task</h2>\n"
        '<p class="soft">Rows: after learning this task. Columns: tested on this dataset, in percent. '
        '<span class="key learned"></span> learned <span class="key not-yet"></span> not yet learned.</p>\n'
        f'<div class="scroll"><table class="heat{" many" if len(names) > _WIDE else ""}">\n'
        f"<thead><tr><th></th>{_heads([*names, 'mean'])}</tr></thead>\n"
        "<tbody>\n" + "\n".join(rows) + "\n</tbody>\n</table></div>\n"
    )


def _per_dataset(results: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    columns = ["zero_shot", "transfer", "average", "last", "forgetting"]
    chances = {dataset["name"]: dataset["chance"] for dataset in results["datasets"]}
    rows = [
        [name, _percent(chances[name]), *(_percent(values[column]) for column in columns)]
        for name, values in figures["per_dataset"].items()
    ]
    means = (_mean([values[column] for values in figures["per_dataset"].values()]) for column in columns)
    mean = ["mean", "", *map(_percent, means)]
    heads = ["dataset", "chance", "untouched CLIP", "Transfer", "Average", "Last", "forgetting"]
    return "<h2>Per dataset</h2>\n" + _list(heads, rows, mean)


def _routing(results: Mapping[str, Any]) -> str:
    routing = results["routing"]
    if routing is None:
        return ""
    names = [dataset["name"] for dataset in results["datasets"]]
    tables = [
        _routing_table(routing["columns"], names, counts, i)
        for i, counts in enumerate(routing["after"])
        if counts is not None
    ]
    earlier = "".join(reversed(tables[:-1]))
    return (
        "<h2>Routing</h2>\n"
        '<p class="soft">Test images of each dataset (rows) that went to each task (columns). '
        "Outlined: where they belong, which is zero-shot as long as the dataset is not learned.</p>\n"
        + tables[-1]
        + (f"<details><summary>After the earlier tasks</summary>\n{earlier}</details>\n" if earlier else "")
    )


def _routing_table(columns: Sequence[str], names: Sequence[str], after: Sequence[Sequence[int]], step: int) -> str:
    rows = []
    for j, (name, counts) in enumerate(zip(names, after, strict=True)):
        own = j if j <= step else len(counts) - 1
        images = sum(counts)
        cells = "".join(
            _cell(f"{count:,}", "learned right" if k == own else "not-yet", count / (images or 1))
            if count or k == own
            else "<td>0</td>"
            for k, count in enumerate(counts)
        )
        right = _percent(100 * counts[own] / images if images else None)
        rows.append(f'<tr><th>{escape(name)}</th>{cells}<td class="mean">{right}</td></tr>')
    return (
        f'<div class="scroll"><table class="heat{" many" if len(columns) > _WIDE else ""}">\n'
        f"<caption>After learning {escape(names[step])}</caption>\n"
        f"<thead><tr><th></th>{_heads([*columns, '% right'])}</tr></thead>\n"
        "<tbody>\n" + "\n".join(rows) + "\n</tbody>\n</table></div>\n"
    )


def _training(losses: Sequence[Losses]) -> str:
    """The curves of the last stage, and folded away those of the earlier ones."""
    figures = []
    for stage, each in enumerate(losses):
        tasks = ", ".join(each.tasks) if len(each.tasks) <= _WIDE else f"{len(each.tasks)} tasks at once"
        name = f"losses of stage {stage + 1}, learning {tasks}"
        figures.append(f'<p class="soft">Learning {escape(tasks)}</p>\n{inline_svg(loss_curves(each), name)}\n')
    if not figures:
        return ""
    earlier = "".join(figures[:-1])
    return (
        "<h2>Training</h2>\n"
        '<p class="soft">The loss of the recorded steps and, where it has several, its parts as the method names them. '
        "Thick: the mean over a twentieth of the stage.</p>\n"
        + figures[-1]
        + (f"<details><summary>The earlier tasks</summary>\n{earlier}</details>\n" if earlier else "")
    )


def _data(results: Mapping[str, Any]) -> str:
    columns = ["classes", "train", "validation", "test", "skipped"]
    datasets = results["datasets"]
    rows = [[dataset["name"], *(f"{dataset[column]:,}" for column in columns)] for dataset in datasets]
    total = ["all", *(f"{sum(dataset[column] for dataset in datasets):,}" for column in columns)]
    return (
        "<h2>Data</h2>\n"
        '<p class="soft">Images. Skipped: files that could not be read; they count nowhere.</p>\n'
        + _list(["dataset", *columns], rows, total)
    )


def _settings(results: Mapping[str, Any]) -> str:
    groups = ("protocol", "training", "settings", "backbone", "trained_parameters")
    titles = {"settings": "method", "trained_parameters": "trained parameters"}
    tables = "".join(
        f'<table class="list"><caption>{titles.get(group, group)}</caption><tbody>\n'
        + "".join(
            f'<tr><th>{escape(name)}</th><td class="text">{escape(text(value))}</td></tr>\n'
            for name, value in results[group].items()
            if name != "former_digests"  # of earlier versions: for `compare`, not for readers
        )
        + "</tbody></table>\n"
        for group in groups
    )
    return f"<h2>Settings</h2>\n<details open><summary>Everything that was set</summary>\n{tables}</details>\n"


def _list(heads: Sequence[str], rows: Iterable[Sequence[str]], foot: Sequence[str]) -> str:
    """A table of finished texts; the first column names the row, the foot sums the rows up."""

    def line(texts: Sequence[str]) -> str:
        return f"<tr><th>{escape(texts[0])}</th>" + "".join(f"<td>{text}</td>" for text in texts[1:]) + "</tr>"

    return (
        f'<div class="scroll"><table class="list">\n<thead><tr>{_heads(heads)}</tr></thead>\n'
        "<tbody>\n" + "\n".join(map(line, rows)) + f"\n</tbody>\n<tfoot>{line(foot)}</tfoot>\n</table></div>\n"
    )


def _heads(names: Iterable[str]) -> str:
    return "".join(f"<th><span>{escape(name)}</span></th>" for name in names)


def _accuracy(value: float | None, kind: str) -> str:
    return _cell(_percent(value), kind, (value or 0) / 100)


def _cell(shown: str, kind: str, share: float) -> str:
    """A colored cell of a heat map; `share` in [0, 1] is the strength of the color."""
    return f'<td class="{kind}" style="--share:{share:.3f}">{shown}</td>'


def _percent(value: float | None) -> str:
    """One decimal; a dash where undefined, a true minus sign, and no "-0.0"."""
    return "–" if value is None else f"{round(value, 1) + 0.0:.1f}".replace("-", "−")


def _interval(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f"[{_percent(ends[0])}, {_percent(ends[1])}]"


def _mean(values: Sequence[float | None]) -> float | None:
    """Over what is defined: a first dataset has no Transfer, a last one no forgetting."""
    measured = [value for value in values if value is not None]
    return sum(measured) / len(measured) if measured else None
