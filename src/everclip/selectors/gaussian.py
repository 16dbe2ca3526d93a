"""Tasks as mixtures of Gaussians over the frozen CLIP's embedding, with one covariance for all of them.

A task is the k-means centers of its training embeddings; the scatter around the centers is pooled over tasks and shrunk
(OAS, Chen et al. 2010). p(t|x) is a softmax of tempered log-likelihoods. An image that even the best task finds less
likely than 99 % of held-out training images goes to the original CLIP.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from scipy.stats import t as student_t
from sklearn.cluster import KMeans
from torch import Tensor

from everclip.selectors.selector import Selector, SelectorConfig
from everclip.streams.stream import TaskInfo

TEMPERATURES = torch.logspace(-2, 0, 21)
"""Powers tried on the likelihoods: independent dimensions are an assumption, so raw likelihoods are overconfident."""
IMAGES_PER_CLUSTER = 20
"""Fewer make centers that fit their own images and no others."""


class GaussianConfig(SelectorConfig):
    """Settings of the Gaussian selector."""

    clusters: int = Field(8, ge=1, description="k-means centers per task")
    false_rejection: float = Field(
        0.01, gt=0, lt=1, description="share of held-out training images that may be sent to the original CLIP"
    )
    held_out_limit: int = Field(500, ge=1, description="held-out embeddings kept per task for calibration")


class Gaussian(Selector):
    """Log-likelihood of each task's mixture; calibrated on held-out training images of the tasks learned so far."""

    name = "gaussian"
    summary = "per-task Gaussian mixtures with one shrunk covariance on frozen embeddings"
    Config = GaussianConfig

    def __init__(self, config: GaussianConfig) -> None:
        super().__init__(config)
        self.centers: list[Tensor] = []
        self.scatters: list[Tensor] = []
        self.counts: list[int] = []
        self.held_out: list[Tensor] = []
        self._whitener = torch.empty(0)
        self._temperature = 1.0
        self._thresholds = torch.empty(0)

    def fit(self, task: TaskInfo, features: Tensor | None, held_out: Tensor | None) -> None:
        """Cluster a task's embeddings, then calibrate all tasks anew: the pooled covariance has changed."""
        super().fit(task, features, held_out)
        assert features is not None
        x = F.normalize(features.double(), dim=-1)
        clusters = max(1, min(self.config.clusters, len(x) // IMAGES_PER_CLUSTER))
        means = KMeans(clusters, n_init=4, random_state=task.index).fit(x.numpy())
        centers = torch.from_numpy(means.cluster_centers_)
        residual = x - centers[torch.from_numpy(means.labels_).long()]
        self.centers.append(centers)
        self.scatters.append(residual.T @ residual)
        self.counts.append(len(x))
        # Without held-out images the training images have to do; they look likelier than new ones will.
        kept = features if held_out is None else held_out
        self.held_out.append(kept[:: max(1, -(-len(kept) // self.config.held_out_limit))].clone())
        self._calibrate()

    def _calibrate(self) -> None:
        covariance = shrunk(torch.stack(self.scatters).sum(dim=0), sum(self.counts))
        self._whitener = torch.linalg.cholesky(torch.linalg.inv(covariance))
        scores = torch.cat([self._scores(part) for part in self.held_out])
        sizes = torch.tensor([len(part) for part in self.held_out])
        truth = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        losses = torch.stack([F.cross_entropy(power * scores, truth) for power in TEMPERATURES])
        self._temperature = float(TEMPERATURES[losses.argmin()])
        own = scores[torch.arange(len(truth)), truth].split(sizes.tolist())
        # The covariance is pooled, so the spread of scores is nearly common too: a task with few held-out images leans
        # on the others', and the more lenient threshold counts.
        means = torch.stack([part.mean() for part in own])
        pooled = self._low(torch.cat([part - mean for part, mean in zip(own, means, strict=True)]))
        self._thresholds = torch.minimum(torch.stack([self._low(part) for part in own]), means + pooled)

    def _low(self, scores: Tensor) -> Tensor:
        """What a new score of this kind stays below with probability `false_rejection`: (M,) → scalar.

        A few dozen scores do not show their 1 % quantile; there Student's bound for the next one stands in for it.
        """
        count = len(scores)
        quantile = scores.quantile(self.config.false_rejection)
        if count < 2:
            return quantile
        bound = float(student_t.ppf(self.config.false_rejection, count - 1)) * (1 + 1 / count) ** 0.5
        return torch.minimum(quantile, scores.mean() + bound * scores.std())

    def _scores(self, features: Tensor) -> Tensor:
        """Log-likelihood under each task, up to one constant: (B, D) → (B, T)."""
        x = F.normalize(features.double(), dim=-1) @ self._whitener
        columns = []
        for centers in self.centers:
            distance = torch.cdist(x, centers @ self._whitener).square()
            columns.append((-distance / 2).logsumexp(dim=1) - torch.tensor(float(len(centers))).log())
        return torch.stack(columns, dim=1)

    def probabilities(self, features: Tensor | None, count: int, truth: int | None) -> Tensor:
        """p(t|x) (B, T + 1): zero-shot where the best task's own threshold is not reached."""
        assert features is not None
        if not self.tasks:
            return torch.ones(count, 1)
        scores = self._scores(features)
        p = torch.softmax(self._temperature * scores, dim=1)
        best = scores.argmax(dim=1)
        unseen = scores.gather(1, best[:, None]).squeeze(1) < self._thresholds[best]
        p = torch.cat([p, torch.zeros(len(p), 1, dtype=p.dtype)], dim=1)
        p[unseen] = F.one_hot(torch.tensor(p.shape[1] - 1), p.shape[1]).to(p.dtype)
        return p.float()

    def state(self) -> dict[str, Tensor]:
        """Centers, scatter, count and held-out embeddings per task; the rest follows from them."""
        tensors = {}
        for index in range(len(self.tasks)):
            tensors[f"{index}.centers"] = self.centers[index]
            tensors[f"{index}.scatter"] = self.scatters[index]
            tensors[f"{index}.count"] = torch.tensor(self.counts[index])
            tensors[f"{index}.held_out"] = self.held_out[index]
        return tensors

    def load_state(self, tasks: list[TaskInfo], tensors: dict[str, Tensor]) -> None:
        """Restore the tasks and calibrate."""
        self.tasks = list(tasks)
        every = range(len(tasks))
        self.centers = [tensors[f"{index}.centers"] for index in every]
        self.scatters = [tensors[f"{index}.scatter"] for index in every]
        self.counts = [int(tensors[f"{index}.count"]) for index in every]
        self.held_out = [tensors[f"{index}.held_out"] for index in every]
        if tasks:
            self._calibrate()


def shrunk(scatter: Tensor, count: int) -> Tensor:
    """Oracle-approximating shrinkage (OAS) of a covariance toward a multiple of the identity.

    Chen et al. 2010, "Shrinkage algorithms for MMSE covariance estimation", eq. 23; from the scatter matrix alone, so
    that no embedding of an old task is needed.

    Args:
        scatter: Σ (x − μ)(x − μ)ᵀ, (D, D).
        count: number of samples in it.
    """
    size = len(scatter)
    covariance = scatter / count
    mean = covariance.diagonal().mean()
    alpha = covariance.square().mean()
    denominator = (count + 1) * (alpha - mean**2 / size)
    weight = 1.0 if denominator <= 0 else min(1.0, float((alpha + mean**2) / denominator))
    return (1 - weight) * covariance + weight * mean * torch.eye(size, dtype=covariance.dtype)
