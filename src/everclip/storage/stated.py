"""What the state of a run may say: files that a run has, and counts that can be."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from everclip.storage.reading import Malformed, Schema, fitting, shown
from everclip.storage.state import State
from everclip.storage.tensors import MisfitError

if TYPE_CHECKING:
    from everclip.storage.run import RunDirectory

TENSORS = re.compile(r"(checkpoints|evaluation)/[A-Za-z0-9][A-Za-z0-9._-]*")
"""Files of tensors that a state may name: none is outside the run."""
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
"""What else may stand among its files."""
ROW = re.compile(r"evaluation/after-[0-9]{1,9}\.safetensors")


class _Learned(Schema):
    """What a state says of a learned task."""

    train: int = Field(ge=0, lt=2**53)
    skipped: list[Annotated[list[str], Field(min_length=2, max_length=2)]]
    trained_parameters: int = Field(ge=0, lt=2**53)


def check_names(state: State) -> None:
    """Refuse a state that names files which can't be a run's, or that counts what can't be.

    Raises:
        Malformed: it does.
    """
    named = {*state.sealed, *state.stages, *state.rows, state.working, state.start, state.optimizer, state.selector}
    for name in named - {None}:
        if not TENSORS.fullmatch(str(name)):
            raise Malformed(f"names the file {shown(name)}, which a run has not")
        if name not in state.files:
            raise Malformed(f"names the file {shown(name)} without its SHA-256")
    for name in state.files:
        if not PLAIN.fullmatch(name):
            raise Malformed(f"names the file {shown(name)}, which a run has not")
    if wrong := [name for name in state.rows if not ROW.fullmatch(name)]:
        raise Malformed(f"names the row {shown(wrong[0])}, which is none")
    if state.stages_learned < 0 or (state.step is not None and state.step < 0):
        raise Malformed("counts fewer than no stages or steps")
    if state.sealed and len(state.sealed) != len(state.learned):
        raise Malformed("does not say the same number of tasks everywhere")


def check_learned(state: State) -> None:
    """Refuse what a state says of its tasks where a run is to go on from it.

    Raises:
        Malformed: it is not what a run says.
    """
    for learned in state.learned:
        fitting(_Learned, learned)


def check_stream(state: State, stages: list[int]) -> None:
    """Refuse a state that is of other tasks than a stream has.

    Args:
        state: of a run.
        stages: how many tasks each stage of the stream has.

    Raises:
        Malformed: it is.
    """
    done = state.stages_learned
    going_on = state.step is not None
    rows = [int(name.removesuffix(".safetensors").rpartition("-")[2]) for name in state.rows]
    if (
        done + going_on > len(stages)
        or len(rows) > done
        or any(row >= sum(stages) for row in rows)
        or len(state.learned) != sum(stages[:done])
    ):
        raise Malformed("is of other tasks than the stream has")


@contextlib.contextmanager
def needed_by(what: str, directory: RunDirectory, state: State, working: str | None = None) -> Iterator[None]:
    """Name the file where tensors that are used inside are not what `what` needs.

    Args:
        what: uses them, for the message: `method 'rail'`.
        directory: they were read from.
        state: says what the files are.
        working: the file of the working state; by default that of `state`.

    Raises:
        EverclipError: in the place of a `MisfitError`.
    """
    try:
        yield
    except MisfitError as error:
        if isinstance(error.part, int):
            name = state.sealed[error.part]
        else:
            name = state.selector if error.part == "selector" else working or state.working
        raise directory.unfit(name or directory.state, what, error.reason) from error
