"""Requests of many threads, answered in shared calls."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FuturesTimeoutError
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Busy(Exception):
    """More requests are waiting than may wait."""


@dataclass
class _Asked(Generic[Item, Answer]):
    items: Sequence[Item]
    answers: Future[list[Answer]] = field(default_factory=Future)


class Batcher(Generic[Item, Answer]):
    """Calls `work` from one thread, on as many items as have gathered.

    No request waits for a batch to fill up. While one call is under way, requests gather for the next. So a single
    request is answered at once, and many share their forward passes.

    Args:
        work: N items → N answers. What it raises is raised to all who asked in that call.
        most: items per call; a request is never divided, so a large one may exceed it.
        waiting: items that may wait.

    Attributes:
        waiting: items that wait or are under way.
    """

    def __init__(self, work: Callable[[list[Item]], list[Answer]], most: int, waiting: int) -> None:
        self._work = work
        self._most = most
        self._limit = waiting
        self.waiting = 0
        self._count = threading.Lock()
        self._queue: queue.SimpleQueue[_Asked[Item, Answer] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def ask(self, items: Sequence[Item], timeout: float) -> list[Answer]:
        """The answers to some items, in their order.

        Raises:
            Busy: too many items wait already.
            TimeoutError: no answer within `timeout` seconds.
        """
        if not items:
            return []
        with self._count:
            if self.waiting and self.waiting + len(items) > self._limit:
                raise Busy(f"{self.waiting} images wait already")
            self.waiting += len(items)
        asked: _Asked[Item, Answer] = _Asked(items)
        self._queue.put(asked)
        try:
            return asked.answers.result(timeout)
        except FuturesTimeoutError as error:  # which Python 3.10 tells from TimeoutError
            raise TimeoutError from error
        finally:
            asked.answers.cancel()  # nobody waits for it any more: if it has not begun, it need not

    def close(self) -> None:
        """End the thread after what waits already."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            gathered = self._gather()
            if gathered is None:
                return
            wanted = [asked for asked in gathered if asked.answers.set_running_or_notify_cancel()]
            try:
                answers = self._work([item for asked in wanted for item in asked.items]) if wanted else []
            except BaseException as error:  # whatever it is belongs to those who asked; the thread lives on
                for asked in wanted:
                    asked.answers.set_exception(error)
                continue
            finally:
                with self._count:
                    self.waiting -= sum(len(asked.items) for asked in gathered)
            for asked in wanted:
                asked.answers.set_result(answers[: len(asked.items)])
                answers = answers[len(asked.items) :]

    def _gather(self) -> list[_Asked[Item, Answer]] | None:
        """At least one request, and what else waits; None at the end."""
        first = self._queue.get()
        if first is None:
            return None
        gathered, count = [first], len(first.items)
        while count < self._most:
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._queue.put(None)
                break
            gathered.append(more)
            count += len(more.items)
        return gathered
