"""What an analytic learner costs: learning 50,000 embeddings against the matrix rate of the same machine.

The machine's rate is that of a large float64 matrix product, measured before and after. Rates are per second of
processor time, so that other work on the machine does not count against either side. The floating-point operations
counted are those no implementation can avoid: projection, G and Q of every image, and per λ a Cholesky factor, the
solution and the leverages of the calibration sample.

    python benchmarks/analytic.py --images 50000 --features 2048
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import nn

from everclip.methods.ridge import RAIL, RAILConfig
from everclip.streams import TaskInfo


class Shapes:
    """Stands for a CLIP: only the width of its embeddings and its scale matter here."""

    def __init__(self, width: int) -> None:
        self.embed_dim = width
        self.logit_scale = torch.tensor(100.0)


class Texts:
    """Random class embeddings."""

    def __init__(self, width: int) -> None:
        self.width = width

    def classes(self, names: tuple[str, ...], templates: tuple[str, ...]) -> torch.Tensor:
        return nn.functional.normalize(torch.randn(len(names), self.width), dim=1)


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """On the clock, and of processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def matrix_rate(size: int, rounds: int) -> float:
    """FLOP per processor second of a product of two float64 matrices (size, size), the best of some rounds."""
    a = torch.randn(size, size, dtype=torch.float64)
    return max(2 * size**3 / seconds(lambda: a @ a)[1] for _ in range(rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--ridge", default="search", help="λ, or search")
    options = parser.parse_args()

    ridge = options.ridge if options.ridge == "search" else float(options.ridge)
    config = RAILConfig(random_features=options.features, ridge=ridge)
    learner = RAIL(Shapes(options.width), config, Texts(options.width))
    labels = torch.arange(options.images) % options.classes
    centers = torch.randn(options.classes, options.width)
    features = centers[labels] + 2 * torch.randn(options.images, options.width)
    learner.begin_task(TaskInfo(0, "task", tuple(f"thing {i}" for i in range(options.classes)), ("a photo of a {}.",)))

    def accumulate() -> None:
        for rows in torch.arange(options.images).split(options.batch):
            learner.accumulate(features[rows], labels[rows])

    n, d, m, c = options.images, options.width, options.features, options.classes
    tried = len(learner.decades) if ridge == "search" else 1
    sampled = min(n, config.calibration)
    work = {
        "accumulate": (2 * n * d * m + 2 * n * m * m + n * m, accumulate),
        "solve": (tried * (m**3 / 3 + 2 * m * m * c + sampled * m * m + 2 * sampled * m * c), learner.solve),
    }
    rate = matrix_rate(2048, 3)
    print(f"{n:,} embeddings of {d}, {m:,} features, {c} classes, λ tried: {tried}; {torch.get_num_threads()} threads")
    taken = {name: (flops, seconds(call)) for name, (flops, call) in work.items()}
    rate = max(rate, matrix_rate(2048, 3))
    print(f"matrix product {'':10} {rate / 1e9:8.1f} GFLOP/s")
    for name, (flops, (clock, processor)) in taken.items():
        speed = flops / processor
        print(f"{name:12} {clock:8.2f} s  {speed / 1e9:8.1f} GFLOP/s  {100 * speed / rate:5.1f} % of it")


if __name__ == "__main__":
    main()
