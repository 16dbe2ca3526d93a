"""Outcomes of evaluation as a run directory keeps them: tensors, lines of `matrix.csv`, rows of a routing table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from everclip.engine.evaluation import Outcome
from everclip.storage.tensors import Wanted, require
from everclip.streams import CANDIDATES


def matrix_csv(rows: dict[int, list[Outcome]], names: list[str]) -> str:
    """All rows (by index of the last learned task) at full precision: a line per row, test set and candidate set."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["after_task", "dataset", "candidates", "images", "correct", "accuracy", "accuracy_by_name"])
    for index, outcomes in rows.items():
        for name, outcome in zip(names, outcomes, strict=True):
            for candidates in CANDIDATES:
                right, named = outcome.correct[candidates], outcome.by_name[candidates]
                counts = [len(right), int(right.sum()), 100 * float(right.mean()), 100 * float(named.mean())]
                table.writerow([names[index], name, candidates, *counts])
    return text.getvalue()


def pack(outcomes: list[Outcome]) -> dict[str, Tensor]:
    """One row, an outcome per test set → tensors `CANDIDATES/INDEX`, `…/by_name` and `routes/INDEX`."""
    tensors = {}
    for index, outcome in enumerate(outcomes):
        for candidates in CANDIDATES:
            tensors[f"{candidates}/{index}"] = torch.from_numpy(outcome.correct[candidates])
            tensors[f"{candidates}/{index}/by_name"] = torch.from_numpy(outcome.by_name[candidates])
        if outcome.routes is not None:
            tensors[f"routes/{index}"] = torch.from_numpy(outcome.routes)
    return tensors


def unpack(tensors: dict[str, Tensor], count: int | Sequence[int]) -> list[Outcome]:
    """What `pack` stored.

    Args:
        tensors: by name.
        count: how many test sets there are, or the number of images of each.

    Raises:
        MisfitError: a tensor is missing or not what it must be.
    """
    sizes: list[int | str] = [f"N{index}" for index in range(count)] if isinstance(count, int) else list(count)
    wanted = {}
    for index, images in enumerate(sizes):
        for candidates in CANDIDATES:
            wanted[f"{candidates}/{index}"] = Wanted(torch.bool, (images,))
            wanted[f"{candidates}/{index}/by_name"] = Wanted(torch.bool, (images,))
        wanted[f"routes/{index}"] = Wanted(torch.int64, ("T",), low=0, optional=True)
    require("working", tensors, wanted)
    return [
        Outcome(
            {c: tensors[f"{c}/{index}"].numpy() for c in CANDIDATES},
            {c: tensors[f"{c}/{index}/by_name"].numpy() for c in CANDIDATES},
            tensors[f"routes/{index}"].numpy() if f"routes/{index}" in tensors else None,
        )
        for index in range(len(sizes))
    ]


def padded(routes: np.ndarray | None, columns: int) -> list[int]:
    """Images per route, with a zero for every task not learned yet: zero-shot stays the last column."""
    assert routes is not None
    return [*routes[:-1].tolist(), *[0] * (columns - len(routes)), int(routes[-1])]
