"""What `results.json` holds, as far as anything reads it: tables and pages rest on what is checked here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from everclip.storage.reading import Schema

Number = Annotated[float, Field(ge=-1e6, le=1e6)]
"""Percent; a change may be negative."""
Figure = Number | None
"""None where it is undefined."""
Count = Annotated[int, Field(ge=0, lt=2**53)]
Interval = Annotated[list[Number], Field(min_length=2, max_length=2)] | None
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Backbone(Schema):
    """The model, by name and content."""

    name: str
    digest: str
    former_digests: list[str] = Field(default_factory=list)


class Protocol(Schema):
    """What a comparison needs of the protocol; all of it is shown."""

    model_config = Schema.model_config | {"extra": "allow"}

    candidates: str
    selector: str | None = None
    stream: str
    backbone: str
    tasks: list[str]
    seed: Seed
    order_seed: Seed | None = None
    shots_seed: Seed | None = None
    init_seed: Seed | None = None


class Trained(Schema):
    """How many numbers were trained."""

    per_task: list[Count]
    total: Count


class Dataset(Schema):
    """A task's data."""

    name: str
    classes: Annotated[int, Field(ge=1, lt=2**53)]
    train: Count
    validation: Count
    test: Count
    skipped: Count
    chance: Number


class Headline(Schema):
    """The figures at the top."""

    transfer: Figure
    average: Figure
    last: Figure


class Measured(Headline):
    """The same with intervals."""

    ci95: Intervals

    @model_validator(mode="after")
    def _an_interval_per_figure(self) -> Measured:
        for name in Headline.model_fields:
            if (getattr(self, name) is None) != (getattr(self.ci95, name) is None):
                raise ValueError(f"'{name}' and its interval are not both there")
        return self


class Intervals(Schema):
    """Of 95 %."""

    transfer: Interval
    average: Interval
    last: Interval


class AboveChance(Measured):
    """Figures over the data sets of which the untouched model knows something."""

    datasets: list[str]


class OfDataset(Headline):
    """Figures of one data set."""

    forgetting: Figure
    zero_shot: Figure


class Incremental(Schema):
    """Over the images of all tasks learned so far."""

    steps: list[Figure]
    average: Figure
    last: Figure


class Figures(Measured):
    """All figures of one candidate set of K data sets."""

    forgetting: Figure
    backward_transfer: Figure
    per_dataset: dict[str, OfDataset]
    above_chance: AboveChance
    zero_shot: list[Figure]
    matrix: list[list[Figure]]
    incremental: Incremental
    by_name: Headline

    def fits(self, names: list[str]) -> bool:
        """Whether the figures are of these data sets."""
        count = len(names)
        rows = [self.zero_shot, self.incremental.steps, *self.matrix]
        return len(self.matrix) == count and all(len(row) == count for row in rows) and list(self.per_dataset) == names


class Routing(Schema):
    """Where images went: per learned task, per data set, a count per column."""

    columns: list[str]
    after: list[list[list[Count]] | None]

    def fits(self, count: int) -> bool:
        """Whether the counts are of so many data sets, and at least one row was judged."""
        judged = [row for row in self.after if row is not None]
        widths = [len(counts) for row in judged for counts in row]
        shape = all(len(row) == count for row in judged) and all(width == count + 1 for width in widths)
        return bool(judged) and len(self.after) == count and len(self.columns) == count + 1 and shape


class Results(Schema):
    """The content of `results.json`."""

    everclip: str
    method: str
    backbone: Backbone
    stream: str
    scenario: str
    protocol: Protocol
    training: dict[str, Any]
    settings: dict[str, Any]
    trained_parameters: Trained
    datasets: list[Dataset] = Field(min_length=1)
    by_candidates: dict[str, Figures]
    routing: Routing | None
    upper_bound: bool

    @model_validator(mode="after")
    def _figures_of_these_data(self) -> Results:
        names = [dataset.name for dataset in self.datasets]
        if self.protocol.candidates not in self.by_candidates:
            raise ValueError("there are no figures for the protocol's candidates")
        for candidates, figures in self.by_candidates.items():
            if not figures.fits(names):
                raise ValueError(f"the figures of the candidates '{candidates[:40]}' are not those of the data sets")
        if self.routing is not None and not self.routing.fits(len(names)):
            raise ValueError("the routing is not that of the data sets")
        return self
