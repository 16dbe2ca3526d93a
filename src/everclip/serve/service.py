"""A learner that answers many threads while it goes on learning."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Literal

from everclip.backbone.features import BATCH
from everclip.data import BadImage
from everclip.errors import EverclipError, InputError
from everclip.learner import ForgetReport, LearnedTask, Learner, LearnerDirectory, Prediction
from everclip.learner.questions import Asked, checked_task_name
from everclip.learner.storing import read
from everclip.serve.accepted import KEPT, Lesson, Lessons
from everclip.serve.batching import Batcher, Busy
from everclip.serve.decoding import Decoders
from everclip.serve.jobs import Job, JobDisplay, Stopped, summary
from everclip.serve.limits import Limits
from everclip.storage.directory import ReadOnlyError

log = logging.getLogger("everclip.serve")


class NoRoom(EverclipError):
    """A disk takes no more."""


class Service:
    """A learner's directory for many callers at once: they ask it, teach it, and let it forget.

    One thread answers, in shared forward passes; another one learns, one lesson at a time. A lesson changes memory and
    disk at its end, all at once. Until then answers are those from before.

    Use as a context manager, or `close` it.

    Args:
        path: a learner's directory, in which everything learned or forgotten is saved. No other process can change it
            while the service runs. From a read-only one it only answers.
        limits: what one request may cost.
        device: as for `Learner.load`.

    Raises:
        InputError: no learner there.
        EverclipError: another process is changing it, or it is damaged.
    """

    def __init__(self, path: Path, limits: Limits | None = None, device: str = "auto") -> None:
        self.limits = limits or Limits()
        self._directory = LearnerDirectory(path)
        self._directory.require()
        self._progress = JobDisplay()
        self._read_only: ReadOnlyError | None = None
        with contextlib.ExitStack() as opened:
            try:
                opened.enter_context(self._directory)
            except ReadOnlyError as error:  # it can answer all the same
                self._read_only = error
            self._learner = Learner(read(self._directory, None, device), self._progress)
            self._open = opened.pop_all()
        self._batcher = Batcher(self._learner.answer_each, BATCH, self.limits.waiting)
        self._decoders = Decoders(self._learner.view, self.limits)
        self._changing = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._arriving = 0
        self._lessons = Lessons(self._directory.path)
        self._accepted: queue.SimpleQueue[Lesson | None] = queue.SimpleQueue()
        if self.learns:
            self._recover()
        self._thread = threading.Thread(target=self._learn_all, name="lessons", daemon=True)
        self._thread.start()

    def _recover(self) -> None:
        """Go on where the service before ended: learn what it had accepted."""
        lessons, ended = self._lessons.recovered()
        self._jobs = {each.job: Job(each.state, each.message, 1.0 if each.state == "done" else None) for each in ended}
        increments = self._directory.peek()["increments"]
        for lesson in lessons:
            self._jobs[lesson.job] = Job()
            try:
                lesson.read()
                if lesson.learned(increments):
                    self._end(lesson, "done", "learned; the service was killed just afterwards.")
                else:
                    self._accepted.put(lesson)
            except InputError as error:
                log.error("lesson %s: %s", lesson.job, error)
                self._end(lesson, "failed", str(error))

    def close(self) -> None:
        """Answer what is asked already; a lesson under way stops, and is begun again when the service starts next."""
        self._progress.stop()
        self._accepted.put(None)
        self._thread.join()
        self._decoders.close()
        self._batcher.close()
        self._open.close()

    def __enter__(self) -> Service:
        """The service itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """As `close`."""
        self.close()

    @property
    def learns(self) -> bool:
        """Whether it can learn and forget: not in a directory that is read-only."""
        return self._read_only is None

    def _require_writable(self) -> None:
        if self._read_only is not None:
            raise self._read_only

    @property
    def backbone(self) -> str:
        """Name of the CLIP."""
        return self._learner.config.setup.backbone

    @property
    def method(self) -> str:
        """Name of the method."""
        return self._learner.config.setup.method

    @property
    def tasks(self) -> list[LearnedTask]:
        """What is learned, in order."""
        return self._learner.tasks

    @property
    def memory(self) -> int:
        """Bytes that requests for answers take at most; see `Limits.memory`."""
        return self.limits.memory(self._learner.side)

    @property
    def learning(self) -> bool:
        """Whether a lesson is under way or waits."""
        return any(job.state in ("waiting", "running") for job in list(self._jobs.values()))

    # -- answering -------------------------------------------------------------------------------------------------

    def predict(
        self,
        images: Sequence[tuple[str, bytes]],
        labels: Sequence[str],
        only: bool,
        closed: bool,
        top_k: int,
        deadline: float | None = None,
    ) -> list[dict[str, object]]:
        """Say what is on each of some images.

        Args:
            images: (name, content of the file).
            labels, only, closed, top_k: as for `Learner.predict`.
            deadline: by `time.monotonic`; by default `Limits.seconds` from now.

        Returns:
            Per image its name, and an answer (`Prediction` as a dictionary) or an `error`.

        Raises:
            InputError: labels, or a number of candidates, that can't be used.
            Busy: too much is waiting.
            TimeoutError: no answer in time.
        """
        deadline = time.monotonic() + self.limits.seconds if deadline is None else deadline
        if len(labels) > self.limits.labels:
            raise InputError(f"{len(labels)} labels are more than the {self.limits.labels} of one request; send fewer.")
        self._learner.check(labels, only=only, closed=closed, top_k=top_k)
        views = self._decoders.views(images, deadline)
        asked = [Asked(view, tuple(labels), only, closed, top_k) for view in views if not isinstance(view, BadImage)]
        answers = iter(self._batcher.ask(asked, max(0.0, deadline - time.monotonic())))
        return [
            {"name": name, "error": view.reason} if isinstance(view, BadImage) else _told(name, next(answers))
            for (name, _), view in zip(images, views, strict=True)
        ]

    # -- learning --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def arriving(self) -> Iterator[Callable[[str], IO[bytes]]]:
        """A lesson whose photos arrive; it yields what opens a file for each path. `teach` accepts it inside.

        What is not accepted inside is removed.

        Raises:
            InputError: the directory is read-only, or, from what it yields, a photo is one too many.
            NoRoom: there is no room for the photos.
            Busy: too many lessons wait or arrive.
        """
        self._require_writable()
        waiting = self._arriving + sum(job.state == "waiting" for job in list(self._jobs.values()))
        if waiting >= self.limits.lessons:
            raise Busy(f"{waiting} lessons wait already")
        self._arriving += 1
        try:
            arriving = _Arriving(self._new_lesson(), self.limits.lesson_images)
            try:
                yield arriving
            except OSError as error:
                raise self._no_room(error) from error
            finally:
                if not arriving.lesson.task:
                    arriving.lesson.drop()
        finally:
            self._arriving -= 1

    def _new_lesson(self) -> Lesson:
        try:
            return self._lessons.new()
        except OSError as error:
            raise self._no_room(error) from error

    def _no_room(self, error: OSError) -> NoRoom:
        return NoRoom(
            f"{self._directory.path} takes no photos ({error.strerror or error}); make room there, then send the "
            "lesson again."
        )

    def teach(self, name: str, arriving: Callable[[str], IO[bytes]], folder: str = "") -> str:
        """Accept a lesson: it is learned in the background, also if the service is killed and started again.

        Args:
            name: of the task.
            arriving: what `arriving` yields, after all photos were written.
            folder: what the folder is called in which their paths lie; by default as the task.

        Returns:
            The job's name.

        Raises:
            InputError: no photo, or paths that can't be read as classes, or a name that a task can't have.
            NoRoom: there is no room.
        """
        name = checked_task_name(name)
        if not isinstance(arriving, _Arriving):
            raise TypeError("arriving is what Service.arriving yields")
        lesson = arriving.lesson
        if not len(lesson):
            raise InputError("the form has no files; send the task's images, each named CLASS/FILE.")
        try:
            lesson.accept(name, folder or name)
        except OSError as error:
            raise self._no_room(error) from error
        self._jobs[lesson.job] = Job()
        for old in list(self._jobs)[:-KEPT]:
            if self._jobs[old].state in ("done", "failed"):
                del self._jobs[old]
        self._accepted.put(lesson)
        return lesson.job

    def job(self, name: str) -> Job | None:
        """How far a lesson is; None where there is none of this name."""
        return self._jobs.get(name)

    def forget(self, name: str) -> ForgetReport:
        """Forget a task.

        Raises:
            InputError: there is no such task, or the directory is read-only.
            Busy: a lesson is under way.
        """
        self._require_writable()
        if not self._changing.acquire(blocking=False):
            raise Busy("a lesson is under way")
        try:
            with self._learner.undone_on_error():
                report = self._learner.forget(name)
                self._learner.save_in(self._directory)
            return report
        finally:
            self._changing.release()

    def _learn_all(self) -> None:
        while (lesson := self._accepted.get()) is not None and not self._progress.stopped:
            try:
                self._learn(lesson)
            except Stopped:
                with contextlib.suppress(OSError):
                    lesson.interrupted()
                return

    def _learn(self, lesson: Lesson) -> None:
        job = self._jobs[lesson.job]
        job.state, job.message = "running", f"{len(lesson)} images"
        try:
            lesson.begin()
            with self._changing, self._learner.undone_on_error(), self._progress.told_to(job):
                before = self._directory.peek()["increments"]
                report = self._learner.learn(lesson.task, lesson.found())
                lesson.about_to_save(before, self._learner.increments)
                self._learner.save_in(self._directory)
            self._end(lesson, "done", summary(report))
        except EverclipError as error:
            self._end(lesson, "failed", str(error))
        except Exception as error:
            log.error("the lesson %s failed", lesson.task, exc_info=error)
            self._end(lesson, "failed", "the lesson failed; the log of the service says why.")

    def _end(self, lesson: Lesson, state: Literal["done", "failed"], message: str) -> None:
        self._lessons.end(lesson, state, message)
        job = self._jobs[lesson.job]
        job.message, job.share = message, 1.0 if state == "done" else job.share
        job.state = state


class _Arriving:
    """Opens a file for each photo of a lesson, up to a number of them."""

    def __init__(self, lesson: Lesson, most: int) -> None:
        self.lesson = lesson
        self._most = most

    def __call__(self, path: str) -> IO[bytes]:
        if len(self.lesson) >= self._most:
            raise InputError(f"the lesson has more than the {self._most} images of one lesson; send several.")
        return self.lesson.add(path)


def _told(name: str, answer: Prediction | EverclipError) -> dict[str, object]:
    if isinstance(answer, EverclipError):
        return {"name": name, "error": str(answer)}
    top = [{"label": label, "probability": p, "task": task} for label, p, task in answer.top]
    return {"name": name, **asdict(answer), "top": top}
