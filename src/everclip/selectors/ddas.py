"""DDAS, the distribution-discriminative auto-selector: one autoencoder per task, least reconstruction error wins.

Yu et al., CVPR 2024, arXiv 2403.11549; the formulas are in docs/selectors.md. One more autoencoder learns a reference:
images that stand for everything no task teaches. If its error is the least, the original CLIP answers. By default the
features are the frozen CLIP's own embedding, standardized by the reference (or else by the first task), and thresholds
are calibrated per task. `features: alexnet` and `ddas_rule: published` are those of the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from everclip.backbone.features import FrozenFeatures
from everclip.data import LabeledEmbeddings, ViewedImages
from everclip.functional.ties import first_largest
from everclip.selectors.alexnet import AlexNet
from everclip.selectors.scored import ScoredConfig, ScoredSelector
from everclip.storage.tensors import Wanted
from everclip.streams.stream import TaskInfo


class Autoencoder(nn.Module):
    """Linear(D → code) → ReLU → Linear(code → D) → sigmoid."""

    def __init__(self, size: int, code: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(size, code)
        self.decoder = nn.Linear(code, size)

    def forward(self, u: Tensor) -> Tensor:
        """Reconstruct u (B, D) in 0..1."""
        decoded: Tensor = self.decoder(self.encoder(u).relu())
        return decoded.sigmoid()


def reconstruction_error(autoencoder: nn.Module, features: Tensor) -> Tensor:
    """Mean squared error over dimensions of the reconstruction of sigmoid(features): (B, D) → (B,)."""
    u = features.sigmoid()
    missed: Tensor = autoencoder(u) - u
    return missed.square().mean(dim=1)


def published_choice(errors: Tensor, threshold: float) -> Tensor:
    """The published rule: errors (B, 1 + T), column 0 the reference distribution → task (B,), −1 = original CLIP."""
    return torch.where(errors.amin(dim=1) > threshold, -1, first_largest(-errors) - 1)


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
    """Settings of DDAS."""

    features: Literal["clip", "alexnet"] = Field(
        "clip", description="clip: the frozen tower's embedding, standardized; alexnet: the paper's, as they are"
    )
    alexnet: str = Field(
        "", description="AlexNet weights in torchvision's layout, .pth or .safetensors; downloaded when empty"
    )
    ddas_rule: Literal["calibrated", "published"] = Field(
        "calibrated",
        description="calibrated on held-out images, or published: least error, the original CLIP above `threshold`",
    )
    threshold: float = Field(
        0.0655, gt=0, description="largest error of a task's image under the published rule (few-shot: 0.0585)"
    )
    ddas_iterations: int = Field(300, ge=1, description="training steps of a task's autoencoder")
    reference_iterations: int = Field(1000, ge=1, description="training steps of the reference's autoencoder")
    ddas_lr: float = Field(0.01, gt=0, description="its learning rate; × 0.1 every ten epochs (few-shot: 0.003)")
    ddas_batch: int = Field(64, ge=1, description="its batch size")
    code: int | None = Field(
        None, ge=1, description="width of the code; a quarter of the CLIP's embedding, or 100 on AlexNet, when empty"
    )


class DDAS(ScoredSelector):
    """Negative reconstruction error of each task's autoencoder.

    Raises:
        InputError: the AlexNet weights it is to use can't be had.
    """

    name = "ddas"
    summary = "one autoencoder per task on frozen features, least reconstruction error"
    Config = DDASConfig
    config: DDASConfig

    def __init__(self, config: DDASConfig) -> None:
        super().__init__(config)
        self.calibrated = config.ddas_rule == "calibrated"
        self._alexnet = AlexNet(config.alexnet) if config.features == "alexnet" else None
        self._autoencoders: list[Autoencoder] = []
        self.kept = torch.float16 if self._alexnet else torch.float32

    @property
    def feature_digest(self) -> str:
        """Hash of the AlexNet's weights, where it looks at images."""
        return self._alexnet.digest if self._alexnet else ""

    def read(self, images: ViewedImages | LabeledEmbeddings, frozen: FrozenFeatures) -> Tensor:
        """The CLIP's features (N, D) float32, or the AlexNet's, float16 and mapped from their file."""
        return self._alexnet.images(images, frozen.backbone) if self._alexnet else frozen.images(images)

    def describe(self, task: TaskInfo, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The trained autoencoder and the standardization."""
        return self._trained(features, self.config.ddas_iterations, seed=task.index)

    def describe_reference(self, features: Tensor) -> dict[str, Tensor]:
        """The same; all tasks will be standardized as the reference is."""
        return self._trained(features, self.config.reference_iterations, seed=0)

    def column_wanted(self) -> dict[str, Wanted]:
        """See `describe`."""
        layers = {
            "encoder.weight": ("code", "D"),
            "encoder.bias": ("code",),
            "decoder.weight": ("D", "code"),
            "decoder.bias": ("D",),
        }
        wanted = {name: Wanted(torch.float32, shape) for name, shape in layers.items()}
        if self._alexnet:
            return wanted
        return {
            **wanted,
            "center": Wanted(torch.float32, ("D",)),
            "spread": Wanted(torch.float32, ("D",), low=1e-7),  # the least is 1e-6, as float32 has it
        }

    def _trained(self, features: Tensor, iterations: int, seed: int) -> dict[str, Tensor]:
        config = self.config
        standard = self._standard(features)
        count, width = features.shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            autoencoder = Autoencoder(width, config.code or (100 if self._alexnet else max(1, width // 4)))
            size = min(config.ddas_batch, count)
            per_epoch = max(1, count // size)
            order = torch.cat([torch.randperm(count) for _ in range(iterations * size // count + 1)])
            batches = (standardized(features[rows].float(), standard) for rows in order.split(size)[:iterations])
            train_autoencoder(autoencoder, batches, lambda step: decayed(step, config.ddas_lr, per_epoch))
        return standard | {name: value.detach() for name, value in autoencoder.state_dict().items()}

    def _standard(self, features: Tensor) -> dict[str, Tensor]:
        """Center and spread (D,) for all columns alike; nothing on AlexNet features."""
        if self._alexnet:
            return {}
        if self.columns:
            return {name: self.columns[0][name].clone() for name in ("center", "spread")}
        return {
            "center": features.mean(dim=0),
            "spread": features.std(dim=0, correction=int(len(features) > 1)).clamp(min=1e-6),
        }

    def prepare(self) -> None:
        """Put the stored weights into autoencoders."""
        self._autoencoders = []
        for column in self.columns:
            code, width = column["encoder.weight"].shape
            with torch.device("meta"):  # the column brings the weights; drawing some first takes longer than scoring
                autoencoder = Autoencoder(width, code)
            weights = {name: column[name] for name in autoencoder.state_dict()}
            autoencoder.load_state_dict(weights, assign=True)
            self._autoencoders.append(autoencoder)

    @torch.no_grad()
    def scores(self, features: Tensor) -> Tensor:
        """Negative error per column (B, C)."""
        x = standardized(features, self.columns[0])
        return torch.stack([-reconstruction_error(each, x) for each in self._autoencoders], dim=1).double()

    def probabilities(self, features: Tensor | None, count: int, truth: int | None) -> Tensor:
        """p(t|x) (count, T + 1); one-hot under the published rule."""
        if self.calibrated:
            return super().probabilities(features, count, truth)
        return self._published(features, count, batch=1)

    def batch_probabilities(self, features: Tensor | None, count: int, truth: int | None, batch: int) -> Tensor:
        """The same per batch; the published rule averages errors over it, not p(t|x)."""
        if self.calibrated:
            return super().batch_probabilities(features, count, truth, batch)
        return self._published(features, count, batch)

    def _published(self, features: Tensor | None, count: int, batch: int) -> Tensor:
        assert features is not None
        tasks = len(self.tasks)
        if not tasks:
            return torch.ones(count, 1)
        errors = -self._scores(features)
        errors = torch.stack([part.mean(dim=0) for part in errors.split(batch)])
        reference = errors[:, tasks:] if self.reference is not None else torch.full((len(errors), 1), float("inf"))
        chosen = published_choice(torch.cat([reference, errors[:, :tasks]], dim=1), self.config.threshold)
        chosen = torch.where(chosen < 0, tasks, chosen).repeat_interleave(batch)[:count]
        return F.one_hot(chosen, tasks + 1).float()


def standardized(features: Tensor, standard: dict[str, Tensor]) -> Tensor:
    """(x − center) / spread where both are known: (B, D) → (B, D)."""
    return (features - standard["center"]) / standard["spread"] if "center" in standard else features
