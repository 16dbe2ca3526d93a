"""Bringing a published data set to disk: download, verify the counts, keep the split."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from everclip.data.published import Published
from everclip.data.published.readers import Parts
from everclip.data.published.splits import SPLIT_FILE, read_split, train_size, write_split
from everclip.errors import EverclipError

_FAILURES = (OSError, RuntimeError, ValueError, EOFError, http.client.HTTPException)
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error)
"""What downloading and unpacking raise; a tar file that reaches out of its folder is a TarError too."""

_ARCHIVES = (".gz", ".tgz", ".zip")


class Counts(NamedTuple):
    """Sizes of a data set: classes, and images of both parts."""

    classes: int
    train: int
    test: int


@dataclass(frozen=True)
class Prepared:
    """The result of preparing a data set.

    Attributes:
        state: ready to use; readable, but not as it should be; or not readable.
        counts: what was found; None where nothing could be read.
        problem: one sentence, unless it is ready.
    """

    state: Literal["ready", "incomplete", "missing"]
    counts: Counts | None
    problem: str = ""


def published_counts(published: Published) -> Counts:
    """What a complete set has."""
    return Counts(published.classes, published.train, published.test)


def prepare(published: Published, root: Path) -> Prepared:
    """Make a data set ready: recognized where it lies complete already, else downloaded, if it can be.

    A download goes into a folder of its own and gets its place when it is unpacked, so a broken one leaves nothing
    behind. A set that was published undivided gets its split noted once its counts are right.

    Args:
        published: one of `PUBLISHED`.
        root: the folder of all data sets; nothing is written outside it.
    """
    folder = root / published.name
    counts = None
    try:
        if not folder.is_dir() or not any(folder.iterdir()):
            _download(published, folder)
        parts = published.parts(folder)
        counts = _counts(published, parts)
        _refuse_other_counts(published, folder, counts)
        if parts.test is None:
            if not (folder / SPLIT_FILE).exists():
                write_split(folder, parts.train)
            read_split(folder, parts.train)
    except EverclipError as error:
        return Prepared("incomplete" if counts else "missing", counts, str(error))
    return Prepared("ready", counts)


def _counts(published: Published, parts: Parts) -> Counts:
    classes = len(parts.class_names or published.class_names)
    if parts.test is not None:
        return Counts(classes, len(parts.train), len(parts.test))
    train = train_size(len(parts.train))
    return Counts(classes, train, len(parts.train) - train)


def _refuse_other_counts(published: Published, folder: Path, found: Counts) -> None:
    what = ("classes", "training images", "test images")
    compared = zip(found, published_counts(published), what, strict=True)
    if differences := [f"{have} {name}, not {want}" for have, want, name in compared if have != want]:
        remedy = "remove the folder and repeat" if published.fetch else published.by_hand.format(folder=folder)
        raise EverclipError(f"data set '{published.name}' in {folder} has {', '.join(differences)}; {remedy}.")


def _download(published: Published, folder: Path) -> None:
    if published.fetch is None:
        by_hand = published.by_hand.format(folder=folder)
        raise EverclipError(f"data set '{published.name}' has no public download; {by_hand}.")
    if not hasattr(tarfile, "data_filter"):
        raise EverclipError(
            f"data set '{published.name}' can't be unpacked safely by this Python; use 3.10.12, 3.11.4, 3.12 or newer."
        )
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        with _inside_only():
            published.fetch(unfinished)
        for path in (*unfinished.glob("*"), *unfinished.glob("*/*")):
            if path.suffix in _ARCHIVES:  # unpacked by now, and as large as the set itself
                path.unlink()
        if folder.is_dir():
            folder.rmdir()
        os.replace(unfinished, folder)
    except (*_FAILURES, *_DAMAGED) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise EverclipError(
            f"data set '{published.name}' could not be downloaded ({reason}); try again, or unpack it into {folder} "
            "yourself."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def _inside_only() -> Iterator[None]:
    """Let tar files be unpacked into their folder alone, whatever the caller asks: older torchvision asks nothing."""
    before = tarfile.TarFile.__dict__["extraction_filter"]
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before
