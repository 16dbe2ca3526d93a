"""A learner that answers many threads while it goes on learning."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field

from everclip.backbone.features import BATCH
from everclip.data import BadImage, load_rgb
from everclip.errors import EverclipError, InputError
from everclip.learner import ForgetReport, LearnedTask, Learner, LearnerDirectory, LearnReport, Prediction
from everclip.learner.questions import Asked
from everclip.learner.storing import read
from everclip.serve.batching import Batcher, Busy
from everclip.storage.directory import ReadOnlyError
from everclip.system.display import Display, Step
from everclip.system.paths import no_room_for_temporary_files, portable_name, temporary_folder

log = logging.getLogger("everclip.serve")

JOBS_KEPT = 100
"""Finished jobs that can still be asked for."""


class Limits(BaseModel):
    """What one request may cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int = Field(256, ge=1, description="images in one request for answers")
    request_bytes: int = Field(64_000_000, ge=1, description="bytes of a request for answers")
    pixels: int = Field(50_000_000, ge=1, description="pixels of one image")
    labels: int = Field(1000, ge=1, description="labels in one request")
    waiting: int = Field(2048, ge=1, description="images that may wait for an answer")
    seconds: float = Field(60.0, gt=0, description="seconds until an answer")
    lesson_images: int = Field(50_000, ge=1, description="images of one lesson")
    lesson_bytes: int = Field(4_000_000_000, ge=1, description="bytes of one lesson")
    lessons: int = Field(16, ge=1, description="lessons that may wait")


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
        self._progress = _JobDisplay()
        self._read_only: ReadOnlyError | None = None
        with contextlib.ExitStack() as opened:
            try:
                opened.enter_context(self._directory)
            except ReadOnlyError as error:  # it can answer all the same
                self._read_only = error
            self._learner = Learner(read(self._directory, None, device), self._progress)
            self._open = opened.pop_all()
        self._batcher = Batcher(self._learner.answer_each, BATCH, self.limits.waiting)
        self._lessons = ThreadPoolExecutor(1, thread_name_prefix="lessons")
        self._changing = threading.Lock()
        self._jobs: dict[str, Job] = {}

    def close(self) -> None:
        """Finish what is under way; lessons that wait are dropped."""
        self._lessons.shutdown(cancel_futures=True)
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
    def learning(self) -> bool:
        """Whether a lesson is under way or waits."""
        return any(job.state in ("waiting", "running") for job in list(self._jobs.values()))

    # -- answering -------------------------------------------------------------------------------------------------

    def predict(
        self, images: Sequence[tuple[str, bytes]], labels: Sequence[str], only: bool, closed: bool, top_k: int
    ) -> list[dict[str, object]]:
        """Say what is on each of some images.

        Args:
            images: (name, content of the file).
            labels, only, closed, top_k: as for `Learner.predict`.

        Returns:
            Per image its name, and an answer (`Prediction` as a dictionary) or an `error`.

        Raises:
            InputError: labels, or a number of candidates, that can't be used.
            Busy: too much is waiting.
            TimeoutError: no answer in time.
        """
        if len(labels) > self.limits.labels:
            raise InputError(f"{len(labels)} labels are more than the {self.limits.labels} of one request; send fewer.")
        self._learner.check(labels, only=only, closed=closed, top_k=top_k)
        views: list[Asked | BadImage] = []
        for name, content in images:
            try:
                image = load_rgb(content, name, self.limits.pixels)
                view = self._learner.view(image)
                views.append(Asked(view, tuple(labels), only, closed, top_k))
            except BadImage as error:
                views.append(error)
        asked = [view for view in views if isinstance(view, Asked)]
        answers = iter(self._batcher.ask(asked, self.limits.seconds))
        return [
            {"name": name, "error": view.reason} if isinstance(view, BadImage) else _told(name, next(answers))
            for (name, _), view in zip(images, views, strict=True)
        ]

    # -- learning --------------------------------------------------------------------------------------------------

    def teach(self, name: str, files: Sequence[tuple[str, BinaryIO]]) -> str:
        """Begin to learn a task in the background.

        Args:
            name: of the task.
            files: (CLASS/FILE, content); they are read before this returns.

        Returns:
            The job's name.

        Raises:
            InputError: no file, or one whose name has no class, or the directory is read-only.
            EverclipError: there is no room for the files until they are learned.
            Busy: too many lessons wait.
        """
        self._require_writable()
        if not files:
            raise InputError("the form has no files; send the task's images, each named CLASS/FILE.")
        if len(files) > self.limits.lesson_images:
            raise InputError(f"{len(files)} images are more than the {self.limits.lesson_images} of one lesson.")
        waiting = sum(job.state == "waiting" for job in list(self._jobs.values()))
        if waiting >= self.limits.lessons:
            raise Busy(f"{waiting} lessons wait already")
        classes = [_class_of(path) for path, _ in files]
        folder = temporary_folder("everclip-lesson-")
        try:
            pairs = []
            for number, ((path, content), class_name) in enumerate(zip(files, classes, strict=True)):
                plain = re.sub(r"[^A-Za-z0-9._-]+", "_", PurePosixPath(path).name)[-80:]
                kept = folder / portable_name(f"{number:06d} {plain}")
                with kept.open("wb") as file:
                    shutil.copyfileobj(content, file)
                pairs.append((kept, class_name))
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise no_room_for_temporary_files(folder.parent, error) from error
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        job = uuid.uuid4().hex[:12]
        self._jobs[job] = Job()
        for old in list(self._jobs)[:-JOBS_KEPT]:
            if self._jobs[old].state in ("done", "failed"):
                del self._jobs[old]
        self._lessons.submit(self._learn, self._jobs[job], name, pairs, folder)
        return job

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
            report = self._learner.forget(name)
            self._learner.save_in(self._directory)
            return report
        finally:
            self._changing.release()

    def _learn(self, job: Job, name: str, pairs: list[tuple[Path, str]], folder: Path) -> None:
        job.state, job.message = "running", f"{len(pairs)} images"
        try:
            with self._changing, self._progress.told_to(job):
                report = self._learner.learn(name, pairs)
                self._learner.save_in(self._directory)
            job.message, job.share = _summary(report), 1.0
            job.state = "done"
        except EverclipError as error:
            job.message, job.state = str(error), "failed"
        except Exception as error:
            log.error("the lesson %s failed", name, exc_info=error)
            job.message, job.state = "the lesson failed; the log of the service says why.", "failed"
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _JobDisplay(Display):
    """Shows progress in the job under way."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self._job = Job()

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
            job.message, job.share = f"{what}: {done} of {total}", done / max(total, 1)

        yield update

    @contextlib.contextmanager
    def training(self, what: str, total: int, done: int = 0) -> Iterator[Callable[[Step], None]]:
        """Progress in training steps."""
        with self.bar(what, total) as update:
            yield lambda now: update(now.step, total)


def _class_of(path: str) -> str:
    parts = [part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", ".", "..")]
    if len(parts) < 2:
        raise InputError(f"the file name '{path}' has no class; name every file CLASS/FILE.")
    return parts[-2]


def _told(name: str, answer: Prediction | EverclipError) -> dict[str, object]:
    if isinstance(answer, EverclipError):
        return {"name": name, "error": str(answer)}
    top = [{"label": label, "probability": p, "task": task} for label, p, task in answer.top]
    return {"name": name, **asdict(answer), "top": top}


def _summary(report: LearnReport) -> str:
    skipped = f", {len(report.skipped)} skipped" if report.skipped else ""
    moved = f"; {report.moved} of {report.watched} earlier images changed their route" if report.watched else ""
    return f"learned {report.images} images in {report.seconds:.0f} s{skipped}{moved}."
