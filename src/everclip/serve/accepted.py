"""Lessons that were accepted and are not learned yet: on disk, so that a kill does not lose them.

    .lessons/ended.json                 what became of the latest lessons
    .lessons/000012-4f1c…/lesson.json   name of the task, files, paths; written last: with it the lesson is accepted
    .lessons/000012-4f1c…/tries.json    how often it was begun, and what the learner is before and after it
    .lessons/000012-4f1c…/000000 a.jpg  a photo

The folder lies in the learner's directory, whose lock the service holds: what is there at the start is nobody else's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from everclip.data import CARD_NAME, FolderImages, Found, read_paths, steps_of
from everclip.data.layout import kind_of
from everclip.errors import InputError
from everclip.storage.directory import body_digest
from everclip.storage.files import write_atomic
from everclip.system.paths import portable_name

log = logging.getLogger("everclip.serve")

FOLDER, LESSON, TRIES, ENDED = ".lessons", "lesson.json", "tries.json", "ended.json"
KEPT = 100
"""Ended lessons that can still be asked for."""
MOST_TRIES = 3
"""A lesson during which the service ended so often is given up: it may be why."""
_NAME = re.compile(r"(\d{6,})-([0-9a-f]{12})")


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class File(_Kept):
    """A photo of a lesson."""

    name: str = Field(pattern=r"^\d{6}[^/\\]*$")
    path: str
    bytes: int


class _Lesson(_Kept):
    task: str
    folder: str
    files: list[File]
    others: list[str]


class _Tries(_Kept):
    begun: int = 0
    before: str | None = None
    after: str | None = None


class Ended(_Kept):
    """What became of a lesson."""

    job: str
    state: Literal["done", "failed"]
    message: str


_ENDED = TypeAdapter(list[Ended])


class Lesson:
    """A folder of photos: while they arrive, and once they are accepted.

    Attributes:
        job: its name for those who ask.
        task: what is learned; empty before it is accepted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._called = ""
        self._files: list[File] = []
        self._others: list[str] = []
        self._tries = _Tries()
        self.job = folder.name.partition("-")[2]
        self.task = ""

    def found(self) -> Found:
        """The images with their classes, read as the folder that holds their paths would be.

        Raises:
            InputError: the paths, or a `dataset.json` among them, can't be read as classes.
        """
        return self._read(self._called)

    def _read(self, called: str) -> Found:
        paths = [steps_of(path) for path in (*(file.path for file in self._files), *self._others)]

        def images(rows: Sequence[int]) -> FolderImages:
            kept = [str(self._folder / self._files[row].name) for row in rows]
            return FolderImages(kept, np.zeros(len(rows)), ["/".join(paths[row]) for row in rows])

        def card(inside: tuple[str, ...]) -> bytes | None:
            wanted = (*inside, CARD_NAME)
            file = next((file for file, path in zip(self._files, paths, strict=False) if path == wanted), None)
            return None if file is None else (self._folder / file.name).read_bytes()

        return read_paths(paths, images, card, called, "the form")

    def __len__(self) -> int:
        return len(self._files) + len(self._others)

    # -- while it arrives ------------------------------------------------------------------------------------------

    def add(self, path: str) -> IO[bytes]:
        """Open a file for the next photo; what is neither a photo nor `dataset.json` is counted, and not kept.

        Args:
            path: as its sender calls it, most simply CLASS/FILE.

        Raises:
            OSError: there is no room.
        """
        last = (steps_of(path) or ("",))[-1]
        if kind_of(last) is not None and last != CARD_NAME:
            self._others.append(path)
            return open(os.devnull, "wb")
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", last)[-80:]
        name = portable_name(f"{len(self._files):06d} {plain}")
        file = (self._folder / name).open("xb")
        self._files.append(File(name=name, path=path, bytes=-1))
        return file

    def accept(self, task: str, folder: str) -> None:
        """From now on it is learned, whatever happens to the process.

        Args:
            task: what is learned.
            folder: what the folder is called in which the paths lie.

        Raises:
            InputError: the paths can't be read as classes.
            OSError: there is no room.
        """
        self._read(folder).to_learn()  # refused now, not by the job
        self._called = folder
        self._files = [
            file.model_copy(update={"bytes": (self._folder / file.name).stat().st_size}) for file in self._files
        ]
        write_atomic(
            self._folder / LESSON,
            _Lesson(task=task, folder=folder, files=self._files, others=self._others).model_dump_json(),
        )
        self.task = task

    def drop(self) -> None:
        """Remove the photos: they are learned, or will not be."""
        # Without its list it is no lesson, whatever of it a kill leaves behind.
        with contextlib.suppress(OSError):
            (self._folder / LESSON).unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- once it is accepted ---------------------------------------------------------------------------------------

    def read(self) -> None:
        """Find again what was accepted.

        Raises:
            InputError: it is damaged or not complete.
        """
        try:
            kept = _Lesson.model_validate_json((self._folder / LESSON).read_bytes())
            if (self._folder / TRIES).exists():
                self._tries = _Tries.model_validate_json((self._folder / TRIES).read_bytes())
            whole = all((self._folder / file.name).stat().st_size == file.bytes for file in kept.files)
        except (OSError, ValidationError) as error:
            raise InputError("the lesson is lost: what was kept of it is damaged; teach it again.") from error
        if not whole:
            raise InputError(
                "the lesson is lost: not all of its photos were on disk when the machine ended; teach it again."
            )
        self.task, self._called, self._files, self._others = kept.task, kept.folder, kept.files, kept.others

    def begin(self) -> None:
        """Count that it is begun.

        Raises:
            InputError: it was begun too often.
        """
        if self._tries.begun >= MOST_TRIES:
            raise InputError(
                f"the lesson is lost: the service ended {MOST_TRIES} times while learning it, and does not try again."
            )
        self._try(self._tries.begun + 1)

    def interrupted(self) -> None:
        """It was begun and stopped on purpose, which is no reason to give it up."""
        self._try(self._tries.begun - 1)

    def about_to_save(self, before: Sequence[Any], after: Sequence[Any]) -> None:
        """Remember what the learner's `increments` are before and after it, to know after a kill which it is."""
        self._try(self._tries.begun, body_digest({"": list(before)}), body_digest({"": list(after)}))

    def learned(self, increments: Sequence[Any]) -> bool:
        """Whether a learner with these `increments` has learned it.

        Raises:
            InputError: nobody can know, for somebody else changed the learner after the kill.
        """
        found = body_digest({"": list(increments)})
        if self._tries.after is None or found == self._tries.before:
            return False
        if found == self._tries.after:
            return True
        raise InputError(
            "the lesson may be lost: the service was killed while it kept what it had learned, and the learner was "
            "changed since; see whether the task is there, and teach it again if not."
        )

    def _try(self, begun: int, before: str | None = None, after: str | None = None) -> None:
        self._tries = _Tries(begun=begun, before=before, after=after)
        write_atomic(self._folder / TRIES, self._tries.model_dump_json())


class Lessons:
    """The lessons of a learner's directory.

    Args:
        directory: the learner's, whose lock is held.
    """

    def __init__(self, directory: Path) -> None:
        self._folder = directory / FOLDER
        self._ended: list[Ended] = []
        self._number = 0

    def recovered(self) -> tuple[list[Lesson], list[Ended]]:
        """What was accepted before and is not learned, in its order, and what became of the others.

        Photos of lessons that were not accepted yet, or are learned already, are removed.
        """
        with contextlib.suppress(OSError, ValidationError):
            self._ended = _ENDED.validate_json((self._folder / ENDED).read_bytes())
        over = {each.job for each in self._ended}
        waiting = []
        for folder in sorted(self._folder.glob("*-*"), key=_number):
            if not _NAME.fullmatch(folder.name):
                continue
            self._number = max(self._number, _number(folder))
            lesson = Lesson(folder)
            if (folder / LESSON).exists() and lesson.job not in over:
                waiting.append(lesson)
            else:
                lesson.drop()
        return waiting, list(self._ended)

    def new(self) -> Lesson:
        """An empty folder for the photos of a lesson.

        Raises:
            OSError: it cannot be made.
        """
        self._number += 1
        folder = self._folder / f"{self._number:06d}-{uuid.uuid4().hex[:12]}"
        folder.mkdir(parents=True)
        return Lesson(folder)

    def end(self, lesson: Lesson, state: Literal["done", "failed"], message: str) -> None:
        """Remember what became of a lesson, and remove its photos."""
        self._ended = [*self._ended, Ended(job=lesson.job, state=state, message=message)][-KEPT:]
        try:
            write_atomic(self._folder / ENDED, _ENDED.dump_json(self._ended).decode())
        except OSError as error:  # it is learned or failed all the same
            log.error("%s could not be written", self._folder / ENDED, exc_info=error)
        lesson.drop()


def _number(folder: Path) -> int:
    found = _NAME.fullmatch(folder.name)
    return int(found[1]) if found else 0
