"""Requests of many threads, shared calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from everclip.serve.batching import Batcher, Busy


class Slow:
    """Doubles numbers when it is let; remembers what came together."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def __call__(self, items: list[int]) -> list[int]:
        self.calls.append(items)
        self.begun.release()
        assert self.go.acquire(timeout=10)
        if -1 in items:
            raise ValueError("minus one")
        return [2 * item for item in items]


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def batcher(slow: Slow) -> Iterator[Batcher[int, int]]:
    batcher = Batcher(slow, most=4, waiting=6)
    yield batcher
    for _ in range(20):
        slow.go.release()
    batcher.close()


def wait_for(batcher: Batcher[int, int], waiting: int) -> None:
    """Until so many items are known to wait, the ones under way included."""
    for _ in range(1000):
        if batcher.waiting == waiting:
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"{batcher.waiting} wait, not {waiting}")


def test_what_gathers_during_a_call_shares_the_next(batcher: Batcher[int, int], slow: Slow) -> None:
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(batcher.ask, [1], 10)
        assert slow.begun.acquire(timeout=10)
        others = []
        for count, items in ((2, [2]), (4, [3, 4]), (6, [5, 6])):
            others.append(pool.submit(batcher.ask, items, 10))
            wait_for(batcher, count)
        for _ in range(3):
            slow.go.release()
        assert first.result(10) == [2]
        assert [other.result(10) for other in others] == [[4], [6, 8], [10, 12]]
    # A call ends at 4 items or more; no request is torn apart.
    assert slow.calls == [[1], [2, 3, 4, 5, 6]]


def test_nothing_asked_nothing_done(batcher: Batcher[int, int], slow: Slow) -> None:
    assert batcher.ask([], 1) == []
    assert slow.calls == []


def test_more_than_may_wait_is_refused_at_once(batcher: Batcher[int, int], slow: Slow) -> None:
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(batcher.ask, [1, 2, 3, 4], 10)
        assert slow.begun.acquire(timeout=10)
        with pytest.raises(Busy, match="4 images wait already"):
            batcher.ask([5, 6, 7], 10)
        slow.go.release()
        assert first.result(10) == [2, 4, 6, 8]
    slow.go.release()
    assert batcher.ask(list(range(8)), 10) == list(range(0, 16, 2)), "alone, a large request is no crowd"


def test_who_waited_too_long_is_not_worked_for(batcher: Batcher[int, int], slow: Slow) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(batcher.ask, [1], 10)
        assert slow.begun.acquire(timeout=10)
        with pytest.raises(TimeoutError):
            batcher.ask([2], 0.05)
        slow.go.release()
        assert first.result(10) == [2]
    slow.go.release()
    assert batcher.ask([3], 10) == [6]
    assert slow.calls == [[1], [3]]


def test_an_error_is_for_those_who_asked_and_the_thread_lives_on(batcher: Batcher[int, int], slow: Slow) -> None:
    slow.go.release()
    with pytest.raises(ValueError, match="minus one"):
        batcher.ask([-1], 10)
    slow.go.release()
    assert batcher.ask([4], 10) == [8]
    assert batcher.waiting == 0
