"""`everclip verify`: whether the files of a learner, of a run or of the cache are those that were written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everclip.cli.options import path_argument
from everclip.errors import EverclipError, InputError
from everclip.system.display import say, say_json

if TYPE_CHECKING:
    from everclip.storage.directory import Checked


def verify(
    path: Annotated[Path, path_argument("PATH", "A learner, a run directory, or the cache folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every file.")] = False,
) -> None:
    """Compare every file with its digest; a line per damaged file, and then the exit status is 1. Changes nothing."""
    kind, files = _opened(path)
    checked = list(files)
    damaged = [file for file in checked if file.problem]
    silent = [file.name for file in checked if not file.has_digest]
    if as_json:
        say_json({"path": str(path), "kind": kind, "files": [file._asdict() for file in checked]}, indent=1)
    else:
        for file in damaged:
            say(str(file.problem))
        if silent:
            say(f"an earlier version of EverCLIP wrote no digest of {', '.join(silent)}: nobody can tell.")
    if damaged:
        raise EverclipError(f"{len(damaged)} of the {len(checked)} files of the {kind} {path} are not as written.")
    if not as_json:
        say(f"{path}: {kind}, {len(checked) - len(silent)} files are as they were written.")


def _opened(path: Path) -> tuple[str, Iterator[Checked]]:
    """What kind of thing lies at a path, and its files, which are compared as they are asked for.

    Raises:
        InputError: nothing that could be verified.
    """
    from everclip.data.cache import cache_dir
    from everclip.learner import LearnerDirectory
    from everclip.storage.run import RunDirectory

    if path.is_dir() and cache_dir().is_dir() and path.samefile(cache_dir()):
        return "cache", _cached()
    learner, run = LearnerDirectory(path), RunDirectory(path)
    if learner.exists() or learner.has_tensors():
        return learner.kind, learner.verify()
    if run.exists() or (path / run.state).exists():
        return run.kind, run.verify()
    raise InputError(
        f"{path} holds neither a learner nor a run, and the cache is {cache_dir()}; name what EverCLIP wrote."
    )


def _cached() -> Iterator[Checked]:
    from everclip.data.cache import cache_dir, verify_cache
    from everclip.storage.directory import Checked

    for file in verify_cache():
        problem = f"{file.path}: {file.problem}; it is computed again when it is next needed." if file.problem else None
        yield Checked(file.path.relative_to(cache_dir()).as_posix(), problem)
