"""Whether an image is of a learned kind."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.functional.analytic import Statistics
from everclip.learner.novelty import Familiarity, Known

WIDTH, CLASSES = 16, 4


def images(task: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Embeddings of a task: a center of its own, classes around it, images around these."""
    fixed, drawn = torch.Generator().manual_seed(task), torch.Generator().manual_seed(1000 * task + seed)
    center = 4 * torch.randn(WIDTH, generator=fixed)
    means = center + 2 * torch.randn(CLASSES, WIDTH, generator=fixed)
    labels = torch.arange(count) % CLASSES
    return F.normalize(means[labels] + torch.randn(count, WIDTH, generator=drawn), dim=1), labels


def known(task: int, held_out: int = 40) -> Known:
    statistics = Statistics.empty(CLASSES, WIDTH)
    x, labels = images(task, 200, 0)
    statistics.add_(x.double(), labels)
    return Known(statistics, images(task, held_out, 1)[0])


@pytest.mark.parametrize("learned", [2, 3, 6])
def test_learned_kinds_are_known_and_others_are_not(learned: int):
    familiarity = Familiarity([known(task) for task in range(learned)])
    inside = torch.cat([familiarity.probability(images(task, 50, 2)[0]) for task in range(learned)])
    outside = torch.cat([familiarity.probability(images(task, 50, 2)[0]) for task in range(20, 24)])
    assert ((inside >= 0) & (inside <= 1)).all()
    assert (inside > 0.5).double().mean() > 0.85
    assert (outside < 0.5).double().mean() > 0.85


def test_what_is_learned_becomes_known():
    x = images(7, 50, 2)[0]
    before = Familiarity([known(0), known(1)]).probability(x)
    after = Familiarity([known(0), known(1), known(7)]).probability(x)
    assert before.mean() < 0.1 < 0.9 < after.mean()


def test_of_a_single_task_nearly_all_is_known():
    familiarity = Familiarity([known(0, held_out=200)])
    share = (familiarity.probability(images(0, 400, 2)[0]) > 0.5).double().mean()
    assert 0.88 < share < 0.99
    assert (familiarity.probability(images(20, 50, 2)[0]) < 0.5).all()


def test_the_order_of_tasks_does_not_matter():
    tasks, x = [known(0), known(1), known(2)], images(1, 20, 2)[0]
    torch.testing.assert_close(
        Familiarity(tasks).probability(x), Familiarity(tasks[::-1]).probability(x), rtol=1e-5, atol=1e-7
    )


def test_a_class_without_images_changes_nothing():
    task, x = known(0), images(0, 20, 2)[0]
    padded = Statistics(
        task.statistics.gram,
        torch.cat([task.statistics.sums, torch.zeros(1, WIDTH, dtype=torch.float64)]),
        torch.cat([task.statistics.counts, torch.zeros(1, dtype=torch.int64)]),
    )
    with_empty = Familiarity([Known(padded, task.held_out), known(1)])
    torch.testing.assert_close(with_empty.probability(x), Familiarity([task, known(1)]).probability(x))


def test_held_out_images_may_all_be_equal():
    """A task of one photograph repeated has no spread to measure."""
    task = known(0)
    alone = Known(task.statistics, task.held_out[:1].expand(5, -1))
    assert torch.isfinite(Familiarity([alone]).probability(images(0, 5, 2)[0])).all()


def test_hardly_any_image():
    """One image of each class, none of them held out: nothing to judge by, so nothing is turned away."""
    statistics = Statistics.empty(CLASSES, WIDTH)
    x, labels = images(0, CLASSES, 0)
    statistics.add_(x.double(), labels)
    few = Known(statistics, x[:0])
    assert (Familiarity([few]).probability(images(20, 5, 2)[0]) == 1).all()
    assert torch.isfinite(Familiarity([few, known(1)]).probability(images(20, 5, 2)[0])).all()


def test_what_was_calibrated_once_need_not_be_again():
    tasks, x = [known(0), known(1), known(2)], images(1, 20, 2)[0]
    first = Familiarity(tasks)
    assert torch.equal(Familiarity(tasks, first.calibration).probability(x), first.probability(x))
    slope, offset = first.calibration
    assert not torch.equal(Familiarity(tasks, (slope, offset + 1)).probability(x), first.probability(x))
