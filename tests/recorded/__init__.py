"""What an earlier EverCLIP wrote, and how it is laid out to be used; see README.md."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RECORDED = Path(__file__).parent
SIDE = 16
"""Pixels of a picture's side; the image tower takes no other size, so nothing is resampled."""
TRAIN, TEST = 8, 10
"""Pictures of a class: first those to learn from, then those for judging."""
ASKED = ("a squirrel", "a house")
"""Labels that nobody taught."""
QUESTIONS: tuple[dict[str, Any], ...] = ({}, {"closed": True}, {"labels": list(ASKED)})
"""The questions that the recorded answers belong to."""

STREAM = "folders:pictures/scenes,pictures/textures"
TRAINED = {"iterations": 40, "batch": 10, "warmup": 4, "checkpoint_every": 20, "lr": 0.002}
SETTINGS: dict[str, dict[str, Any]] = {
    "finetune": TRAINED,
    "rail": {"random_features": 32},
    "moe-adapters": {**TRAINED, "lr": 0.02, "scale": 1.0, "bottleneck": 4, "strict": True, "keep_stages": True},
}
"""What was set for each finished run."""


def command(method: str, out: str) -> list[str]:
    """The command line of a run, as it was given."""
    settings = [f"{name}={json.dumps(value)}" for name, value in SETTINGS[method].items()]
    start = ["run", "--stream", STREAM, "--method", method, "--backbone", "clip", "--device", "cpu", "--out", out]
    return [*start, *(part for setting in settings for part in ("--set", setting))]


def figures(run: Path) -> dict[str, Any]:
    """What a run came to."""
    results = json.loads((run / "results.json").read_text())
    matrices = {name: found["matrix"] for name, found in results["by_candidates"].items()}
    return {**{name: results[name] for name in ("transfer", "average", "last")}, "matrices": matrices}


def pictures(domain: str) -> dict[str, np.ndarray]:
    """Every class's pictures (N, S, S, 3) uint8, by class name."""
    strips = {file.stem: np.asarray(Image.open(file)) for file in (RECORDED / "pictures" / domain).glob("*.png")}
    return {name: np.stack(np.split(strips[name], TRAIN + TEST, axis=1)) for name in sorted(strips)}


def lessons(domain: str) -> list[tuple[np.ndarray, str]]:
    """What there is to learn from, as a learner takes it."""
    return [(picture, name) for name, found in pictures(domain).items() for picture in found[:TRAIN]]


def shown() -> list[np.ndarray]:
    """The images that the recorded answers belong to: of every class the first one for judging."""
    return [found[TRAIN] for domain in ("scenes", "textures", "aerial") for found in pictures(domain).values()]


def lay_out_pictures(domain: str, folder: Path) -> None:
    """Write a domain as image files, divided into train and test."""
    for name, found in pictures(domain).items():
        for number, picture in enumerate(found):
            place = folder / ("train" if number < TRAIN else "test") / name / f"{number:02d}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(place)


def lay_out(folder: Path, *names: str) -> None:
    """Put recorded things, and all pictures, into a folder as they were where they were made.

    Paths in the files are relative to that folder.
    """
    for name in names:
        for file in (RECORDED / name).rglob("*.*"):
            place = folder / file.relative_to(RECORDED)
            place.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".xz":
                place.with_suffix("").write_bytes(lzma.decompress(file.read_bytes()))
            else:
                shutil.copyfile(file, place)
    for domain in ("scenes", "textures", "aerial"):
        lay_out_pictures(domain, folder / "pictures" / domain)
