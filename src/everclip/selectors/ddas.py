"""DDAS, the distribution-discriminative auto-selector: one autoencoder per task, least reconstruction error wins.

Yu et al., CVPR 2024, arXiv 2403.11549; formulas in METHODS §2. Here the features are the frozen CLIP's own embedding,
standardized by the first task's statistics, and thresholds are calibrated per task; the published form (AlexNet
features, one fixed threshold, one more autoencoder for a reference distribution) shares the functions below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from pydantic import Field
from torch import Tensor, nn

from everclip.selectors.scored import ScoredConfig, ScoredSelector
from everclip.streams.stream import TaskInfo


class Autoencoder(nn.Module):
    """Linear(D → code) → ReLU → Linear(code → D) → sigmoid."""

    def __init__(self, size: int, code: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(size, code)
        self.decoder = nn.Linear(code, size)

    def forward(self, u: Tensor) -> Tensor:
        """Reconstruct u (B, D) in 0..1."""
        return self.decoder(self.encoder(u).relu()).sigmoid()


def reconstruction_error(autoencoder: nn.Module, features: Tensor) -> Tensor:
    """Mean squared error over dimensions of the reconstruction of sigmoid(features): (B, D) → (B,)."""
    u = features.sigmoid()
    return (autoencoder(u) - u).square().mean(dim=1)


def published_choice(errors: Tensor, threshold: float) -> Tensor:
    """The published rule: errors (B, 1 + T), column 0 the reference distribution → task (B,), −1 = original CLIP."""
    least, column = errors.min(dim=1)
    return torch.where(least > threshold, -1, column - 1)


def train_autoencoder(
    autoencoder: Autoencoder, batches: Iterable[Tensor], lr: Callable[[int], float], weight_decay: float = 1e-4
) -> list[float]:
    """Train on batches of raw features (B, D), one update each; returns the loss before each update.

    Adam with the weight decay added to the gradient, as published.

    Args:
        autoencoder: changed in place.
        batches: one per step.
        lr: step → learning rate.
        weight_decay: L2 coefficient.
    """
    optimizer = torch.optim.Adam(autoencoder.parameters(), weight_decay=weight_decay)
    losses = []
    for step, features in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = lr(step)
        loss = reconstruction_error(autoencoder, features).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).tolist() if losses else []


def decayed(step: int, base: float, per_epoch: int) -> float:
    """Learning rate × 0.1 every ten epochs of `per_epoch` steps."""
    return base * 0.1 ** (step // per_epoch // 10)


class DDASConfig(ScoredConfig):
    """Settings of DDAS on CLIP features."""

    ddas_iterations: int = Field(300, ge=1, description="training steps of a task's autoencoder")
    ddas_lr: float = Field(0.01, gt=0, description="its learning rate; × 0.1 every ten epochs")
    ddas_batch: int = Field(64, ge=1, description="its batch size")
    code: int | None = Field(None, ge=1, description="width of the code; a quarter of the embedding when empty")


class DDAS(ScoredSelector):
    """Negative reconstruction error of each task's autoencoder."""

    name = "ddas"
    summary = "one autoencoder per task on frozen embeddings, least reconstruction error"
    Config = DDASConfig

    def describe(self, task: TaskInfo, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The trained autoencoder; the first task's also sets the standardization."""
        config = self.config
        if self.learned:
            center, spread = self.learned[0]["center"], self.learned[0]["spread"]
        else:
            center, spread = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)
        x = (features - center) / spread
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(task.index)
            autoencoder = Autoencoder(x.shape[1], config.code or max(1, x.shape[1] // 4))
            size = min(config.ddas_batch, len(x))
            per_epoch = max(1, len(x) // size)
            order = torch.cat([torch.randperm(len(x)) for _ in range(config.ddas_iterations * size // len(x) + 1)])
            batches = (x[order[step * size : (step + 1) * size]] for step in range(config.ddas_iterations))
            train_autoencoder(autoencoder, batches, lambda step: decayed(step, config.ddas_lr, per_epoch))
        weights = {name: value.detach() for name, value in autoencoder.state_dict().items()}
        return {"center": center.clone(), "spread": spread.clone(), **weights}

    @torch.no_grad()
    def scores(self, features: Tensor) -> Tensor:
        """Negative error per task (B, T)."""
        columns = []
        for task in self.learned:
            code, size = task["encoder.weight"].shape
            autoencoder = Autoencoder(size, code)
            autoencoder.load_state_dict({name: task[name] for name in autoencoder.state_dict()})
            columns.append(-reconstruction_error(autoencoder, (features - task["center"]) / task["spread"]))
        return torch.stack(columns, dim=1).double()
