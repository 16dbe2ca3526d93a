"""Ridge regression from embeddings to classes: RanPAC and RAIL, by random features or by a kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from everclip.data.identities import hashed_rows
from everclip.errors import InputError
from everclip.functional.analytic import Factor, gated, leave_one_out, random_projection, rbf_kernel, sample_rows
from everclip.methods.analytic import Analytic, AnalyticConfig, Fit, sample_wanted, statistics_wanted
from everclip.storage.tensors import Wanted
from everclip.streams.stream import TaskInfo

DUAL_LIMIT = 30_000
"""Images the kernel form can hold: its matrix of 8·N² bytes takes 7.2 GB there."""


RIDGE_WANTED = Wanted(torch.float64, (), low=0)

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class RidgeConfig(AnalyticConfig):
    """Settings of ridge regression."""

    ridge: Literal["search"] | Positive = Field(
        "search", description="λ, or search: the decade that answers best on calibration images left out"
    )


class Ridge(Analytic):
    """Base: λ is given, or found by a search over decades."""

    Config = RidgeConfig
    config: RidgeConfig
    decades: ClassVar[tuple[float, ...]]
    """λ tried; the first where no image can be left out."""

    def factors(self, matrix: Tensor) -> Iterator[tuple[float, Factor]]:
        """λ and the factor of matrix + λI, for every λ to try.

        Raises:
            InputError: a λ too small for float64.
        """
        for ridge in self.decades if self.config.ridge == "search" else (self.config.ridge,):
            try:
                yield ridge, Factor(matrix, ridge)
            except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # public, but not in its __all__
                raise InputError(f"ridge={ridge:g} is too small to solve for these images; raise it.") from error


class RandomFeaturesConfig(RidgeConfig):
    """Settings of ridge regression on random features."""

    random_features: int = Field(2048, ge=1, le=100_000, description="M, the width of φ(e) = ReLU(e · W_rand)")
    projection_seed: int = Field(0, ge=0, lt=2**63, description="seed of W_rand, the same for all tasks")


class RandomFeatures(Ridge):
    """Ridge regression on φ(e) = ReLU(e · W_rand): W = (G + λI)⁻¹ Q.

    A task keeps G_t (4·M·(M + 1) bytes, 16.8 MB for M = 2048) and Q_t (8·M·C bytes), whatever the number of images, and
    the calibration sample (4·D bytes per image). G_t is kept for each task because only then is forgetting exact; it
    holds no single embedding.
    """

    Config = RandomFeaturesConfig
    config: RandomFeaturesConfig
    decades = (1.0, 0.1, 10.0, 100.0, 1000.0)

    @cached_property
    def _projection(self) -> Tensor:
        return random_projection(self.backbone.embed_dim, self.config.random_features, self.config.projection_seed)

    @property
    def width(self) -> int:
        """M."""
        return self.config.random_features

    def memory_wanted(self, classes: int) -> dict[str, Wanted]:
        """G_t, Q_t and the sample."""
        return {**sample_wanted(classes), **statistics_wanted(classes, self.width)}

    def solution_wanted(self) -> dict[str, Wanted]:
        """With the λ that was found."""
        return {**super().solution_wanted(), "ridge": RIDGE_WANTED}

    def mapped(self, x: Tensor) -> Tensor:
        """φ(x): (B, D) → (B, M)."""
        return torch.relu_(x.double() @ self._projection)

    def fits(self, columns: list[Tensor], counts: Tensor, rows: Tensor, labels: Tensor) -> Iterator[Fit]:
        """One solution per λ."""
        targets = self.joint_sums(columns).T
        mapped = self.mapped(rows)
        one_hot = F.one_hot(labels, len(counts)).double()
        for ridge, factor in self.factors(self.joint_gram()):
            weights = factor.solve(targets)
            left_out = leave_one_out(mapped @ weights, factor.quadratic(mapped), one_hot)
            yield {"weights": weights, "ridge": torch.tensor(ridge, dtype=torch.float64)}, left_out

    def scores(self, x: Tensor) -> Tensor:
        """φ(x) W."""
        return self.mapped(x) @ self.solution["weights"]


class RanPACConfig(RandomFeaturesConfig):
    """Settings of RanPAC."""

    fusion: Literal["calibrated", "alone"] = Field(
        "alone", description="among learned classes: the regression alone, as published, or mixed with zero-shot"
    )


class RanPAC(RandomFeatures):
    """RanPAC's second stage: random features and ridge regression; zero-shot answers only for unlearned classes."""

    name = "ranpac"
    summary = "ridge regression on random features of frozen embeddings; zero-shot for classes not learned"
    paper = "McDonnell et al., NeurIPS 2023, arXiv 2307.02251"
    Config = RanPACConfig


class PublishedFusionConfig(AnalyticConfig):
    """How RAIL answers."""

    fusion: Literal["calibrated", "alone", "published"] = Field(  # type: ignore[assignment]  # one more than Analytic's
        "calibrated",
        description="among learned classes: a calibrated mixture with zero-shot, the regression alone, or RAIL's rule",
    )
    beta: float = Field(0.8, ge=0, le=1, description="weight β of the regression under fusion=published")


class PublishedFusion(Analytic):
    """Adds RAIL's own rule to the ways of fusion."""

    config: PublishedFusionConfig

    def fused(self, zero_shot: Tensor, learned: Sequence[int], said: Tensor, original: Tensor) -> Tensor:
        """p(c|x), or under `fusion: published` what the paper takes the largest of: its p̂ is no probability."""
        if self.config.fusion == "published":
            return gated(zero_shot, learned, said, self.config.beta)
        return super().fused(zero_shot, learned, said, original)


class RAILConfig(PublishedFusionConfig, RandomFeaturesConfig):
    """Settings of RAIL, primal form."""


class RAIL(PublishedFusion, RandomFeatures):
    """RAIL, primal form: regression on random features, fused with zero-shot."""

    name = "rail"
    summary = "ridge regression on random features of frozen embeddings, fused with zero-shot"
    paper = "Xu et al., NeurIPS 2024, arXiv 2406.18868"
    Config = RAILConfig
    config: RAILConfig


class DualRAILConfig(PublishedFusionConfig, RidgeConfig):
    """Settings of RAIL, dual form."""

    ridge: Literal["search"] | Positive = Field(
        1e-3, description="λ, or search: the decade that answers best on calibration images left out"
    )
    gamma: Positive = Field(0.1, description="γ of the kernel exp(−γ ‖a − b‖²) on unit embeddings")


class DualRAIL(PublishedFusion, Ridge):
    """RAIL, dual form: kernel regression on all training embeddings, α = (K + λI)⁻¹ Y. For few images.

    A task keeps its training embeddings (4·D bytes per image). Solving takes 8·N² bytes and N³/3 multiply-adds for the
    N images of all tasks together.
    """

    name = "rail-dual"
    summary = "kernel ridge regression on frozen embeddings, fused with zero-shot; exact, for up to 30,000 images"
    paper = "Xu et al., NeurIPS 2024, arXiv 2406.18868"
    Config = DualRAILConfig
    config: DualRAILConfig
    decades = (1e-3, 1e-5, 1e-4, 1e-2, 1e-1)

    def check_stream(self, tasks: Sequence[TaskInfo], images: Sequence[int]) -> None:
        """The kernel matrix must have room for all images."""
        super().check_stream(tasks, images)
        self._check_room(sum(images))

    def _check_room(self, images: int) -> None:
        if images > DUAL_LIMIT:
            raise InputError(
                f"rail-dual has {images:,} images and can hold {DUAL_LIMIT:,}; use method rail or fewer images."
            )

    def add(self, x: Tensor, labels: Tensor, identities: Tensor) -> None:
        """Keep the embeddings themselves."""
        memory = self.memory[-1]
        counts = torch.bincount(labels, minlength=len(self.tasks[-1].class_names))
        memory |= self._with({"rows": x, "labels": labels, "identities": identities})
        memory["counts"] = memory["counts"] + counts if "counts" in memory else counts

    def memory_wanted(self, classes: int) -> dict[str, Wanted]:
        """All embeddings."""
        return sample_wanted(classes)

    def solution_wanted(self) -> dict[str, Wanted]:
        """A row per image that was learned from, and the λ that was found."""
        return {**super().solution_wanted(), "weights": Wanted(torch.float64, ("N", "L")), "ridge": RIDGE_WANTED}

    def calibration(self, task: dict[str, Tensor]) -> Tensor:
        """A sample of the task's images."""
        identities = task.get("identities")
        if identities is None:  # learned by EverCLIP 0.1
            identities = torch.from_numpy(hashed_rows(task["rows"].numpy()))
        return sample_rows(identities, task["labels"], self.config.calibration)

    def fits(self, columns: list[Tensor], counts: Tensor, rows: Tensor, labels: Tensor) -> Iterator[Fit]:
        """One solution per λ.

        Raises:
            InputError: more images than the kernel matrix has room for.
        """
        x = self._inducing()
        self._check_room(len(x))
        places = torch.cat([own[task["labels"]] for own, task in zip(columns, self.memory, strict=True)])
        targets = F.one_hot(places, len(counts)).double()
        kernel = rbf_kernel(rows.double(), x, self.config.gamma)
        one_hot = F.one_hot(labels, len(counts)).double()
        for ridge, factor in self.factors(rbf_kernel(x, x, self.config.gamma)):
            weights = factor.solve(targets)
            # K − K (K + λI)⁻¹ K = λ H: the leverage of an image from its own row of the kernel
            leverage = (1 - factor.quadratic(kernel)) / ridge
            left_out = leave_one_out(kernel @ weights, leverage, one_hot)
            yield {"weights": weights, "ridge": torch.tensor(ridge, dtype=torch.float64)}, left_out

    def scores(self, x: Tensor) -> Tensor:
        """k(x, X) α."""
        weights = self.solution["weights"]
        return rbf_kernel(x.double(), self._inducing()[: len(weights)], self.config.gamma) @ weights

    def _inducing(self) -> Tensor:
        """The embeddings of all tasks (N, D), float64."""
        return torch.cat([task["rows"] for task in self.memory]).double()
