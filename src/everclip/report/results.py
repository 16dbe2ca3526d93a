"""The figures of one run, `results.json`: built from per-image correctness, and read back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from everclip.errors import InputError
from everclip.functional import metrics
from everclip.report.schema import Results
from everclip.storage.reading import JSON_LIMIT, Malformed, fitting, json_of, read_bytes, shown
from everclip.storage.run import RunDirectory
from everclip.storage.state import RESULTS

FORMAT = 1
Rows = Sequence[Sequence[np.ndarray] | None]
"""Per learned task (None where not measured), per dataset: which test images were right, bool (N_j,)."""

Metrics = Mapping[str, Callable[..., Any]]
"""Functions of accuracy matrices (..., K, K) and a mask of datasets."""

_MULTI_DOMAIN: Metrics = {"transfer": metrics.transfer, "average": metrics.average, "last": metrics.last}
_CHANGES = {"forgetting": metrics.forgetting, "backward_transfer": metrics.backward_transfer}
_PER_DATASET = {
    "transfer": metrics.transfer_per_dataset,
    "average": metrics.average_per_dataset,
    "last": metrics.last_per_dataset,
    "forgetting": metrics.forgetting_per_dataset,
}
_HEADER = (
    "everclip",
    "method",
    "backbone",
    "stream",
    "scenario",
    "protocol",
    "training",
    "settings",
    "trained_parameters",
)
_REQUIRED = (*_HEADER, "datasets", "by_candidates", "routing", "upper_bound")


def summarize(
    header: Mapping[str, Any],
    datasets: Sequence[Mapping[str, Any]],
    correct: Mapping[str, Rows],
    by_name: Mapping[str, Rows],
    zero_shot: Mapping[str, Sequence[np.ndarray]],
    routing: Mapping[str, Any] | None = None,
    upper_bound: bool = False,
) -> dict[str, Any]:
    """All figures of a run as one JSON-able dictionary; percent, full precision, None where undefined.

    Args:
        header: `everclip` (version), `method`, `backbone` {name, digest, former_digests}, `stream`, `scenario`
            (multi-domain or class-incremental, which decides what Average and Last are), `protocol` (flat values, with
            `candidates` and `seed`), `training`, `settings`, `trained_parameters` {per_task, total}.
        datasets: in task order, each {name, classes, train, validation, test, skipped}.
        correct: per candidate set (it must hold "task" and the protocol's), K rows of K arrays: see `Rows`.
        by_name: like `correct`, where a same-named class of another task counts as right.
        zero_shot: per candidate set and dataset, bool (N_j,) of the untouched model.
        routing: {"columns": the K task names and "zero-shot", "after": per learned task (None where not
            measured), per dataset, one image count per column}; None for a method that does not route.
        upper_bound: the method sees what a continual learner may not, so tables set it apart.

    Returns:
        The content of `results.json`. The figures at the top are those of the protocol's candidate set.

    Raises:
        KeyError: a header field or candidate set is missing.
        ValueError: a scenario without figures of its own.
    """
    datasets = [{**dataset, "chance": 100 / dataset["classes"]} for dataset in datasets]
    # Whether CLIP knows something of a domain is judged among its own classes, for every candidate set.
    known = metrics.above_chance(
        [100 * right.mean() for right in zero_shot["task"]], [dataset["chance"] for dataset in datasets]
    )
    names = [dataset["name"] for dataset in datasets]
    sizes = [len(right) for right in zero_shot["task"]]
    headline = _headline_of(header["scenario"], sizes)
    by_candidates = {}
    for candidates, rows in correct.items():
        untouched = zero_shot[candidates]
        named = metrics.accuracy_matrix(_by_dataset(by_name[candidates], untouched))
        by_candidates[candidates] = {
            **_figures(names, _by_dataset(rows, untouched), untouched, known, headline),
            "by_name": _headline(headline, named),
        }
    chosen = by_candidates[header["protocol"]["candidates"]]
    top = (*headline, *_CHANGES, "ci95", "per_dataset", "above_chance")
    plain: dict[str, Any] = _plain(
        {
            "format": FORMAT,
            **{name: header[name] for name in _HEADER},
            "upper_bound": upper_bound,
            "datasets": datasets,
            **{name: chosen[name] for name in top},
            "by_candidates": by_candidates,
            "routing": routing,
        }
    )
    return plain


def load_run(path: str | Path) -> dict[str, Any]:
    """Read the results of a finished run directory.

    Raises:
        InputError: the directory holds no results, its run is not finished, or this version cannot read them.
        EverclipError: they are not what the state of the run says was written, or that is damaged or missing.
    """
    directory = RunDirectory(path)
    file = directory.path / RESULTS
    try:
        content = read_bytes(file, JSON_LIMIT)
        directory.require_as_written(RESULTS, content)
        results: dict[str, Any] = json_of(content)
    except PermissionError as error:
        raise directory.unreadable(RESULTS, error) from None
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{path} has no results.json: it is not a run directory, or its run is not finished and "
            "needs `everclip run --resume`."
        ) from None
    except Malformed as error:
        raise InputError(f"{file} is damaged (it {error}); run the experiment again.") from None
    except OSError as error:
        raise InputError(f"{file} can't be read ({error.strerror}); make it readable, then try again.") from error
    found = results.get("format") if isinstance(results, dict) else None
    if found != FORMAT:
        raise InputError(
            f"{file} has format {shown(found)}, but this version reads format {FORMAT}: use the version of "
            "EverCLIP that wrote it."
        )
    missing = [name for name in _REQUIRED if name not in results]
    if missing:
        raise InputError(f"{file} lacks the field {missing[0]!r}; run the experiment again.")
    try:
        fitting(Results, results)
    except Malformed as error:
        raise InputError(f"{file} is damaged (it {error}); run the experiment again.") from None
    return results


def text(value: Any) -> str:
    """A setting as people write it: a string bare, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _figures(
    names: Sequence[str],
    correct: Sequence[np.ndarray],
    zero_shot: Sequence[np.ndarray],
    known: np.ndarray,
    headline: Metrics,
) -> dict[str, Any]:
    matrix = metrics.accuracy_matrix(correct)
    draws = metrics.resampled_accuracy(correct)
    untouched = [100 * right.mean() for right in zero_shot]
    steps = metrics.incremental(matrix, [len(right) for right in zero_shot])
    columns = {name: figure(matrix) for name, figure in _PER_DATASET.items()} | {"zero_shot": untouched}
    return {
        **_headline(headline, matrix),
        **{name: figure(matrix) for name, figure in _CHANGES.items()},
        "ci95": _intervals(headline, draws),
        "per_dataset": {
            dataset: {name: column[j] for name, column in columns.items()} for j, dataset in enumerate(names)
        },
        "above_chance": {
            "datasets": [name for name, above in zip(names, known, strict=True) if above],
            **_headline(headline, matrix, known),
            "ci95": _intervals(headline, draws, known),
        },
        "zero_shot": untouched,
        "matrix": matrix,
        "incremental": {"steps": steps, "average": steps.mean(), "last": steps[-1]},
    }


def _class_incremental(sizes: Sequence[int]) -> Metrics:
    """Average and Last as that field publishes them: over all test images of the classes learned so far."""

    def average(matrix: np.ndarray, datasets: np.ndarray | None = None) -> Any:
        steps = metrics.incremental(matrix, sizes, datasets)
        judged = np.cumsum(np.where(True if datasets is None else datasets, sizes, 0)) > 0
        return steps[..., judged].mean(-1) if judged.any() else steps[..., -1]

    def last(matrix: np.ndarray, datasets: np.ndarray | None = None) -> Any:
        return metrics.incremental(matrix, sizes, datasets)[..., -1]

    return {"transfer": metrics.transfer, "average": average, "last": last}


def _headline_of(scenario: str, sizes: Sequence[int]) -> Metrics:
    """What Transfer, Average and Last are in a scenario; guessed for none."""
    if scenario == "multi-domain":
        return _MULTI_DOMAIN
    if scenario == "class-incremental":
        return _class_incremental(sizes)
    raise ValueError(f"what Average and Last are in the scenario {scenario!r} is not known")


def _headline(headline: Metrics, matrix: np.ndarray, known: np.ndarray | None = None) -> dict[str, Any]:
    return {name: metric(matrix, known) for name, metric in headline.items()}


def _intervals(headline: Metrics, draws: np.ndarray, known: np.ndarray | None = None) -> dict[str, Any]:
    """95 % intervals from resampled matrices (samples, K, K); None where the figure is undefined."""
    both = {name: metrics.interval(metric(draws, known)) for name, metric in headline.items()}
    return {name: None if math.isnan(low) else [low, high] for name, (low, high) in both.items()}


def _by_dataset(rows: Rows, zero_shot: Sequence[np.ndarray]) -> list[np.ndarray]:
    """From rows of datasets to one (K, N_j) array per dataset, NaN where a row was not measured."""
    return [
        np.stack([np.full(len(right), np.nan) if row is None else row[j] for row in rows])
        for j, right in enumerate(zero_shot)
    ]


def _plain(value: Any) -> Any:
    """The same value for JSON: NumPy numbers and arrays as Python's, NaN as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
