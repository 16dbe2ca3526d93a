"""What ZSCL costs: its step against a finetune step and the student's forward and backward of the reference batch.

The aim is a ratio of at most 1.35. All learners train the same backbone on the same images and take turns in one
process, so that whatever else the machine does hits all alike. Read the ratios; the times are for this machine in this
minute. FLOPs count matrix products and convolutions; what ZSCL adds to a step besides (weight drift, ensemble) is
counted in time only.

    python benchmarks/zscl.py --backbone embedded --batch 32
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures
from everclip.methods import Batch, Reference, Sources
from everclip.methods.full_model import Finetune, FullModel
from everclip.methods.zscl import ZSCL
from everclip.streams import TaskInfo


class Drawn:
    """Random reference images, in memory."""

    def __init__(self, count: int, size: int) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.pixels[rows]


class Told(FrozenFeatures):
    """Constants that are at hand: computing them once for all is no part of a step."""

    def images(self, data: Drawn) -> Tensor:
        return torch.randn(len(data), self.backbone.embed_dim)

    def texts(self, tokens: Tensor) -> Tensor:
        return torch.randn(len(tokens), self.backbone.embed_dim)


def stepper(method: FullModel, batch: Batch) -> Callable[[], None]:
    """A training step as the trainer takes it."""
    optimizer = torch.optim.AdamW(method.weights.values(), lr=1e-5, weight_decay=0.0, fused=True)

    def step() -> None:
        loss = method.train()(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--batch", type=int, default=32, help="training images per step, and reference images")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--texts", type=int, default=1000, help="reference texts")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()

    backbone = Backbone.load(options.backbone, options.device, options.precision)
    size, device = backbone.view.size, backbone.device
    reference = Drawn(4 * options.batch, size)
    task = TaskInfo(0, "task", tuple(f"thing {i}" for i in range(options.classes)), ("a photo of a {}.",))
    rows = torch.arange(options.batch)
    pixels = torch.randn(options.batch, 3, size, size, device=device)
    labels = (rows % options.classes).to(device)
    seen = Reference(backbone.pixels(torch.from_numpy(reference[rows.numpy()])), rows)

    def learner(kind: type[FullModel]) -> FullModel:
        method = kind(backbone, kind.Config(), Told(backbone)).to(device)
        method.provide(Sources(lambda rows: reference, reference, tuple(f"text {i}" for i in range(options.texts))))
        method.begin_task(task)
        return method

    finetune, zscl = learner(Finetune), learner(ZSCL)

    def encode_reference() -> None:
        finetune.student.encode_image(seen.images).sum().backward()

    work: dict[str, Callable[[], None]] = {
        "finetune step": stepper(finetune, Batch(task, pixels, labels)),
        "reference, forward and backward": encode_reference,
        "zscl step": stepper(zscl, Batch(task, pixels, labels, seen)),
        "ensemble, once in 100 steps": lambda: zscl.after_step(0),
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(options.rounds + 1):
        for name, call in work.items():
            start = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first round warms up
                times[name].append(time.perf_counter() - start)

    print(
        f"{options.backbone}, {options.precision} on {device.type}, batch {options.batch} + {options.batch}, "
        f"{options.classes} prompts, {options.texts} reference texts, {torch.get_num_threads()} threads"
    )
    flops = {}
    for name, call in work.items():
        with FlopCounterMode(display=False) as counter:
            call()
        flops[name] = counter.get_total_flops()
        print(f"{name:32} {1e3 * statistics.median(times[name]):9.1f} ms {flops[name] / 1e9:9.2f} GFLOP")
    base, encoded, step, ensemble = times.values()
    ratios = [(s + e / 100) / (b + r) for b, r, s, e in zip(base, encoded, step, ensemble, strict=True)]
    base, encoded, step, _ = flops.values()
    print(f"ratio {statistics.median(ratios):.3f} in time (median over rounds), {step / (base + encoded):.3f} in FLOPs")


if __name__ == "__main__":
    main()
