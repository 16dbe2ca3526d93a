"""A state whose SHA-256 fits is not believed for that: it names files that a run has, and counts what can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from everclip.errors import EverclipError
from everclip.storage.directory import body_digest
from everclip.storage.identity import Identity
from everclip.storage.reading import Malformed
from everclip.storage.run import RunDirectory, State
from everclip.storage.stated import check_stream, needed_by
from everclip.storage.tensors import MisfitError

WORKING = "checkpoints/working-01.safetensors"
LEARNED = {"train": 3, "skipped": [["a.png", "cut short"]], "trained_parameters": 7}


def directory(path: Path, **changes: Any) -> RunDirectory:
    """A run directory with a state that is sound but for these changes."""
    body = {
        "format": 5,
        "method": "m",
        "backbone": "b",
        "data": "d",
        "stages_learned": 1,
        "learned": [LEARNED],
        **changes,
    }
    (path / "config.yaml").write_text("method: m\n")
    (path / "checkpoints").mkdir(exist_ok=True)
    (path / "checkpoints/state.json").write_text(json.dumps({"sha256": body_digest(body), "state": body}))
    return RunDirectory(path)


def test_a_sound_one_is_read(tmp_path: Path) -> None:
    state = directory(tmp_path).load_state("m", Identity("b"), Identity("d"))
    assert state is not None
    assert state.learned == [LEARNED]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"working": "/etc/passwd"}, "names the file '/etc/passwd'"),
        ({"working": "checkpoints/../../x"}, "names the file"),
        ({"working": WORKING}, "without its SHA-256"),
        ({"files": {"../x": "0"}}, "names the file '../x'"),
        ({"files": {"a//b": "0"}}, "names the file"),
        ({"rows": ["checkpoints/x.safetensors"], "files": {"checkpoints/x.safetensors": ""}}, "the row"),
        ({"sealed": [None, None]}, "same number of tasks"),
        ({"stages_learned": -1}, "fewer than no"),
        ({"step": -1}, "fewer than no"),
        ({"step": True}, "'step'"),
        ({"method": None}, "'method'"),
        ({"more": 1}, "'more'"),
        ({"files": []}, "'files'"),
        ({"learned": [{"train": -1, "skipped": [], "trained_parameters": 0}]}, "'train'"),
        ({"learned": [LEARNED | {"skipped": [["a"]]}]}, "'skipped"),
        ({"learned": [{}]}, "'train'"),
    ],
)
def test_what_it_says_is_not_believed(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(EverclipError) as error:
        directory(tmp_path, **changes).load_state("m", Identity("b"), Identity("d"))
    assert words in str(error.value)
    assert "state.json is damaged (it " in str(error.value)


@pytest.mark.parametrize(
    ("state", "stages"),
    [
        (State("m", "", "", stages_learned=3, learned=[{}] * 3), [1, 1]),
        (State("m", "", "", stages_learned=2, learned=[{}] * 2, step=4), [1, 1]),
        (State("m", "", "", stages_learned=1, learned=[{}] * 2), [1, 1]),
        (State("m", "", "", rows=["evaluation/after-00.safetensors"]), [1, 1]),
        (State("m", "", "", stages_learned=1, learned=[{}], rows=["evaluation/after-07.safetensors"]), [1, 1]),
    ],
)
def test_a_state_of_another_stream(state: State, stages: list[int]) -> None:
    with pytest.raises(Malformed, match="other tasks than the stream"):
        check_stream(state, stages)


def test_states_of_this_stream() -> None:
    check_stream(State("m", "", ""), [1, 1])
    check_stream(State("m", "", "", step=4), [2])
    check_stream(State("m", "", "", stages_learned=1, learned=[{}] * 2, rows=["evaluation/after-01.safetensors"]), [2])


def test_tensors_that_do_not_fit_name_their_file(tmp_path: Path) -> None:
    state = State("m", "", "", sealed=["checkpoints/task-00"], working=WORKING, selector="checkpoints/selector-00")
    for part, name in ((0, "task-00"), ("working", WORKING), ("selector", "selector-00")):
        with (
            pytest.raises(EverclipError, match=rf"{name} does not hold what method 'm' needs \(why\); put it back"),
            needed_by("method 'm'", RunDirectory(tmp_path), state),
        ):
            raise MisfitError(part, "why")
