"""Lessons as those who sent them see them: how far each is, in words and as a share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from everclip.learner import LearnReport
from everclip.system.display import Display, Step


@dataclass
class Job:
    """A lesson under way.

    Attributes:
        state: how far it is.
        message: the same in words: what it is doing, what it learned, or why it failed.
        share: of the work under way, 0 to 1; None where it is not known.
    """

    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    message: str = "waiting for the lesson before"
    share: float | None = None


class Stopped(BaseException):
    """The service ends in the middle of a lesson. No `Exception`: nobody on the way may take it for a failure."""


class JobDisplay(Display):
    """Shows progress in the job under way."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self._job = Job()
        self.stopped = False

    def stop(self) -> None:
        """The lesson under way ends where it reports its progress next."""
        self.stopped = True

    @contextlib.contextmanager
    def told_to(self, job: Job) -> Iterator[None]:
        """Meanwhile all progress is this job's."""
        self._job, before = job, self._job
        try:
            yield
        finally:
            self._job = before

    @contextlib.contextmanager
    def bar(self, what: str, total: int | None = None) -> Iterator[Callable[[int, int], None]]:
        """Progress in images."""
        job = self._job

        def update(done: int, total: int) -> None:
            if self.stopped:
                raise Stopped
            job.message, job.share = f"{what}: {done} of {total}", done / max(total, 1)

        yield update

    @contextlib.contextmanager
    def training(self, what: str, total: int, done: int = 0) -> Iterator[Callable[[Step], None]]:
        """Progress in training steps."""
        with self.bar(what, total) as update:
            yield lambda now: update(now.step, total)


def summary(report: LearnReport) -> str:
    """What a lesson did, in a sentence."""
    skipped = f", {len(report.skipped)} skipped" if report.skipped else ""
    moved = f"; {report.moved} of {report.watched} earlier images changed their route" if report.watched else ""
    said = f"; {report.said}" if report.said else ""
    return f"learned {report.images} images in {report.seconds:.0f} s{skipped}{moved}{said}."
