"""What it costs to start: processor seconds of fresh processes, beside those of the libraries they can't do without.

Processor time (user and system, one thread), the least of a few runs, so that other work on the machine counts as
little as can be. `import torch` is the floor of whatever answers; `import open_clip` takes torch's compiler
along, which the package avoids.

    python benchmarks/startup.py --runs 5
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES, IMAGES = ("red", "green"), 12
"""Of each of the two small folders: classes, and images of each."""


def processor_seconds(arguments: list[str], environment: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_photos(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(IMAGES):
            pixels = rng.normal(60 + 90 * label, 30, (80, 100, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.jpg")


def measured(folder: Path, runs: int) -> dict[str, float]:
    """The least processor seconds of each process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "EVERCLIP_CACHE": str(folder / "cache")}
    everclip, model = ["-m", "everclip"], str(folder / "model")
    for seed, name in enumerate(("first", "second")):
        write_photos(folder / name, seed)
        processor_seconds([*everclip, "learn", model, str(folder / name)], environment)
    image = str(folder / "first" / CLASSES[0] / "0.jpg")
    best: dict[str, float] = {}
    for number in range(runs):
        write_photos(folder / f"new-{number}", seed=2 + number)
        cases = {
            "python -c pass": ["-c", "pass"],
            "import torch": ["-c", "import torch"],
            "import torch, open_clip": ["-c", "import torch, open_clip"],
            "import everclip": ["-c", "import everclip"],
            "everclip --help": [*everclip, "--help"],
            "everclip predict, one image": [*everclip, "predict", model, image],
            "everclip learn, a new learner": [
                *(*everclip, "learn", str(folder / f"model-{number}")),
                str(folder / f"new-{number}"),
            ],
        }
        for name, arguments in cases.items():
            best[name] = min(best.get(name, float("inf")), processor_seconds(arguments, environment))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        best = measured(Path(folder), runs)
    print(f"{'':32}{'seconds':>8}{'× torch':>9}{'× open_clip':>13}")
    for name, seconds in best.items():
        ratios = (seconds / best[floor] for floor in ("import torch", "import torch, open_clip"))
        print(f"{name:32}{seconds:8.2f}{next(ratios):9.2f}{next(ratios):13.2f}")


if __name__ == "__main__":
    main()
