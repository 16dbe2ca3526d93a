"""What selectors that score tasks share: calibration on held-out training images, storing, dropping a task.

A selector of this kind says how well an image fits each learned task. Turning scores into p(t|x) is the same for all:
a softmax at the temperature that fits held-out training images best, and the original CLIP for an image that fits even
its best task worse than 99 % of that task's held-out images did. Test data is never looked at.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from scipy.stats import t as student_t
from torch import Tensor

from everclip.selectors.selector import Selector, SelectorConfig
from everclip.streams.stream import TaskInfo

POWERS = torch.logspace(-3, 3, 61, dtype=torch.float64)
"""Inverse temperatures tried. Scores such as likelihoods assume independent dimensions and are overconfident."""


class ScoredConfig(SelectorConfig):
    """Settings of the calibration."""

    false_rejection: float = Field(
        0.01, gt=0, lt=1, description="share of a task's own images that may be sent to the original CLIP"
    )
    held_out_limit: int = Field(500, ge=1, description="held-out embeddings kept per task for calibration")


class ScoredSelector(Selector):
    """Base of selectors that implement `describe` (a task as tensors) and `scores` (how well images fit each task)."""

    Config = ScoredConfig

    def __init__(self, config: ScoredConfig) -> None:
        super().__init__(config)
        self.learned: list[dict[str, Tensor]] = []
        self._power = 1.0
        self._thresholds = torch.empty(0)

    def describe(self, task: TaskInfo, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """What is kept of a task, from its training features (N, D) and labels (N,)."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Compute what all tasks share; called whenever `learned` has changed."""

    def scores(self, features: Tensor) -> Tensor:
        """How well images fit each learned task: features (B, D) → (B, T), float64, larger is better."""
        raise NotImplementedError

    def fit(self, task: TaskInfo, features: Tensor | None, labels: Tensor | None, held_out: Tensor | None) -> None:
        """Describe the task, then calibrate all tasks anew: what they share may have changed."""
        assert features is not None
        assert labels is not None
        super().fit(task, features, labels, held_out)
        # Without held-out images the training images have to do; they fit better than new ones will.
        kept = features if held_out is None else held_out
        kept = kept[:: max(1, -(-len(kept) // self.config.held_out_limit))]
        self.learned.append({**self.describe(task, features, labels), "held_out": kept.clone()})
        self._calibrate()

    def drop(self, index: int) -> None:
        """Forget the task in column `index` and calibrate the others."""
        super().drop(index)
        del self.learned[index]
        self._calibrate()

    def _calibrate(self) -> None:
        if not self.learned:
            return
        self.prepare()
        parts = [self.scores(task["held_out"]) for task in self.learned]
        truth = torch.cat([torch.full((len(part),), column) for column, part in enumerate(parts)])
        together = torch.cat(parts)
        losses = torch.stack([F.cross_entropy(power * together, truth) for power in POWERS])
        self._power = float(POWERS[losses.argmin()])
        own = [part[:, column] for column, part in enumerate(parts)]
        # Scores of all tasks spread alike: a task with few held-out images leans on the others', and the more lenient
        # threshold counts.
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

    def probabilities(self, features: Tensor | None, count: int, truth: int | None) -> Tensor:
        """p(t|x) (count, T + 1): zero-shot alone where the best task's threshold is not reached."""
        assert features is not None
        if not self.tasks:
            return torch.ones(count, 1)
        scores = self.scores(features)
        best, column = scores.max(dim=1)
        unseen = best < self._thresholds[column]
        p = F.pad(torch.softmax(self._power * scores, dim=1), (0, 1))
        p[unseen] = F.one_hot(torch.tensor(p.shape[1] - 1), p.shape[1]).to(p.dtype)
        return p.float()

    def state(self) -> dict[str, Tensor]:
        """The description of every task; the calibration follows from them."""
        return {f"{index}.{name}": value for index, task in enumerate(self.learned) for name, value in task.items()}

    def load_state(self, tasks: list[TaskInfo], tensors: dict[str, Tensor]) -> None:
        """Restore the tasks and calibrate."""
        self.tasks = list(tasks)
        self.learned = [{} for _ in tasks]
        for full_name, value in tensors.items():
            index, name = full_name.split(".", 1)
            self.learned[int(index)][name] = value
        self._calibrate()
