from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from everclip.engine.batches import rows_of_step, turns_of_sets
from everclip.engine.recipe import TrainingConfig, lr_at
from everclip.engine.training import Position, Progress, Trainer
from everclip.errors import EverclipError, InputError
from everclip.methods import Batch, Loss, Method
from everclip.methods.full_model import Finetune, Joint
from everclip.testing.laws import expect_same as assert_same
from everclip.testing.laws import stored
from everclip.testing.lessons import SEED, Lessons, begin, new_method, recipe, train


class Watched(Finetune):
    """Finetuning that keeps what it is shown."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.seen: list[Batch] = []

    def forward(self, batch: Batch) -> Loss:
        self.seen.append(batch)
        return super().forward(batch)


class WatchedJoint(Watched):
    all_at_once = True


def trained(lessons: Lessons, config: TrainingConfig, kind: type[Method] = Finetune, **options) -> Method:
    """A method that has taken the steps of its first stage."""
    method = new_method(kind, lessons)
    sets = lessons.stages(method)[0]
    begin(method, sets)
    train(method, sets, config, **options)
    return method


# -- the schedule ------------------------------------------------------------------------------------------------------


def test_golden_schedule(golden):
    recorded = golden("schedule")
    for row, (base, warmup, total) in enumerate(recorded["triples"].tolist()):
        expected = recorded[f"lr.{row}"]
        rates = [lr_at(step, base, int(warmup), int(total)) for step in range(len(expected))]
        torch.testing.assert_close(torch.tensor(rates), expected.float(), rtol=1e-6, atol=2e-9)


def test_every_step_has_its_rate(lessons: Lessons, monkeypatch: pytest.MonkeyPatch):
    method = new_method(Finetune, lessons)
    begin(method, lessons.training[:1])
    trainer = Trainer(method, lessons.training[:1], recipe(iterations=5, warmup=2, lr=0.01), SEED, 2, 1)
    rates = []
    monkeypatch.setattr(
        method, "after_step", lambda step: rates.append((step, trainer.optimizer.param_groups[0]["lr"]))
    )
    with torch.random.fork_rng():
        trainer.run()
    assert rates == [(step, lr_at(step, 0.01, 2, 5)) for step in range(5)]


# -- which images a step sees ------------------------------------------------------------------------------------------


@given(count=st.integers(1, 40), batch=st.integers(1, 60), seed=st.integers(0, 9))
def test_every_epoch_shows_every_image_once(count: int, batch: int, seed: int):
    steps = math.ceil(3 * count / batch)
    shown = np.concatenate([rows_of_step(count, batch, step, seed, task=1) for step in range(steps)])
    for epoch in range(3):
        assert sorted(shown[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_order_depends_on_seed_task_and_epoch():
    orders = [
        rows_of_step(50, 50, step, seed, task).tolist()
        for step, seed, task in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    assert len({tuple(order) for order in orders}) == 4
    assert rows_of_step(50, 50, 0, 0, 0).tolist() == orders[0]


@pytest.mark.parametrize("sets", [1, 2, 5])
def test_schedule_gives_each_set_its_steps(sets: int):
    steps = [20 + number for number in range(sets)]
    owners, turns = turns_of_sets(steps, seed=0)
    assert Counter(owners.tolist()) == dict(enumerate(steps))
    for number in range(sets):
        assert turns[owners == number].tolist() == list(range(steps[number]))
    if sets > 1:
        assert owners.tolist() != sorted(owners)
        assert owners.tolist() != turns_of_sets(steps, seed=1)[0].tolist()


def test_batches_hold_the_right_images_and_labels(lessons: Lessons):
    """The classes of the first task are blue, green and red: the label tells the brightest channel, from the last."""
    method = trained(lessons, recipe(iterations=3, batch=6), Watched)
    for batch in method.seen:
        assert batch.task == lessons.infos[0]
        assert batch.images.shape == (6, 3, 32, 32)
        assert torch.equal(2 - batch.images.mean(dim=(2, 3)).argmax(dim=1), batch.labels)


def test_batch_larger_than_the_set(lessons: Lessons):
    count = len(lessons.training[0].images)
    method = trained(lessons, recipe(iterations=2, batch=2 * count + 1), Watched)
    assert [len(batch.labels) for batch in method.seen] == [2 * count + 1] * 2


def test_all_at_once_sees_every_task(lessons: Lessons):
    method = trained(lessons, recipe(iterations=6), WatchedJoint)
    names = [batch.task.name for batch in method.seen]
    assert Counter(names) == {info.name: 6 for info in lessons.infos}
    assert names != sorted(names, reverse=names[0] > names[-1]), "the tasks alternate"
    for each in lessons.training:
        labels = torch.cat([batch.labels for batch in method.seen if batch.task == each.info])
        epoch = labels[: len(each.images)].tolist()
        assert Counter(epoch) == Counter(each.images.labels.tolist()), "every image of the task once"


def test_reference_images_accompany_every_step(lessons: Lessons):
    """A pure function of seed, task and step: a run that goes on at step 2 sees the same ones."""
    seen = {}
    for first in (0, 2):
        method = new_method(Watched, lessons)
        method.reference = lessons.sources.reference
        begin(method, lessons.training[:1])
        train(method, lessons.training[:1], recipe(iterations=5, batch=4), start=Position(first, {}))
        seen[first] = [batch.reference for batch in method.seen]
        for reference in seen[first]:
            pixels = torch.from_numpy(method.reference[reference.rows.numpy()])
            assert torch.equal(reference.images, lessons.backbone.pixels(pixels))
    assert [r.rows.tolist() for r in seen[0][2:]] == [r.rows.tolist() for r in seen[2]]
    rows = torch.cat([reference.rows for reference in seen[0]]).tolist()
    assert sorted(rows[: len(lessons.sources.reference)]) == list(range(len(lessons.sources.reference)))
    own = [rows_of_step(len(lessons.sources.reference), 4, step, SEED, 0) for step in range(5)]
    assert rows != np.concatenate(own).tolist(), "not in the order of a training set of that size"


def test_no_reference_no_images(lessons: Lessons):
    assert all(batch.reference is None for batch in trained(lessons, recipe(iterations=2), Watched).seen)


# -- what training does ------------------------------------------------------------------------------------------------


def test_loss_falls(lessons: Lessons):
    progress: list[Progress] = []
    trained(lessons, recipe(iterations=40, batch=12), on_progress=progress.append)
    assert [now.step for now in progress] == [10, 20, 30, 40]
    assert {now.total for now in progress} == {40}
    assert progress[-1].loss < 0.9 * progress[0].loss
    assert progress[-1].parts == {"ce": pytest.approx(progress[-1].loss)}
    assert all(now.images_per_second > 0 for now in progress)


def test_equal_seeds_give_equal_weights(lessons: Lessons):
    first = trained(lessons, recipe()).working_state()
    assert_same(trained(lessons, recipe()).working_state(), first)
    other = trained(lessons, recipe(), seed=SEED + 1).working_state()
    assert not torch.equal(other["model.visual.proj"], first["model.visual.proj"])


def test_workers_change_nothing(lessons: Lessons):
    assert_same(trained(lessons, recipe(), workers=3).working_state(), trained(lessons, recipe()).working_state())


@pytest.mark.parametrize("kind", [Finetune, Joint])
def test_resume_is_exact(lessons: Lessons, kind: type[Method]):
    config = recipe(iterations=5, checkpoint_every=3)
    kept: list[tuple[Position, dict]] = []
    whole = new_method(kind, lessons)
    sets = lessons.stages(whole)[0]
    begin(whole, sets)

    def keep(position: Position) -> None:
        kept.append((Position(position.step, stored(position.optimizer)), stored(whole.working_state())))

    train(whole, sets, config, on_checkpoint=keep)
    assert [position.step for position, _ in kept] == list(range(3, config.iterations * len(sets), 3))
    for position, working in kept:
        resumed = new_method(kind, lessons, seed=99)
        resumed.load_state([each.info for each in sets], [], working)
        steps: list[int] = []
        train(resumed, sets, config, start=position, on_checkpoint=lambda p, steps=steps: steps.append(p.step))
        assert_same(resumed.working_state(), whole.working_state())
        assert steps == [later.step for later, _ in kept if later.step > position.step]


def test_logit_scale_never_moves(lessons: Lessons):
    before = lessons.backbone.model.state_dict()
    after = trained(lessons, recipe(lr=0.01)).student.model.state_dict()
    assert torch.equal(after["logit_scale"], before["logit_scale"])
    still = {name for name in before if torch.equal(after[name], before[name])}
    assert still == {"logit_scale"}


def test_weight_decay_shrinks(lessons: Lessons):
    plain, decayed = (
        trained(lessons, recipe(lr=0.01, weight_decay=decay)).student.model.visual.proj for decay in (0, 1)
    )
    assert decayed.norm() < plain.norm()


# -- what can go wrong -------------------------------------------------------------------------------------------------


def test_loss_that_is_not_finite(lessons: Lessons):
    """The step at 1e30 still has a finite loss; the next one has not, and no checkpoint comes between them."""
    checkpoints: list[Position] = []
    config = recipe(lr=1e30, warmup=0, checkpoint_every=2)
    with pytest.raises(EverclipError) as error:
        trained(lessons, config, on_checkpoint=checkpoints.append)
    message = str(error.value)
    assert checkpoints == []
    assert "\n" not in message
    assert message.startswith(f"the loss became nan at step 1 of task '{lessons.infos[0].name}', on ")
    first = rows_of_step(len(lessons.training[0].images), 6, 1, SEED, 0)[0]
    assert lessons.training[0].images.name(first) in message
    assert "and 2 more" in message
    assert "1e+30" in message


def test_last_step_may_ruin_the_weights(lessons: Lessons):
    with pytest.raises(
        EverclipError, match=r"'student\..*' is no longer finite after step 0 .* lower lr \(now 1e\+39\)"
    ):
        trained(lessons, recipe(lr=1e39, warmup=0, iterations=1))


@pytest.mark.parametrize("checkpoint_every", [1, 3])
def test_weights_are_finite_in_every_checkpoint(lessons: Lessons, checkpoint_every: int):
    method = new_method(Finetune, lessons)
    begin(method, lessons.training[:1])

    def check(position: Position) -> None:
        for tensors in (method.working_state(), position.optimizer):
            assert all(torch.isfinite(tensor).all() for tensor in tensors.values())

    config = recipe(lr=1e39, warmup=6, checkpoint_every=checkpoint_every)
    with pytest.raises(EverclipError):
        train(method, lessons.training[:1], config, on_checkpoint=check)


def test_learning_rate_per_task(lessons: Lessons):
    config = recipe(lr=[0.5, 0.25])
    method = new_method(Finetune, lessons)
    for each, rate in zip(lessons.training, [0.5, 0.25], strict=True):
        assert Trainer(method, [each], config, SEED, tasks=2, workers=1).base_lr == rate
    assert TrainingConfig(lr=0.1).lr_of(lessons.infos[1], 9) == 0.1
    with pytest.raises(InputError, match="lr lists 2 rates, but the stream has 3 tasks"):
        Trainer(method, lessons.training[:1], config, SEED, tasks=3, workers=1)


def test_learning_rates_by_name_follow_the_tasks_in_any_order(lessons: Lessons):
    paint, cloth = lessons.infos
    config = recipe(lr={"cloth": 0.25, "paint": "5e-1", "elsewhere": 1})
    assert [config.lr_of(info, 2) for info in (paint, cloth)] == [0.5, 0.25]
    method = new_method(Finetune, lessons)
    assert Trainer(method, lessons.training[1:], config, SEED, tasks=2, workers=1).base_lr == 0.25
    with pytest.raises(InputError, match="lr names no rate for task 'cloth', only for paint; add one"):
        recipe(lr={"paint": 1}).lr_of(cloth, 2)
    config.check_stream([paint, cloth], at_once=False)
    recipe(lr=[0.5]).check_stream([paint], at_once=True)
    with pytest.raises(InputError, match="all tasks are learned at once; give one lr, not 3"):
        config.check_stream([paint, cloth], at_once=True)


# -- epochs ------------------------------------------------------------------------------------------------------------


@given(images=st.integers(1, 500), batch=st.integers(1, 60), epochs=st.integers(1, 9))
def test_epochs_take_the_place_of_iterations(images: int, batch: int, epochs: int):
    steps = TrainingConfig(iterations=7, epochs=epochs, batch=batch).steps(images)
    assert (steps - 1) * batch < epochs * images <= steps * batch
    assert TrainingConfig(iterations=7, batch=batch).steps(images) == 7


def test_every_task_has_its_own_epochs(lessons: Lessons):
    """Joint training shows each image of each task as often, whatever the sizes of the tasks."""
    method = trained(lessons, recipe(epochs=2, batch=3), WatchedJoint)
    for each in lessons.training:
        labels = torch.cat([batch.labels for batch in method.seen if batch.task == each.info])
        count = len(each.images)
        assert len(labels) == 3 * math.ceil(2 * count / 3)
        assert Counter(labels[: 2 * count].tolist()) == Counter(2 * each.images.labels.tolist())
    assert len(method.seen) == sum(math.ceil(2 * len(each.images) / 3) for each in lessons.training)
