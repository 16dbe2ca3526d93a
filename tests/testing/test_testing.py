"""The checks that other packages use: they pass what is right, and say what is wrong."""

from __future__ import annotations

import os
import re

import pytest
import torch
from torch import Tensor

from everclip.methods import METHODS, Batch, Loss
from everclip.methods.full_model import Finetune
from everclip.methods.ridge import RanPAC
from everclip.selectors.prototype import Prototype
from everclip.streams import TaskInfo
from everclip.testing import LawBroken, check_method, check_selector
from everclip.testing.lessons import Lessons, classroom


def test_a_method_is_checked_without_anything_at_hand() -> None:
    before = os.environ["EVERCLIP_CACHE"]
    kept = check_method(METHODS["rail"], random_features=32)
    assert {"described", "learns", "order_free", "zero_shot_kept", "state_is_complete"} <= set(kept)
    assert "interrupted_within_a_task" not in kept, "it takes no steps"
    assert os.environ["EVERCLIP_CACHE"] == before


def test_a_classroom_leaves_nothing_behind() -> None:
    with classroom() as lessons:
        folder = lessons.folder
        assert folder.is_dir()
        assert [info.name for info in lessons.turned().infos] == ["cloth", "paint"]
    assert not folder.exists()


class Told(Finetune):
    """A method that a test breaks in one way."""

    name, summary = "told", "finetuning that breaks a law"


class Forgetful(Told):
    """Its state lacks half of what it learned."""

    def working_state(self) -> dict[str, Tensor]:
        """Half of it."""
        state = super().working_state()
        return {name: tensor for index, (name, tensor) in enumerate(state.items()) if index % 2}

    def load_state(self, tasks: list[TaskInfo], sealed: list[dict[str, Tensor]], working: dict[str, Tensor]) -> None:
        """The other half stays as it is."""
        super().load_state(tasks, sealed, {**super().working_state(), **working})


class Still(Told):
    """It never learns."""

    def forward(self, batch: Batch) -> Loss:
        """A loss that depends on nothing."""
        loss = super().forward(batch)
        return Loss(loss.total * 0, loss.parts)


class Long(Told):
    """It answers with vectors of another length."""

    def embed(self, pixels: Tensor, route: int) -> Tensor:
        """Twice as long."""
        return 2 * super().embed(pixels, route)


class Drawing(Told):
    """It draws at random what should be the same after a resume."""

    def forward(self, batch: Batch) -> Loss:
        """Noise from a generator of its own."""
        if not hasattr(self, "_own"):
            self._own = torch.Generator().manual_seed(id(self) % 2**31)
        loss = super().forward(batch)
        return Loss(loss.total * (1 + torch.rand((), generator=self._own)), loss.parts)


@pytest.mark.parametrize(
    ("kind", "laws"),
    [
        (Forgetful, "state_is_complete"),
        (Still, "learns"),
        (Long, "embeddings_and_classifiers_are_unit_vectors"),
        (Drawing, "learning_goes_on_from_a_state|interrupted_within_a_task"),
        (type("Mute", (Told,), {"__doc__": None}), "described"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_method_that_breaks_a_law_is_told_which(kind: type[Told], laws: str, lessons: Lessons) -> None:
    with pytest.raises(LawBroken) as broken:
        check_method(kind, lessons)
    assert re.match(rf"method 'told' breaks the law '({laws})': .+\.$", str(broken.value)), broken.value


def test_a_selector_that_breaks_a_law_is_told_which() -> None:
    class Sure(Prototype):
        """It gives everything to the first task."""

        name, summary = "sure", "always the first"

        def probabilities(self, features: Tensor | None, count: int, truth: int | None) -> Tensor:
            """One-hot."""
            p = super().probabilities(features, count, truth)
            return torch.eye(p.shape[1])[torch.zeros(count, dtype=torch.long)]

    assert len(check_selector(Prototype)) == 8
    with pytest.raises(LawBroken, match="selector 'sure' breaks the law 'tells_clear_tasks_apart'"):
        check_selector(Sure)


def test_a_setting_of_a_run_cannot_be_a_method_s_too() -> None:
    from pydantic import Field

    class Config(RanPAC.Config):
        """Takes a name that is in use."""

        batch: int = Field(3, description="taken")

    kind = type("Taken", (RanPAC,), {"name": "taken", "Config": Config, "__doc__": "Takes a name that is in use."})
    with pytest.raises(LawBroken, match="no two sections have a setting 'batch'"):
        check_method(kind)
