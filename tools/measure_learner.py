"""Measure a learner on folders: accuracy, calibration, and whether it tells what it never learned.

    python tools/measure_learner.py LEARNED… --unseen UNSEEN… [--method rail]

Learns the training part of every LEARNED folder, one after the other, then asks about the test parts of all of them.
For images of the UNSEEN folders right is the answer None when no labels are given, and the right class when the classes
of the UNSEEN folders are given as labels.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from sklearn.metrics import roc_auc_score

from everclip.data import read_folder
from everclip.errors import EverclipError
from everclip.learner import Learner, Prediction
from everclip.learner.config import DEFAULT_METHOD
from everclip.system.display import Display

BINS = 15
"""Of the calibration error, with as many answers in each."""


def calibration_error(probability: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error in points: mean |accuracy − confidence| over bins of equal size (N,), (N,)."""
    bins = np.array_split(np.argsort(probability, kind="stable"), BINS)
    gaps = [len(rows) * abs(probability[rows].mean() - right[rows].mean()) for rows in bins if len(rows)]
    return 100 * sum(gaps) / len(probability)


def balanced(known: np.ndarray) -> np.ndarray:
    """Rows that hold as many answers on known images as on others, each repeated as often as that takes."""
    inside, outside = np.flatnonzero(known), np.flatnonzero(~known)
    count = max(len(inside), len(outside))
    return np.concatenate([np.resize(inside, count), np.resize(outside, count)])


def main(
    learned: Annotated[list[Path], typer.Argument(help="Folders to learn, in this order.")],
    unseen: Annotated[list[Path], typer.Option(help="Folders it never learns; give it several times.")],
    method: Annotated[str, typer.Option(help="See `everclip methods`.")] = DEFAULT_METHOD,
    backbone: Annotated[str, typer.Option(help="As for `everclip learn`.")] = "embedded",
) -> None:
    """Print what the answers are worth."""
    display = Display()
    learner = Learner.create(backbone, method, display=display)
    start = time.perf_counter()
    moved, watched = 0, 0
    for folder in learned:
        report = learner.learn(folder.name, folder)
        moved, watched = moved + report.moved, watched + report.watched
        display.note(f"{folder.name}: {report.images} images in {report.seconds:.1f} s, {report.moved} moved")
    seconds = time.perf_counter() - start

    images, truth, task = [], [], []
    for folder in [*learned, *unseen]:
        test = read_folder(folder).test
        names = read_folder(folder).class_names
        for position in range(len(test)):
            images.append(test.decode(position))
            truth.append(names[test.labels[position]])
            task.append(folder.name)
    known = np.isin(task, [folder.name for folder in learned])
    labels = [name for folder in unseen for name in read_folder(folder).class_names]
    every = 1 + sum(len(task.class_names) for task in learner.tasks)
    plain = learner.predict(images, top_k=every)
    labeled, closed = learner.predict(images, labels), learner.predict(images, closed=True)

    none = np.array([next(p for label, p, _ in answer.top if label is None) for answer in plain])
    given = np.array([_right(answer, name) for answer, name in zip(closed, truth, strict=True)])
    right = np.array([_right(a, name if k else None) for a, name, k in zip(plain, truth, known, strict=True)])
    among = np.array([_right(answer, name) for answer, name in zip(labeled, truth, strict=True)])
    print(
        f"{method} on {backbone}: {seconds:.0f} s for {len(learned)} tasks, {moved} of {watched} held-out images moved"
    )
    print(f"known images, one of the learned classes: {100 * given[known].mean():.1f} % right")
    error = calibration_error(np.array([a.probability for a in closed])[known], given[known])
    print(f"  calibration error {error:.1f} points")
    print(
        f"no labels: {100 * right[known].mean():.1f} % of the known images right, {_none(plain, known)} called nothing"
    )
    print(f"  learned; of the others {_none(plain, ~known)}; AUROC {100 * roc_auc_score(~known, none):.1f}")
    rows = balanced(known)
    print(
        f"  calibration error, known and others alike: {calibration_error(_sure(plain)[rows], right[rows]):.1f} points"
    )
    print(f"classes of the others as labels: {100 * among[known].mean():.1f} % of the known images right,")
    print(f"  {100 * among[~known].mean():.1f} % of the others; calibration error ", end="")
    print(f"{calibration_error(_sure(labeled)[rows], among[rows]):.1f} points")


def _right(answer: Prediction, name: str | None) -> bool:
    return answer.label == name


def _none(answers: list[Prediction], which: np.ndarray) -> str:
    return f"{100 * np.mean([a.label is None for a, wanted in zip(answers, which, strict=True) if wanted]):.1f} %"


def _sure(answers: list[Prediction]) -> np.ndarray:
    return np.array([answer.probability for answer in answers])


if __name__ == "__main__":
    try:
        typer.run(main)
    except EverclipError as error:
        typer.echo(f"measure_learner: {error}", err=True)
        sys.exit(error.exit_code)
