"""What `torchrun` starts in `test_processes.py`: a function of this file, by name, with a JSON argument."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from everclip.backbone import features
from everclip.cli import main
from everclip.experiment import runner
from everclip.experiment.config import Config
from everclip.layers import moe
from everclip.system import processes


def same_noise(logits: torch.Tensor) -> torch.Tensor:
    """Gating noise that tells experts apart, which else start out equal, but not images."""
    return torch.linspace(-0.05, 0.05, logits.shape[1]).expand_as(logits)


def plain() -> None:
    """The same gating noise for all images; batches of two, so that all processes have some to encode."""
    moe.draw_noise = same_noise
    features.BATCH = 2


def runs(jobs: list[dict]) -> None:
    """Experiments one after the other, under `plain`."""
    plain()
    for job in jobs:
        runner.run(Config.of(job["values"]), Path(job["out"]), resume=True)


def command(job: dict) -> None:
    """A command line, in which one process may end at a fault point."""
    if os.environ["RANK"] == job.get("rank"):
        os.environ["EVERCLIP_FAULT"] = job["fault"]
    main(job["args"])


def exchanges(job: dict) -> None:
    """Whatever the processes exchange, on rows that do not divide evenly; writes what each of them got."""
    processes.join("cpu")
    rank, count = processes.rank(), 5
    own = processes.share(count)
    rows = torch.arange(2.0 * count).view(count, 2).requires_grad_()
    together = processes.gathered(rows[own] ** 2)
    ((rank + 1) * (together**2).sum()).backward()  # every process has another loss; only their sum matters
    assert rows.grad is not None

    parameters = [torch.zeros(2, requires_grad=True) for _ in range(3)]
    parameters[0].grad = torch.full((2,), rank + 1.0)
    if rank == 1:
        parameters[1].grad = torch.ones(2)
    processes.sum_gradients(parameters)
    with processes.main_first():
        order = Path(job["out"], "order")
        order.write_text((order.read_text() if order.exists() else "") + str(rank))
    got = {
        "share": [own.start, own.stop],
        "gathered": together.tolist(),
        "none": processes.gathered(torch.zeros(rank, 3)).tolist(),
        "gradient": rows.grad[own].tolist(),
        "said": processes.by_main(lambda: f"by {rank}"),
        "summed": [p.grad if p.grad is None else p.grad.tolist() for p in parameters],
    }
    Path(job["out"], f"{rank}.json").write_text(json.dumps(got))


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"runs": runs, "command": command, "exchanges": exchanges}[sys.argv[1]](json.loads(sys.argv[2]))
