"""The protocol: everything that makes two figures comparable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

OwnSeed = Annotated[int, Field(ge=0, lt=2**63)] | None

CANDIDATES = ("task", "seen", "all")
"""Candidate sets, from easiest to hardest; see `Protocol.candidates`."""


class Protocol(BaseModel):
    """Everything that makes two figures comparable, printed on every result."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    candidates: Literal["task", "seen", "all"] = Field(
        "task",
        description="classes an image is scored against: the tested set's own (task), those of all tasks learned so "
        "far and its own (seen), every class of the stream (all)",
    )
    routing: Literal["sample", "batch"] = Field(
        "sample", description="the selector decides image by image, or lets batches of 128 images of one set vote"
    )
    selector: str = Field("gaussian", description="what decides which task an image belongs to")
    shots: int | None = Field(None, ge=1, description="training images per class; all when empty")
    seed: int = Field(
        0, ge=0, lt=2**63, description="seed of splits, few-shot draws, batches, augmentation and initialization"
    )
    order_seed: OwnSeed = Field(
        None, description="seed of the order of classes where a stream shuffles them (cil:DIR:STEPS); seed when empty"
    )
    shots_seed: OwnSeed = Field(None, description="seed of few-shot draws; seed when empty")
    init_seed: OwnSeed = Field(None, description="seed of initialization; seed when empty")
    validation: float = Field(
        0.1, ge=0, lt=1, description="share of the training images of each class that is held out from training"
    )
    evaluate_on: Literal["test", "validation"] = Field(
        "test", description="images the accuracy is measured on; tune on validation, report on test"
    )
    templates: Literal["ensemble", "first"] = Field(
        "ensemble", description="evaluation prompts: mean over all templates of a task, or its first one only"
    )
    splits: Literal["torchvision", "coop"] | None = Field(
        None,
        description="published data sets as torchvision splits them (the default), or as the files of CoOp do; empty "
        "for other streams",
    )
    resolution: int | None = Field(
        None,
        ge=1,
        description="reduce all images to this short side first: a control of how much of the routing is resolution",
    )

    def seed_of(self, what: Literal["order", "shots", "init"]) -> int:
        """The seed of a draw that may have one of its own."""
        own: int | None = getattr(self, f"{what}_seed")
        return self.seed if own is None else own

    def recorded(self) -> dict[str, Any]:
        """All fields, as a result states them: a seed of its own only where there is one."""
        return {n: value for n, value in self.model_dump().items() if n not in SEEDS or value is not None}

    @property
    def stated(self) -> dict[str, Any]:
        """The fields that were given when it was made."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}


SEEDS = ("seed", "order_seed", "shots_seed", "init_seed")
"""Fields of the protocol in which two runs of one experiment may differ."""


def named_seeds(values: Mapping[str, Any]) -> int | str:
    """What tells two runs of one experiment apart: `seed`, and where other seeds depart from it these: `0+order3`."""
    own = [name for name in SEEDS[1:] if values.get(name) not in (None, values["seed"])]
    parts = [f"{name.removesuffix('_seed')}{values[name]}" for name in own]
    return "+".join([str(values["seed"]), *parts]) if parts else int(values["seed"])


HOW_CUT = (
    "seed",
    "order_seed",
    "shots_seed",
    "shots",
    "validation",
    "evaluate_on",
    "templates",
    "splits",
    "resolution",
)
"""Fields of the protocol that decide what the tasks of a stream hold; the others say how a learner is judged."""
