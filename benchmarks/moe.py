"""What the experts cost: MoE-Adapters against one dense adapter of the same width beside every block.

Both learners sit on the same frozen ViT-B/16 (random weights; only shapes matter) and take turns in one process, so
that whatever else the machine does hits both alike. Read the ratios; the times are for this machine in this minute.

    python benchmarks/moe.py --batch 4 --experts 22
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from everclip.backbone import Backbone
from everclip.layers.moe import MoEBranch
from everclip.methods import Batch, Method
from everclip.methods.moe_adapters import MoEAdapters, MoEAdaptersConfig
from everclip.streams import TaskInfo


class DenseBranch(MoEBranch):
    """The yardstick: one adapter for every sample, no router."""

    def forward(self, h: Tensor, c: Tensor, route: Tensor) -> Tensor:
        expert = self.experts[0]
        hidden = nn.functional.dropout(torch.relu(expert.down(h)), self.dropout, self.training)
        return self.scale * expert.up(hidden)


def learner(backbone: Backbone, task: TaskInfo, experts: int, dense: bool) -> Method:
    method = MoEAdapters(backbone, MoEAdaptersConfig(experts=experts))
    if dense:
        for branch in method.branches:
            branch.__class__ = DenseBranch
    method.begin_task(task)
    if not dense:
        for branch in method.branches:
            nn.init.normal_(branch.routers[0].gate)  # a trained router: samples go different ways
    return method


def saved_bytes(call: Callable[[], object]) -> int:
    """Bytes of distinct tensors that autograd keeps for the backward pass, weights aside."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(kept.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-B-16/random")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--experts", type=int, default=22)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()

    backbone = Backbone.load(options.backbone)
    task = TaskInfo(0, "task", tuple(f"thing {i}" for i in range(options.classes)), ("a photo of a {}.",))
    size = backbone.view.size
    batch = Batch(task, torch.randn(options.batch, 3, size, size), torch.arange(options.batch) % options.classes)
    learners = {
        "one dense adapter": learner(backbone, task, 1, dense=True),
        f"{options.experts} experts, top 2": learner(backbone, task, options.experts, dense=False),
    }

    def forward(method: Method) -> None:
        with torch.no_grad():
            method.eval().embed(batch.images, 0)

    def step(method: Method) -> None:
        method.train().zero_grad(set_to_none=True)
        method(batch).total.backward()

    print(f"{options.backbone}, batch {options.batch}, {options.classes} prompts, {torch.get_num_threads()} threads")
    for name, work in (("forward, images", forward), ("training step", step)):
        times: dict[str, list[float]] = {key: [] for key in learners}
        for turn in range(options.rounds + 1):
            for key, method in learners.items():
                start = time.perf_counter()
                work(method)
                if turn:  # the first round warms up
                    times[key].append(time.perf_counter() - start)
        base = None
        for key, method in learners.items():
            with FlopCounterMode(display=False) as flops:
                work(method)
            kept = saved_bytes(lambda method=method: method.train()(batch)) if work is step else 0
            middle = statistics.median(times[key])
            base = base or middle
            print(
                f"{name:16} {key:22} {1e3 * middle:8.1f} ms  ×{middle / base:.3f}  "
                f"{flops.get_total_flops() / 1e9:8.2f} GFLOP" + (f"  {kept / 2**20:8.1f} MiB saved" if kept else "")
            )


if __name__ == "__main__":
    main()
