"""Puts runs side by side, and refuses if their figures are not comparable."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from everclip.errors import InputError
from everclip.report.cost import cost
from everclip.report.published import beside, read_benchmark
from everclip.report.results import load_run, text
from everclip.report.table import ANY, HEADLINE, Comparison, Row, Value
from everclip.streams import SEEDS, named_seeds
from everclip.system.paths import expanded

ROUTING = ("selector", "routing", "reference")
"""Protocol fields that say how an image gets its route."""
TRAINED_BEFORE = {"schedule": "cosine", "optimizer": "adamw", "momentum": 0.9, "clip_norm": None, "accumulate": 1}
"""What results say nothing of that were written before these could be set: there was no other way to train."""


class _Run(NamedTuple):
    path: Path
    results: dict[str, Any]
    protocol: dict[str, Any]
    """What must agree for figures to be comparable: the protocol without the seeds, and more.

    How images get their route is `ANY` for runs that have no routes, and for upper bounds, which may know the route.
    """

    @property
    def seed(self) -> int | str:
        return named_seeds(self.results["protocol"])

    @property
    def settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = self.results["training"] | self.results["settings"]
        return settings

    @property
    def figures(self) -> dict[str, Any]:
        figures: dict[str, Any] = self.results["by_candidates"][self.protocol["candidates"]]
        return figures


def compare(
    run_dirs: Iterable[str | Path],
    candidates: str | None = None,
    mix: bool = False,
    published: str | None = None,
    costs: bool = False,
) -> Comparison:
    """Compare finished runs of one protocol; those that differ only by seed become one row, mean ± deviation.

    Args:
        run_dirs: directories of finished runs.
        candidates: the candidate set to show, whatever the protocols say; by default that of the protocols, or of
            `published`.
        mix: accept runs of different protocols, and show the fields that differ as columns.
        published: a benchmark, whose published rows stand among ours, in the layout of the field.
        costs: also read what the runs cost.

    Raises:
        InputError: no run is given, one cannot be read, one is given twice, one has no figures for
            `candidates`, the protocols differ and `mix` is false, no such benchmark, or a run of another stream.
    """
    benchmark = read_benchmark(published) if published else None
    candidates = candidates or (benchmark.protocol["candidates"] if benchmark else None)
    runs = [_load(expanded(path), candidates) for path in run_dirs]
    if not runs:
        raise InputError("There is nothing to compare: give at least one run directory.")
    _name_backbones_alike(runs)
    differing = _differing([run.protocol for run in runs])
    if differing and not mix:
        raise InputError(_refusal(runs, differing))
    groups: dict[str, list[_Run]] = {}
    for run in runs:
        same = [run.results["method"], run.results["settings"], run.results["training"], run.protocol]
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(run)
    for group in groups.values():
        _refuse_repeats(group)
    firsts = [group[0] for group in groups.values()]
    rows = [
        Row(
            label=_label(group[0], firsts),
            seeds=tuple(run.seed for run in group),
            upper_bound=group[0].results["upper_bound"],
            fields={name: group[0].protocol.get(name) for name in differing},
            values=_values([run.figures for run in group]),
            by_dataset=_by_dataset([run.figures for run in group]) if benchmark and benchmark.per_dataset else {},
            cost=cost([(run.path, run.results) for run in group]) if costs else None,
        )
        for group in groups.values()
    ]
    stated = {name: value for run in runs for name, value in run.protocol.items() if value != ANY}
    shared = {name: value for name, value in stated.items() if name not in differing}
    comparison = Comparison(tuple(sorted(rows, key=lambda row: row.upper_bound)), shared)
    return beside(comparison, benchmark) if benchmark else comparison


def _load(path: Path, candidates: str | None) -> _Run:
    results = load_run(path)
    results = {**results, "training": TRAINED_BEFORE | results["training"]}
    protocol = {name: value for name, value in results["protocol"].items() if name not in SEEDS}
    # Two things can make figures incomparable without showing in the protocol: other weights under the same
    # backbone name, and test images that were missing or unreadable.
    protocol["backbone digest"] = results["backbone"]["digest"]
    protocol["test images"] = sum(dataset["test"] for dataset in results["datasets"])
    protocol["candidates"] = candidates or protocol["candidates"]
    if results["routing"] is None or results["upper_bound"]:
        protocol |= dict.fromkeys(ROUTING, ANY)
    if protocol["candidates"] not in results["by_candidates"]:
        known = ", ".join(results["by_candidates"])
        raise InputError(f"{path} has no figures for the candidates {candidates!r}; choose one of {known}.")
    return _Run(path, results, protocol)


def _name_backbones_alike(runs: Sequence[_Run]) -> None:
    """Let a backbone be one whatever it was called: it is known by its digest, not by where its files lay.

    Runs of an earlier version hold another digest of the same model, which the later ones name.
    """
    later = {old: run.results["backbone"]["digest"] for run in runs for old in _former(run)}
    names: dict[str, str] = {}
    for run in runs:
        digest = run.protocol["backbone digest"]
        digest = run.protocol["backbone digest"] = later.get(digest, digest)
        run.protocol["backbone"] = names.setdefault(digest, run.protocol["backbone"])


def _former(run: _Run) -> list[str]:
    return list(run.results["backbone"].get("former_digests", ()))


def _differing(mappings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names under which the mappings do not all hold the same value (or `ANY`), in order of appearance."""
    names = dict.fromkeys(name for mapping in mappings for name in mapping)
    held = {name: [mapping.get(name) for mapping in mappings] for name in names}
    stated = {name: [value for value in values if value != ANY] for name, values in held.items()}
    return [name for name, values in stated.items() if any(value != values[0] for value in values)]


def _refusal(runs: Sequence[_Run], differing: Sequence[str]) -> str:
    parts = []
    for name in differing:
        stated = [(run.protocol.get(name), run.path) for run in runs if run.protocol.get(name) != ANY]
        ours, first = stated[0]
        theirs, other = next(each for each in stated if each[0] != ours)
        parts.append(f"{name} ({text(ours)} in {first}, {text(theirs)} in {other})")
    choose = "choose one candidate set for all (--candidates), " if "candidates" in differing else ""
    return (
        f"These runs are not comparable, they differ in {'; '.join(parts)}: give runs of one protocol, "
        f"{choose}or mix them on purpose (--mix), which shows these fields as columns."
    )


def _refuse_repeats(group: Sequence[_Run]) -> None:
    seen: dict[int | str, Path] = {}
    for run in group:
        if run.seed in seen:
            raise InputError(
                f"{seen[run.seed]} and {run.path} hold the same run (method {run.results['method']}, "
                f"seed {run.seed}); give one of them."
            )
        seen[run.seed] = run.path


def _label(run: _Run, firsts: Sequence[_Run]) -> str:
    method = run.results["method"]
    alike = [other for other in firsts if other.results["method"] == method]
    parts = [f"{name}={text(run.settings.get(name))}" for name in _differing([other.settings for other in alike])]
    if len({other.results["upper_bound"] for other in alike}) > 1:
        parts.insert(0, text(run.results["protocol"].get("selector")))
    return f"{method} ({', '.join(parts)})" if parts else method


def _values(figures: Sequence[Mapping[str, Any]]) -> dict[str, Value | None]:
    """One value per column, in the order of `COLUMNS`, from the figures of one run or of several seeds."""
    known = [figure["above_chance"] for figure in figures]
    return {name: _value(figures, name) for name in HEADLINE} | {
        f"{name}_above_chance": _value(known, name) for name in HEADLINE
    }


def _value(figures: Sequence[Mapping[str, Any]], name: str) -> Value | None:
    value = _over_seeds([figure[name] for figure in figures])
    if value is None or len(figures) > 1:
        return value
    low, high = figures[0]["ci95"][name]
    return Value(value.mean, interval=(low, high))


def _by_dataset(figures: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Value | None]]:
    """Per figure of the headline one value per dataset, in the order of the stream."""
    columns = [figure["per_dataset"] for figure in figures]
    return {
        name: {dataset: _over_seeds([column[dataset][name] for column in columns]) for dataset in columns[0]}
        for name in HEADLINE
    }


def _over_seeds(values: Sequence[float | None]) -> Value | None:
    """Mean and deviation; None where one is undefined."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return Value(statistics.fmean(known), std=statistics.stdev(known) if len(known) > 1 else None)
