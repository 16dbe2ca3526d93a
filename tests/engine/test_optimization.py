"""How a method is trained: schedules, optimizers of the recipe and of a method's own, clipping, parts of a step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from everclip.engine import training
from everclip.engine.recipe import TrainingConfig, lr_at
from everclip.engine.training import Position, Progress, Trainer
from everclip.errors import EverclipError, InputError
from everclip.layers import moe
from everclip.methods import Batch, Loss, Method, Sources
from everclip.methods.descent import Descent
from everclip.methods.full_model import Finetune
from everclip.methods.moe_adapters import MoEAdapters
from everclip.testing.laws import expect_close, expect_same, stored
from everclip.testing.lessons import SEED, Lessons, begin, new_method, recipe, train

PLAIN: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.0, "warmup": 0, "schedule": "constant"}


class Projections(Finetune):
    """Finetuning of the two projections, which keeps what it sees of itself. Small, so quick."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        for name, parameter in self.student.named_parameters():
            parameter.requires_grad_(name in ("model.visual.proj", "model.text_projection"))
        self.seen: list[Batch] = []
        self.gradients: list[dict[str, Tensor]] = []
        self.before: list[dict[str, Tensor]] = []

    def forward(self, batch: Batch) -> Loss:
        self.seen.append(batch)
        return super().forward(batch)

    def after_backward(self) -> None:
        self.before.append({name: p.detach().clone() for name, p in self.weights.items()})

    def after_step(self, step: int) -> None:
        self.gradients.append({name: p.grad.clone() for name, p in self.weights.items() if p.grad is not None})


class InGroups(Projections):
    """The text's projection is trained ten times as fast."""

    def optimizer(self, descent: Descent) -> torch.optim.Optimizer:
        text, image = self.student.model.text_projection, self.student.model.visual.proj
        return descent.optimizer([{"params": [text], "lr": 10 * descent.lr}, {"params": [image], "weight_decay": 0.5}])


class Hesitant(torch.optim.SGD):
    """Gradient descent that shortens its steps by numbers it keeps: of each parameter, and of the group."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["patience"] = group.get("patience", 1.0) * 0.9
            for parameter in group["params"]:
                taken = self.state[parameter].get("taken", 0)
                self.state[parameter] |= {"taken": taken + 1, "even": taken % 2 == 0, "note": None}
                parameter.data -= group["lr"] * group["patience"] / (1 + taken) * parameter.grad


class OfItsOwn(Projections):
    def optimizer(self, descent: Descent) -> torch.optim.Optimizer:
        return Hesitant(self.weights.values(), lr=descent.lr)


class Unfused(Projections):
    """Torch's NAdam counts its steps on the host."""

    def optimizer(self, descent: Descent) -> torch.optim.Optimizer:
        return torch.optim.NAdam(self.weights.values(), lr=descent.lr)


def learned(kind: type[Method], lessons: Lessons, config: TrainingConfig, **options: Any) -> Any:
    method = new_method(kind, lessons)
    begin(method, lessons.training[:1])
    train(method, lessons.training[:1], config, **options)
    return method


# -- the schedule ------------------------------------------------------------------------------------------------------


def test_schedules_begin_alike_and_end_apart() -> None:
    rates = {name: [lr_at(step, 0.5, 4, 20, name) for step in range(20)] for name in ("cosine", "linear", "constant")}
    assert len({tuple(each[:5]) for each in rates.values()}) == 1, "warm-up, then the peak"
    assert rates["cosine"] == [lr_at(step, 0.5, 4, 20) for step in range(20)]
    assert rates["constant"][4:] == [0.5] * 16
    falls = [a - b for a, b in zip(rates["linear"][4:], [*rates["linear"][5:], 0.0], strict=True)]
    assert falls == pytest.approx([0.5 / 16] * 16)


def test_the_schedule_is_the_recipe_s(lessons: Lessons) -> None:
    seen: list[Progress] = []
    learned(Projections, lessons, recipe(iterations=4, log_every=1, schedule="linear"), on_progress=seen.append)
    assert [now.rates for now in seen] == [(lr_at(step, 1e-3, 1, 4, "linear"),) for step in range(4)]


# -- optimizers --------------------------------------------------------------------------------------------------------


def test_a_step_of_sgd_is_the_gradient_times_the_rate(lessons: Lessons) -> None:
    method = learned(Projections, lessons, recipe(iterations=1, lr=0.1, **PLAIN))
    for name, weight in method.weights.items():
        expect_close(weight, method.before[0][name] - 0.1 * method.gradients[0][name], 1e-7, name)


def test_momentum_and_decay_of_sgd(lessons: Lessons) -> None:
    changes = {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.25}
    method = learned(Projections, lessons, recipe(iterations=2, **PLAIN | changes))
    for name, weight in method.weights.items():
        first, second = (
            gradients[name] + 0.25 * before[name]
            for gradients, before in zip(method.gradients, method.before, strict=True)
        )
        expect_close(weight, method.before[1][name] - 0.1 * (second + 0.5 * first), 1e-6, name)


def test_groups_have_rates_of_their_own(lessons: Lessons) -> None:
    seen: list[Progress] = []
    method = learned(InGroups, lessons, recipe(iterations=3, log_every=1, lr=0.01), on_progress=seen.append)
    for step, now in enumerate(seen):
        assert now.rates == (lr_at(step, 0.1, 1, 3), lr_at(step, 0.01, 1, 3))
    plain = learned(Projections, lessons, recipe(iterations=3, lr=0.01))
    moved = {
        name: [float((each.weights[name] - lessons.backbone.get_parameter(name)).norm()) for each in (method, plain)]
        for name in method.weights
    }
    assert moved["model.text_projection"][0] > 4 * moved["model.text_projection"][1]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (Projections, {"optimizer": "sgd", "lr": 0.05}),
        (Projections, {"optimizer": "sgd", "momentum": 0.0}),
        (Projections, {"accumulate": 4, "clip_norm": 0.01, "schedule": "linear"}),
        (InGroups, {"accumulate": 2}),
        (OfItsOwn, {"schedule": "constant", "lr": 0.05}),
        (Unfused, {}),
    ],
)
def test_resume_is_exact(lessons: Lessons, kind: type[Method], changes: dict[str, Any]) -> None:
    """Every checkpoint goes on to the same weights, to the last bit; what it holds went through a file."""
    config = recipe(iterations=6, checkpoint_every=2, **changes)
    kept: list[tuple[Position, dict[str, Tensor]]] = []
    whole = new_method(kind, lessons)
    begin(whole, lessons.training[:1])

    def keep(position: Position) -> None:
        kept.append((Position(position.step, stored(position.optimizer)), stored(whole.working_state())))

    train(whole, lessons.training[:1], config, on_checkpoint=keep)
    assert [position.step for position, _ in kept] == [2, 4]
    for position, working in kept:
        resumed = new_method(kind, lessons, seed=99)
        resumed.load_state(lessons.infos[:1], [], working)
        train(resumed, lessons.training[:1], config, start=position)
        expect_same(resumed.working_state(), whole.working_state(), f"from step {position.step}")


def test_a_checkpoint_of_the_default_recipe_holds_what_it_always_did(lessons: Lessons) -> None:
    kept: list[Position] = []
    learned(Projections, lessons, recipe(iterations=2, checkpoint_every=1), on_checkpoint=kept.append)
    names = [f"student.{name}" for name in ("model.visual.proj", "model.text_projection")]
    assert set(kept[0].optimizer) == {f"{n}/{key}" for n in names for key in ("step", "exp_avg", "exp_avg_sq")}


def returning(what: Any) -> type[Method]:
    class Own(Projections):
        def optimizer(self, descent: Descent) -> Any:
            return what(self, descent)

    Own.name = "own"
    return Own


def test_what_is_no_optimizer_of_the_method_is_refused(lessons: Lessons) -> None:
    nothing = returning(lambda method, descent: None)
    with pytest.raises(InputError, match="`optimizer` of method 'own' returns NoneType; let it return a torch"):
        learned(nothing, lessons, recipe(iterations=1))
    stranger = returning(lambda method, descent: descent.optimizer([nn.Parameter(torch.ones(2))]))
    with pytest.raises(InputError, match="method 'own' trains a tensor that is no parameter of the method"):
        learned(stranger, lessons, recipe(iterations=1))


def test_what_no_checkpoint_can_hold_is_named(lessons: Lessons) -> None:
    class Listing(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            for parameter in self.param_groups[0]["params"]:
                self.state[parameter]["history"] = [1.0]

    kind = returning(lambda method, descent: Listing(method.weights.values(), lr=descent.lr))
    with pytest.raises(EverclipError, match=r"method 'own' keeps a list \(.*/history\), which no checkpoint can hold"):
        learned(kind, lessons, recipe(iterations=2, checkpoint_every=1))


# -- clipping ----------------------------------------------------------------------------------------------------------


def test_a_long_gradient_is_shortened_and_a_short_one_is_not(lessons: Lessons) -> None:
    free, short, long = (
        learned(Projections, lessons, recipe(iterations=1, clip_norm=limit, **PLAIN)).gradients[0]
        for limit in (None, 1e-3, 1e3)
    )

    def norm(gradients: dict[str, Tensor]) -> float:
        return math.sqrt(sum(float(g.double().pow(2).sum()) for g in gradients.values()))

    assert norm(free) > 1e-2
    assert norm(short) == pytest.approx(1e-3, rel=1e-3)
    for name, gradient in free.items():
        expect_close(short[name] / 1e-3, gradient / norm(free), 1e-3, "all of it, by the same factor")
    expect_same(long, free, "a limit that is not reached changes nothing")


# -- parts of a step ---------------------------------------------------------------------------------------------------


def test_parts_of_a_step_add_up_to_the_step(lessons: Lessons) -> None:
    whole, divided = (
        learned(Projections, lessons, recipe(iterations=3, batch=7, lr=0.1, accumulate=parts, **PLAIN))
        for parts in (1, 3)
    )
    assert [len(batch.labels) for batch in divided.seen] == [2, 2, 3] * 3
    for step, batch in enumerate(whole.seen):
        parts = divided.seen[3 * step : 3 * step + 3]
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)
    assert len(divided.gradients) == 3, "one step of the optimizer for all parts"
    for name, weight in whole.weights.items():
        expect_close(divided.weights[name], weight, 1e-5, name)


def test_losses_of_parts_add_up(lessons: Lessons) -> None:
    seen: dict[int, list[Progress]] = {1: [], 4: []}
    for parts, progress in seen.items():
        config = recipe(iterations=2, batch=6, log_every=1, accumulate=parts, **PLAIN)
        learned(Projections, lessons, config, on_progress=progress.append)
    for one, other in zip(*seen.values(), strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.parts == pytest.approx(one.parts, rel=1e-5)


def test_references_are_divided_alike(lessons: Lessons) -> None:
    class Compared(Projections):
        def provide(self, sources: Sources) -> None:
            super().provide(sources)
            self.reference = sources.reference

    whole, divided = (
        learned(Compared, lessons, recipe(iterations=1, batch=5, accumulate=parts)).seen for parts in (1, 2)
    )
    assert [len(batch.reference.rows) for batch in divided] == [2, 3]
    assert torch.equal(torch.cat([b.reference.rows for b in divided]), whole[0].reference.rows)
    assert torch.equal(torch.cat([b.reference.images for b in divided]), whole[0].reference.images)


def test_what_one_part_selects_does_not_rest(lessons: Lessons, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator flags tell which experts rest in a step; on a CPU their gradient is simply missing."""
    states = []
    for free in (True, False):
        monkeypatch.setattr(moe, "looking_is_free", lambda tensor, free=free: free)
        method = new_method(MoEAdapters, lessons, experts=6, dropout=0.0)
        begin(method, lessons.training[:1])
        train(method, lessons.training[:1], recipe(iterations=3, accumulate=3, optimizer="sgd"))
        states.append({name: value.float() for name, value in method.state_dict().items()})
    for name, value in states[0].items():
        expect_close(states[1][name], value, 1e-5, name)


def test_a_break_within_a_step_leaves_no_trace(lessons: Lessons, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends between two parts of a step: what is on disk is the last checkpoint, and it goes on."""
    config = recipe(iterations=4, checkpoint_every=1, accumulate=2, optimizer="sgd", lr=0.05)
    whole = learned(Projections, lessons, config)
    kept: list[tuple[Position, dict[str, Tensor]]] = []
    cut = new_method(Projections, lessons)
    begin(cut, lessons.training[:1])
    reached = 0

    def stop(name: str) -> None:
        nonlocal reached
        reached += 1
        if reached == 6:  # the second part of the third step, once
            raise KeyboardInterrupt

    def keep(position: Position) -> None:
        kept.append((Position(position.step, stored(position.optimizer)), stored(cut.working_state())))

    monkeypatch.setattr(training, "fault_point", stop)
    with pytest.raises(KeyboardInterrupt):
        train(cut, lessons.training[:1], config, on_checkpoint=keep)
    position, working = kept[-1]
    assert position.step == 2
    resumed = new_method(Projections, lessons, seed=99)
    resumed.load_state(lessons.infos[:1], [], working)
    train(resumed, lessons.training[:1], config, start=position)
    expect_same(resumed.working_state(), whole.working_state())


def test_more_parts_than_images_are_refused(lessons: Lessons, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="accumulate=7 leaves some parts of batch=6 without an image; lower accum"):
        Trainer(new_method(Projections, lessons), lessons.training[:1], recipe(accumulate=7), SEED, 2, 1)
    monkeypatch.setattr("everclip.engine.recipe.world", lambda: 2)
    with pytest.raises(InputError, match="accumulate=4 leaves some parts of batch=6, which 2 processes share, without"):
        TrainingConfig(batch=6, accumulate=4).rows()


# -- records -----------------------------------------------------------------------------------------------------------


def test_records_come_as_often_as_they_are_wanted(lessons: Lessons) -> None:
    seen: list[int] = []
    config = recipe(iterations=11, log_every=4, checkpoint_every=6)
    learned(Projections, lessons, config, on_progress=lambda now: seen.append(now.step))
    assert seen == [4, 6, 8, 11], "and before every checkpoint, and at the end"
