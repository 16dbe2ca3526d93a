"""What every selector of the registry must do, whatever it is; then the oracle and the vote."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from everclip.errors import InputError
from everclip.selectors import SELECTORS, Selector, SelectorConfig, selector_class, vote
from everclip.selectors.oracle import Oracle
from everclip.selectors.scored import REFERENCE_HELD_OUT, ScoredSelector
from everclip.streams import TaskInfo

from ..learning import assert_same, stored

SCORED = [name for name, kind in SELECTORS.items() if issubclass(kind, ScoredSelector)]
WIDTH = 16
REFERENCE = 5
"""The cloud of the reference images."""
TASKS = [TaskInfo(index, name, ("a", "b"), ("{}",)) for index, name in enumerate(["paint", "cloth", "stone"])]


def features(task: int, count: int, seed: int = 0) -> Tensor:
    """A cloud of its own for each task; that of the reference lies closest to task 0's."""
    generator = torch.Generator().manual_seed(100 * task + seed)
    center = 4 * torch.eye(WIDTH)[task] if task != REFERENCE else 2 * torch.eye(WIDTH)[0] + 2 * torch.eye(WIDTH)[5]
    return center + 0.3 * torch.randn(count, WIDTH, generator=generator)


def made(name: str, seed: int = 0) -> Selector:
    settings = {"ddas_iterations": 150, "reference_iterations": 150} if name == "ddas" else {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SELECTORS[name](SELECTORS[name].Config(**settings))


def fitted(name: str, tasks: int, held_out: bool = True, reference: bool = False) -> Selector:
    selector = made(name)
    if reference:
        selector.refer(features(REFERENCE, 200))
    for task in TASKS[:tasks]:
        reads = selector.reads_features
        held = features(task.index, 20, seed=1) if reads and held_out else None
        with torch.random.fork_rng():
            labels = torch.arange(200) % 2 if reads else None
            selector.fit(task, features(task.index, 200) if reads else None, labels, held)
    return selector


def ask(selector: Selector, task: int, truth: int | None, count: int = 12) -> Tensor:
    return selector.probabilities(features(task, count, seed=2) if selector.reads_features else None, count, truth)


def test_unknown_selector():
    with pytest.raises(InputError, match=r"'nonsense'.*oracle"):
        selector_class("nonsense")


@pytest.mark.parametrize("name", SELECTORS)
def test_described(name: str):
    kind = SELECTORS[name]
    assert selector_class(name) is kind
    assert kind.name == name
    assert kind.__dict__.get("__doc__"), "a docstring of its own"
    assert kind.summary
    assert "\n" not in kind.summary
    for field, info in kind.Config.model_fields.items():
        assert info.description, field


@pytest.mark.parametrize("held_out", [True, False])
@pytest.mark.parametrize("tasks", [1, 2, 3])
@pytest.mark.parametrize("name", SELECTORS)
def test_gives_probabilities(name: str, tasks: int, held_out: bool):
    selector = fitted(name, tasks, held_out)
    assert selector.tasks == TASKS[:tasks]
    for task in range(3):
        p = ask(selector, task, truth=task)
        assert p.shape == (12, tasks + 1)
        assert (p >= 0).all()
        torch.testing.assert_close(p.sum(dim=1), torch.ones(12))


@pytest.mark.parametrize("name", SELECTORS)
def test_nothing_learned_means_zero_shot(name: str):
    assert torch.equal(ask(made(name), 0, truth=0), torch.ones(12, 1))


@pytest.mark.parametrize("name", SELECTORS)
def test_tells_clear_tasks_apart(name: str):
    selector = fitted(name, 3)
    for task in range(3):
        chosen = ask(selector, task, truth=task).argmax(dim=1)
        assert (chosen == task).float().mean() >= 0.9


@pytest.mark.parametrize("name", SELECTORS)
def test_only_an_upper_bound_uses_the_truth(name: str):
    selector = fitted(name, 2)
    told = [ask(selector, 0, truth) for truth in (0, 1, None)]
    assert selector.upper_bound != all(torch.equal(told[0], other) for other in told[1:])


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("tasks", [0, 2])
@pytest.mark.parametrize("name", SELECTORS)
def test_state_is_complete(name: str, tasks: int, reference: bool):
    selector = fitted(name, tasks, reference=reference)
    fresh = made(name, seed=1)
    fresh.load_state(selector.tasks, stored(selector.state()))
    assert fresh.tasks == selector.tasks
    assert_same(fresh.state(), selector.state())
    for task in range(3):
        assert torch.equal(ask(fresh, task, task), ask(selector, task, task))


# -- reference images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCORED)
def test_what_looks_like_the_reference_goes_to_zero_shot(name: str):
    shares = {}
    for reference in (True, False):
        selector = fitted(name, 2, reference=reference)
        selector._thresholds -= float("inf")  # they let all images pass: what is sent away is sent by the reference
        p = ask(selector, REFERENCE, None)
        torch.testing.assert_close(p.sum(dim=1), torch.ones(12))
        shares[reference] = (p.argmax(dim=1) == 2).float().mean()
        for task in range(2):
            assert (ask(selector, task, None).argmax(dim=1) == task).float().mean() >= 0.9
    assert shares[True] >= 0.7
    assert shares[False] == 0


@pytest.mark.parametrize("name", SCORED)
def test_reference_images_held_out_describe_nothing(name: str):
    images = features(REFERENCE, 100)
    kept = torch.arange(100) % REFERENCE_HELD_OUT == 0
    changed = torch.where(kept[:, None], images + 1, images)
    one, other = made(name), made(name)
    one.refer(images)
    other.refer(changed)
    states = [selector.state() for selector in (one, other)]
    assert torch.equal(states[0].pop("reference.held_out"), images[kept])
    assert torch.equal(states[1].pop("reference.held_out"), images[kept] + 1)
    assert_same(*states)


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize("count", [1, 10])
def test_a_few_reference_images_will_do(name: str, count: int):
    selector = made(name)
    selector.refer(features(REFERENCE, count))
    selector.fit(TASKS[0], features(0, 50), torch.zeros(50), None)
    p = ask(selector, 0, None)
    assert p.isfinite().all()
    torch.testing.assert_close(p.sum(dim=1), torch.ones(12))


def test_an_oracle_has_no_use_for_a_reference():
    oracle = Oracle(SelectorConfig())
    oracle.refer(features(REFERENCE, 20))
    assert oracle.state() == {}


# -- oracle ------------------------------------------------------------------------------------------------------------


def test_oracle_knows_learned_tasks_only():
    oracle = Oracle(SelectorConfig())
    for task in (TASKS[2], TASKS[0]):  # not in the order of the stream
        oracle.fit(task, None, None, None)
    for truth, column in ((2, 0), (0, 1), (1, 2), (None, 2)):
        p = oracle.probabilities(None, 3, truth)
        assert torch.equal(p, torch.eye(3)[column].expand(3, 3))


# -- vote --------------------------------------------------------------------------------------------------------------


def test_vote_by_hand():
    p = torch.tensor([[0.6, 0.4], [0.1, 0.9], [0.6, 0.4], [0.9, 0.1], [0.3, 0.7]])
    # means of column 0: rows 0-1 .35, rows 2-3 .75, row 4 .3
    assert vote(p, 2).tolist() == [[0, 1], [0, 1], [1, 0], [1, 0], [0, 1]]
    assert vote(p, 5).tolist() == [[0, 1] if p.mean(dim=0)[1] > 0.5 else [1, 0]] * 5
    assert torch.equal(vote(p, 1), torch.eye(2)[p.argmax(dim=1)])
    assert vote(p[:0], 2).shape == (0, 2)


@given(count=st.integers(1, 30), batch=st.integers(1, 12), seed=st.integers(0, 5))
def test_a_batch_decides_as_one(count: int, batch: int, seed: int):
    p = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)).softmax(dim=1)
    decided = vote(p, batch)
    assert torch.equal(decided.sum(dim=1), torch.ones(count))
    for start in range(0, count, batch):
        part = slice(start, start + batch)
        winner = int(p[part].sum(dim=0).argmax())
        assert (decided[part].argmax(dim=1) == winner).all()


@pytest.mark.parametrize("routing", SELECTORS)
def test_by_default_the_batch_votes_with_its_probabilities(routing: str):
    selector = fitted(routing, 2)
    x = torch.cat([features(0, 7, seed=2), features(1, 5, seed=2)]) if selector.reads_features else None
    expected = vote(selector.probabilities(x, 12, 0), 5)
    assert torch.equal(selector.batch_probabilities(x, 12, 0, 5), expected)


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("name", SELECTORS)
def test_a_dropped_task_leaves_no_trace(name: str, reference: bool):
    selector, never = fitted(name, 3, reference=reference), fitted(name, 0, reference=reference)
    selector.drop(1)
    reads = selector.reads_features
    for task in (TASKS[0], TASKS[2]):
        labels = torch.arange(200) % 2 if reads else None
        x, held = (features(task.index, 200), features(task.index, 20, seed=1)) if reads else (None, None)
        never.fit(task, x, labels, held)
    assert selector.tasks == never.tasks
    for task in range(3):
        assert torch.equal(ask(selector, task, truth=task), ask(never, task, truth=task))
