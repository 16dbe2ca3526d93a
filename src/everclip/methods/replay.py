"""What stands for the classes of earlier tasks while a new one is learned: Gaussians, exemplars, or nothing.

All draw from torch's global generators, which the trainer seeds at every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.backbone.features import FrozenImages
from everclip.errors import InputError
from everclip.functional.analytic import (
    Statistics,
    joint_gram,
    joint_rows,
    pack_symmetric,
    scatter_around,
    shrunk,
)
from everclip.functional.herding import herd, quota
from everclip.methods.analytic import statistics_wanted
from everclip.storage.tensors import Wanted

READ = 4096
"""Embeddings that are read at a time."""
JITTER = 1e-12
"""Added to the covariance of unit vectors, so that one image per class (no covariance at all) has a root too."""


class Replay:
    """Nothing is kept and nothing is replayed; the base of the kinds of replay below.

    Attributes:
        classes: joint columns that can be drawn (C,): the classes of the tasks that were finished at `begin`.
    """

    def __init__(self) -> None:
        self.classes = torch.empty(0, dtype=torch.int64)

    def check(self, classes: int) -> None:
        """Refuse to stand for so many classes.

        Raises:
            InputError: there are more than it has room for.
        """

    def begin(self, columns: Sequence[Tensor], seen: int) -> None:
        """Get ready to draw while a task is learned.

        Args:
            columns: per finished task, the joint column of each of its classes.
            seen: how many classes there are with those of the task that begins.
        """

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Features (count, …) and joint columns (count,) of classes drawn uniformly, on the CPU."""
        raise NotImplementedError("nothing is kept to draw from")

    def remember(self, images: FrozenImages, columns: Tensor) -> None:
        """Keep something of the task that was just learned.

        Args:
            images: its training images.
            columns: joint column of each of its classes (C,).
        """

    def sealed(self, index: int) -> dict[str, Tensor]:
        """What task `index` left for good."""
        return {}

    def working(self) -> dict[str, Tensor]:
        """What later tasks change."""
        return {}

    def sealed_wanted(self, classes: int, width: int) -> dict[str, Wanted]:
        """What `sealed` of a task of so many classes must be, as tensors of a file; D is `width`."""
        return {}

    def working_wanted(self, shape: Sequence[int], classes: int) -> dict[str, Wanted]:
        """The same of `working`, of so many classes of all tasks; `shape` is that of one stored feature."""
        return {}

    def load(self, sealed: list[dict[str, Tensor]], working: dict[str, Tensor]) -> None:
        """Restore from `sealed` of each finished task and `working`."""


class GaussianReplay(Replay):
    """A Gaussian per class, N(μ_c, Σ): class means and one covariance pooled over classes and shrunk (OAS).

    These are statistics of normalized embeddings, and they add up: new images of a known class join those that came
        before. A task of C classes keeps 8·C·D + 4·D·(D + 1) bytes; no image and no embedding is kept.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[dict[str, Tensor]] = []
        self._means, self._root = torch.empty(0), torch.empty(0)

    def begin(self, columns: Sequence[Tensor], seen: int) -> None:
        """Join the statistics of the finished tasks."""
        if not columns:
            return
        sums, counts = (joint_rows(columns, [task[name] for task in self.tasks]) for name in ("sums", "counts"))
        means = sums / counts.clamp(min=1)[:, None]
        scatter = scatter_around(means, counts, joint_gram([task["gram"] for task in self.tasks]))
        covariance = shrunk(scatter, int(counts.sum()))
        covariance.diagonal().add_(JITTER)
        self._means, self._root = means.float(), torch.linalg.cholesky(covariance).float()
        self.classes = counts.nonzero().flatten()  # a class none of whose images could be read has no mean

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Embeddings (count, D)."""
        columns = self.classes[torch.randint(len(self.classes), (count,))]
        return self._means[columns] + torch.randn(count, self._means.shape[1]) @ self._root.T, columns

    def remember(self, images: FrozenImages, columns: Tensor) -> None:
        """Class sums, counts and second moments."""
        statistics = Statistics.empty(len(columns), images.features.shape[-1])
        labels = torch.from_numpy(images.labels)
        for rows in torch.arange(len(images)).split(READ):
            statistics.add_(F.normalize(images.embeddings(rows.numpy()), dim=-1).double(), labels[rows])
        gram = pack_symmetric(statistics.gram)
        self.tasks.append({"sums": statistics.sums, "counts": statistics.counts, "gram": gram})

    def sealed(self, index: int) -> dict[str, Tensor]:
        """The statistics of task `index`."""
        return self.tasks[index]

    def sealed_wanted(self, classes: int, width: int) -> dict[str, Wanted]:
        """Class sums, counts and second moments."""
        return statistics_wanted(classes, width)

    def load(self, sealed: list[dict[str, Tensor]], working: dict[str, Tensor]) -> None:
        """Restore the statistics."""
        self.tasks = list(sealed)


class ExemplarReplay(Replay):
    """A fixed number of real examples for all classes together, the same for each, chosen by herding.

    When new classes arrive, each older class keeps only its first exemplars; that is why these are working state. For a
    class that comes again, exemplars are chosen anew among the kept ones and the new images.

    Args:
        budget: examples in total.
    """

    def __init__(self, budget: int) -> None:
        super().__init__()
        self.budget = budget
        self.features = torch.empty(0)
        self.columns = torch.empty(0, dtype=torch.int64)  # sorted; within a class in the order of herding
        self._counts = torch.empty(0, dtype=torch.int64)

    def check(self, classes: int) -> None:
        """Every class needs an exemplar."""
        if quota(self.budget, classes) == 0:
            raise InputError(f"exemplars={self.budget} are too few for {classes} classes; allow {classes} or more.")

    def begin(self, columns: Sequence[Tensor], seen: int) -> None:
        """Count the exemplars of each class.

        Raises:
            InputError: there are more classes than exemplars.
        """
        self.check(seen)
        self._counts = torch.bincount(self.columns)
        self.classes = self._counts.nonzero().flatten()

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Stored features (count, D) or (count, T, D)."""
        columns = self.classes[torch.randint(len(self.classes), (count,))]
        within = (torch.rand(count) * self._counts[columns]).long()
        return self.features[(self._counts.cumsum(0) - self._counts)[columns] + within], columns

    def remember(self, images: FrozenImages, columns: Tensor) -> None:
        """Share the budget among the classes seen now."""
        seen = 1 + int(torch.cat([self.columns, columns]).max())
        share = quota(self.budget, seen)
        if not len(self.columns):
            self.features = torch.empty(0, *images.features.shape[1:])
        owners = columns[torch.from_numpy(images.labels)]
        chosen = [self._chosen(column, images, (owners == column).nonzero().flatten(), share) for column in range(seen)]
        self.columns = torch.arange(seen).repeat_interleave(torch.tensor([len(own) for own in chosen]))
        self.features = torch.cat(chosen)

    def _chosen(self, column: int, images: FrozenImages, new: Tensor, share: int) -> Tensor:
        """The exemplars of a class: of those it has, and of the images `new`."""
        old = self.features[self.columns == column]
        if not len(new):
            return old[:share]
        before = old if old.dim() == 2 else old[:, 0]
        picked = herd(torch.cat([before, images.embeddings(new.numpy())]), share)
        kept = picked < len(old)
        rows = torch.empty(len(picked), *old.shape[1:])
        rows[kept] = old[picked[kept]]
        rows[~kept] = images[new[picked[~kept] - len(old)].numpy()]
        return rows

    def working(self) -> dict[str, Tensor]:
        """The exemplars and their classes."""
        return {"features": self.features, "columns": self.columns} if len(self.columns) else {}

    def working_wanted(self, shape: Sequence[int], classes: int) -> dict[str, Wanted]:
        """The exemplars and their classes, where there are any."""
        return {
            "features": Wanted(torch.float32, ("n", *shape), optional=True),
            "columns": Wanted(torch.int64, ("n",), low=0, below=classes, optional=True),
        }

    def load(self, sealed: list[dict[str, Tensor]], working: dict[str, Tensor]) -> None:
        """Restore the exemplars."""
        if working:
            self.features, self.columns = working["features"], working["columns"]
