"""What selectors that score tasks share: calibration on held-out training images, storing, dropping a task.

A selector of this kind says how well an image fits each learned task and, if there are any, the reference images. All
of them turn scores into p(t|x) in the same way: a softmax at the temperature that fits held-out images best, in which
the share of the reference goes to the original CLIP. An image that fits even its best task worse than 99 % of that
task's held-out images goes to the original CLIP alone. Test data is never looked at.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from everclip.functional.ties import FINE_TIE, first_largest
from everclip.selectors.selector import Selector, SelectorConfig
from everclip.storage.reading import shown
from everclip.storage.tensors import MisfitError, Wanted, require
from everclip.streams.stream import TaskInfo

POWERS = torch.logspace(-3, 3, 61, dtype=torch.float64)
"""Inverse temperatures tried. Scores such as likelihoods assume independent dimensions and are overconfident."""
PERFECT = 1e-9
"""A cross-entropy below this is none: what is left of it is rounding."""
CHUNK = 256
"""Images scored at a time: features wider than the CLIP's would not fit in memory all at once."""
REFERENCE_HELD_OUT = 10
"""One reference image in so many is held out to calibrate."""


class ScoredConfig(SelectorConfig):
    """Settings of the calibration."""

    false_rejection: float = Field(
        0.01, gt=0, lt=1, description="share of a task's own images that may be sent to the original CLIP"
    )
    held_out_limit: int = Field(500, ge=1, description="held-out embeddings kept per task for calibration")


class ScoredSelector(Selector):
    """Base of selectors that implement `describe` and `describe_reference` (images as tensors) and `scores`.

    Attributes:
        learned: what `describe` kept of each task.
        reference: what `describe_reference` kept of the reference images, where there are any.
    """

    Config = ScoredConfig
    config: ScoredConfig
    kept: torch.dtype = torch.float32
    """Type of the held-out features."""
    calibrated: bool = True
    """False: `probabilities` is the subclass's own and uses no held-out images, so none are kept."""

    def __init__(self, config: ScoredConfig) -> None:
        super().__init__(config)
        self.learned: list[dict[str, Tensor]] = []
        self.reference: dict[str, Tensor] | None = None
        self._power = 1.0
        self._thresholds = torch.empty(0)

    @property
    def columns(self) -> list[dict[str, Tensor]]:
        """What `scores` has a column for: the learned tasks in order, then the reference, where there is one."""
        return self.learned if self.reference is None else [*self.learned, self.reference]

    def describe(self, task: TaskInfo, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """What is kept of a task, from its training features (N, D) and labels (N,)."""
        raise NotImplementedError

    def describe_reference(self, features: Tensor) -> dict[str, Tensor]:
        """What is kept of the reference images, from their features (N, D)."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Compute what all columns share; called whenever `columns` has changed and a task is learned."""

    def scores(self, features: Tensor) -> Tensor:
        """How well images fit each of the C `columns`: float32 features (B, D) → (B, C), float64, larger is better."""
        raise NotImplementedError

    def refer(self, features: Tensor) -> None:
        """Describe the reference images, but for those held out."""
        assert not self.tasks, "the reference comes before the first task"
        held_out = torch.zeros(len(features), dtype=torch.bool)
        if self.calibrated and len(features) >= REFERENCE_HELD_OUT:
            held_out[::REFERENCE_HELD_OUT] = True
        self.reference = self.describe_reference(features[~held_out])
        if self.calibrated:
            self.reference["held_out"] = self._kept(features[held_out] if held_out.any() else features)

    def fit(self, task: TaskInfo, features: Tensor | None, labels: Tensor | None, held_out: Tensor | None) -> None:
        """Describe the task, then calibrate all tasks anew: what they share may have changed."""
        assert features is not None
        assert labels is not None
        super().fit(task, features, labels, held_out)
        described = self.describe(task, features, labels)
        if self.calibrated:
            # Without held-out images the training images have to do; they fit better than new ones will.
            described["held_out"] = self._kept(features if held_out is None else held_out)
        self.learned.append(described)
        self._calibrate()

    def _kept(self, held_out: Tensor) -> Tensor:
        return held_out[:: max(1, -(-len(held_out) // self.config.held_out_limit))].clone()

    def drop(self, index: int) -> None:
        """Forget the task in column `index` and calibrate the others."""
        super().drop(index)
        del self.learned[index]
        self._calibrate()

    def _calibrate(self) -> None:
        if not self.learned:
            return
        self.prepare()
        if not self.calibrated:
            return
        parts = [self._scores(column["held_out"]) for column in self.columns]
        truth = torch.cat([torch.full((len(part),), column) for column, part in enumerate(parts)])
        together = torch.cat(parts)
        losses = torch.stack([F.cross_entropy(power * together, truth) for power in POWERS])
        self._power = float(POWERS[first_largest(-losses.clamp(min=PERFECT), FINE_TIE)])  # of equals the mildest
        own = [part[:, column] for column, part in enumerate(parts[: len(self.learned)])]
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
        from scipy.special import stdtrit  # scipy loads slowly: only where a selector is calibrated

        bound = float(stdtrit(count - 1, self.config.false_rejection)) * (1 + 1 / count) ** 0.5
        return torch.minimum(quantile, scores.mean() + bound * scores.std())

    def _scores(self, features: Tensor) -> Tensor:
        """`scores` of any number of images, in chunks: features (N, D) of any precision → (N, C), float64."""
        if torch.compiler.is_exporting():  # how many chunks there will be is not known
            return self.scores(features.float())
        return torch.cat([self.scores(chunk.float()) for chunk in features.split(CHUNK)])

    def probabilities(self, features: Tensor | None, count: int, truth: int | None) -> Tensor:
        """p(t|x) (count, T + 1): zero-shot alone where the best task's threshold is not reached."""
        assert features is not None
        if not self.tasks:
            return torch.ones(count, 1)
        scores = self._scores(features)
        learned = scores[:, : len(self.tasks)]
        unseen = learned.amax(dim=1) < self._thresholds[first_largest(learned, FINE_TIE)]
        p = torch.softmax(self._power * scores, dim=1)
        p = p if self.reference is not None else F.pad(p, (0, 1))
        original = F.one_hot(torch.tensor(p.shape[1] - 1), p.shape[1]).to(p.dtype)
        return torch.where(unseen[:, None], original, p).float()

    def state(self) -> dict[str, Tensor]:
        """The description of every task and of the reference; the calibration follows from them."""
        parts = {str(index): task for index, task in enumerate(self.learned)}
        parts |= {"reference": self.reference} if self.reference is not None else {}
        return {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}

    def column_wanted(self) -> dict[str, Wanted] | None:
        """What `describe` keeps, as tensors of a file must be, without `held_out`; None where nobody says.

        Sizes: D of a feature, and names of the selector's own.
        """
        return None

    def check_state(self, tasks: list[TaskInfo], tensors: dict[str, Tensor], width: int | None) -> None:
        """A description of each task, perhaps one of the reference, and nothing else; all of one width.

        Raises:
            MisfitError: a tensor is missing or not what it must be.
        """
        super().check_state(tasks, tensors, width)
        wanted = self.column_wanted()
        if wanted is None:
            return
        if self.calibrated:
            wanted = {**wanted, "held_out": Wanted(self.kept, ("held", "D"))}
        columns = [*map(str, range(len(tasks))), "reference"]
        found: dict[str, dict[str, Tensor]] = {column: {} for column in columns}
        for name, tensor in tensors.items():
            column, _, own = name.partition(".")
            if column not in found:
                raise MisfitError("selector", f"there is no place for tensor {shown(name)}")
            found[column][own] = tensor
        sizes = {} if width is None else {"D": width}
        for column in columns:
            if column == "reference" and not found[column]:
                continue
            here = require("selector", found[column], wanted, sizes)
            if not all(here.values()):
                raise MisfitError("selector", f"what it keeps of {shown(column)} is empty")
            sizes = {"D": here["D"]}

    def load_state(self, tasks: list[TaskInfo], tensors: dict[str, Tensor]) -> None:
        """Restore the tasks and the reference, and calibrate."""
        parts: dict[str, dict[str, Tensor]] = {}
        for full_name, value in tensors.items():
            part, name = full_name.split(".", 1)
            parts.setdefault(part, {})[name] = value
        self.tasks = list(tasks)
        self.learned = [parts[str(index)] for index in range(len(tasks))]
        self.reference = parts.get("reference")
        self._calibrate()
