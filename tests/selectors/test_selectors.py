"""What every selector of the registry must do, whatever it is; then the oracle and the vote."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from everclip.errors import InputError
from everclip.selectors import SELECTORS, Selector, SelectorConfig, selector_class, vote
from everclip.selectors.oracle import Oracle
from everclip.selectors.scored import REFERENCE_HELD_OUT, ScoredSelector
from everclip.testing.laws import expect_same as assert_same
from everclip.testing.selectors import REFERENCE, SELECTOR_LAWS, TASKS, Trial, ask, features

SCORED = [name for name, kind in SELECTORS.items() if issubclass(kind, ScoredSelector)]
SMALL = {"ddas": {"ddas_iterations": 150, "reference_iterations": 150}}


def trial(name: str) -> Trial:
    return Trial(SELECTORS[name], SMALL.get(name, {}))


def made(name: str) -> Selector:
    return trial(name).made()


def fitted(name: str, tasks: int, reference: bool = False) -> Selector:
    return trial(name).fitted(tasks, reference=reference)


@pytest.mark.parametrize("law", SELECTOR_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", SELECTORS)
def test_law(name: str, law: Callable[[Trial], None]) -> None:
    assert selector_class(name) is SELECTORS[name]
    law(trial(name))


def test_unknown_selector():
    with pytest.raises(InputError, match=r"'nonsense'.*oracle"):
        selector_class("nonsense")


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
