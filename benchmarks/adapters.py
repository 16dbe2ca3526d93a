"""What an epoch over cached embeddings costs an adapter, against the matrix rate of the same machine.

The floor counts the floating-point operations that no implementation can avoid: the adapter on images and replayed
samples, forward and for its weights' gradient, the logits forward and backward, the samples themselves. It is what they
would take at the rate of one float32 matrix product of the step's own shape, (2B, D) by (D, D). Ratios are of processor
time, so that other work on the machine does not count against either side.

    python benchmarks/adapters.py --images 50000 --width 512
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from everclip.backbone.features import FrozenImages
from everclip.data import LabeledEmbeddings
from everclip.engine.batches import TrainingSet
from everclip.engine.recipe import TrainingConfig
from everclip.engine.training import Trainer
from everclip.methods.adapters import LinearAdapterConfig, LinearAdapterMethod
from everclip.streams import TaskInfo


class Shapes:
    """Stands for a CLIP: only the width of its embeddings and its scale matter here."""

    def __init__(self, width: int) -> None:
        self.embed_dim = width
        self.logit_scale = torch.tensor(100.0)
        self.device = torch.device("cpu")
        self.view = argparse.Namespace(size=224)


class Texts:
    """Random class embeddings."""

    def __init__(self, width: int) -> None:
        self.width = width

    def classes(self, names: tuple[str, ...], templates: tuple[str, ...]) -> torch.Tensor:
        return nn.functional.normalize(torch.randn(len(names), self.width), dim=1)


def training_set(index: int, images: int, width: int, classes: int) -> TrainingSet:
    names = tuple(f"thing {index}-{number}" for number in range(classes))
    features = np.random.default_rng(index).normal(size=(images, width)).astype(np.float32)
    data = LabeledEmbeddings(features, np.arange(images) % classes)
    return TrainingSet(TaskInfo(index, f"task {index}", names, ("a photo of a {}.",)), FrozenImages(data, features))


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """On the clock, and of processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def matrix_rate(rows: int, width: int, rounds: int = 200) -> float:
    """FLOP per processor second of (rows, width) · (width, width) in float32, the best of some rounds."""
    a, b = torch.randn(rows, width), torch.randn(width, width)
    return max(2 * rows * width**2 / seconds(lambda: a @ b)[1] for _ in range(rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--classes", type=int, default=100, help="of the first task and of the second")
    parser.add_argument("--batch", type=int, default=100)
    options = parser.parse_args()
    n, d, c, b = options.images, options.width, options.classes, options.batch

    method = LinearAdapterMethod(Shapes(d), LinearAdapterConfig(), Texts(d))
    config = TrainingConfig(epochs=1, batch=b)
    print(f"{n:,} embeddings of {d}, batch {b}, {c} classes a task; {torch.get_num_threads()} threads")
    for index in range(2):
        task = training_set(index, n, d, c)
        method.begin_task(task.info)
        trainer = Trainer(method, [task], config, seed=0, tasks=2, workers=1)
        clock, processor = seconds(trainer.run)
        rows, seen = (b, c) if index == 0 else (2 * b, 2 * c)
        drawn = 2 * b * d * d if index else 0
        flops = trainer.total * (4 * rows * d * d + 4 * rows * d * seen + drawn)
        floor = flops / matrix_rate(rows, d)
        kind = "with replay" if index else "first task"
        print(
            f"{kind:12} {trainer.total} steps {clock:6.2f} s, of the processor {processor:6.2f} s; "
            f"floor {floor:5.2f} s ({flops / 1e9:.0f} GFLOP)  ×{processor / floor:.1f}"
        )
        print(f"{'retention':12} {seconds(method.end_task)[0]:16.2f} s")


if __name__ == "__main__":
    main()
