"""A run and what it is made of lie at another path than before: the content is what is known."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml
from PIL import Image, ImageOps

from everclip.errors import EverclipError, InputError
from everclip.experiment import runner
from everclip.experiment.config import Config
from everclip.experiment.learned import judgment
from everclip.report import compare
from everclip.storage.run import RunDirectory, config_text
from everclip.storage.state import CONFIG, State
from everclip.system.display import Display

from .. import tiny

FOLDERS = ("paint", "cloth")


class Notes(Display):
    """Keeps what it is told to say."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def values(place: Path, **changes: object) -> dict:
    return {
        "method": "moe-adapters", "stream": "folders:" + ",".join(str(place / name) for name in FOLDERS),
        "backbone": str(place / "clip"), "device": "cpu", "keep_stages": True, "selector": "prototype",
        "iterations": 3, "batch": 4, "warmup": 1, "lr": 1e-2, "checkpoint_every": 2, **changes,
    }  # fmt: skip


class Cut(BaseException):
    """The run ends here."""


def cut_off(changes: dict, out: Path, here: Callable[[State], bool]) -> None:
    """Run until a state is saved that `here` names, and no further."""
    save = RunDirectory.save_state

    def save_and_end(self: RunDirectory, state: State, *texts: Mapping[str, str]) -> None:
        save(self, state, *texts)
        if here(state):
            raise Cut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "save_state", save_and_end)
        with pytest.raises(Cut):
            runner.run(Config.of(changes), out)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with data, a model, a finished run and one that was cut off within its second task."""
    place = tmp_path_factory.mktemp("before")
    tiny.image_folder(place / "paint", ["red", "green"])
    tiny.image_folder(place / "cloth", ["gray", "blue"], seed=1)
    tiny.clip_folder(place / "clip", tiny.VIT)
    runner.run(Config.of(values(place)), place / "whole")
    cut_off(values(place), place / "cut", lambda state: (state.stages_learned, state.step) == (1, 2))
    return place


@pytest.fixture
def after(before: Path, tmp_path: Path) -> Path:
    """The same at another place, of which nothing is left at the first."""
    shutil.copytree(before, tmp_path / "after")
    return tmp_path / "after"


def stored(directory: Path) -> dict:
    return json.loads((directory / "checkpoints/state.json").read_text())["state"]


def resume(changes: dict, out: Path) -> list[str]:
    """Go on in this process; what was said."""
    notes = Notes()
    runner.run(Config.of(changes), out, resume=True, display=notes)
    return notes.said


def other_pixels(file: Path) -> None:
    """Another image of the same name."""
    ImageOps.mirror(Image.open(file)).save(file)


def all_other(folder: Path) -> None:
    """Other images, whichever of them a split takes."""
    for file in folder.rglob("*.png"):
        other_pixels(file)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


# -- going on ----------------------------------------------------------------------------------------------------------


def test_a_run_goes_on_at_another_place(before: Path, after: Path) -> None:
    said = resume(values(after), after / "cut")
    (line,) = [each for each in said if "stream" in each]
    assert line == (
        f"stream is now {values(after)['stream']} (was {values(before)['stream']}), "
        f"backbone is now {after / 'clip'} (was {before / 'clip'}): the same."
    )
    assert (after / "cut/matrix.csv").read_bytes() == (before / "whole/matrix.csv").read_bytes()
    learned = [stored(after / "cut"), stored(before / "whole")]
    written = [state.pop("written") for state in learned]  # configuration, figures and page name the places
    assert learned[0] == learned[1]
    assert written[0]["matrix.csv"] == written[1]["matrix.csv"]
    assert yaml.safe_load((after / "cut/config.yaml").read_text())["stream"] == values(after)["stream"]
    assert not [each for each in resume(values(after), after / "cut") if "stream" in each], "it is told once"


def test_the_same_path_said_otherwise_is_the_same_place(after: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resume(values(after), after / "cut")
    monkeypatch.chdir(after)
    assert resume(values(Path()), after / "cut")[-1] == f"{after / 'cut'} is finished already."


def test_a_finished_run_is_recognized_and_left_alone(after: Path) -> None:
    content = files(after / "whole")
    said = resume(values(after), after / "whole")
    assert said[0].startswith("stream is now ")
    assert said[-1] == f"{after / 'whole'} is finished already."
    assert files(after / "whole") == content


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_finished_run_may_be_read_only(after: Path) -> None:
    for path in [after / "whole", *(after / "whole").rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    assert resume(values(after), after / "whole")[-1].endswith("is finished already.")


# -- something else ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda at: other_pixels(at / "paint/test/red/000.png"), "that holds other images, labels"),
        (lambda at: (at / "paint/train/red").rename(at / "paint/train/rot"), "rot|red"),
        (lambda at: (at / "cloth/test/gray/000.png").unlink(), "that holds other images, labels"),
        (lambda at: all_other(at / "paint/train"), "that holds other training images"),
        (lambda at: all_other(at / "cloth/train"), "that holds other training images"),
    ],
    ids=["test image", "class", "missing", "learned image", "image of the task under way"],
)
@pytest.mark.parametrize("name", ["cut", "whole"])
def test_other_data_are_refused(name: str, change: Callable[[Path], object], words: str, after: Path) -> None:
    change(after)
    content = files(after / name)
    with pytest.raises(InputError, match=words):
        resume(values(after), after / name)
    assert files(after / name) == content


def test_the_sentence_names_both_places(before: Path, after: Path) -> None:
    other_pixels(after / "paint/test/red/000.png")
    with pytest.raises(InputError) as error:
        resume(values(after), after / "cut")
    for part in (str(after / "cut"), values(before)["stream"], values(after)["stream"], "--out"):
        assert part in str(error.value)


def test_another_model_is_refused(after: Path) -> None:
    tiny.clip_folder(after / "other", tiny.VIT, seed=1)
    with pytest.raises(InputError, match=r"backbone=.*clip, not .*other: that is another model"):
        resume(values(after, backbone=str(after / "other")), after / "cut")


@pytest.mark.parametrize("stream", ["drawn:shapes,glyphs", "folders:{0}/paint", "cil:{0}/paint,{0}/cloth"])
def test_a_stream_of_another_kind_or_length_is_no_other_place(stream: str, after: Path) -> None:
    with pytest.raises(InputError, match="holds a run with stream="):
        resume(values(after, stream=stream.format(after)), after / "cut")


def test_training_images_that_change_in_place_within_a_task_are_refused(after: Path) -> None:
    resume_values = values(after)
    directory = RunDirectory(after / "cut")
    state = directory.peek_state()
    assert state is not None
    here = {k: resume_values[k] for k in ("stream", "backbone")}
    directory.save_state(state, {CONFIG: config_text(directory.read_config() | here)})
    all_other(after / "cloth/train")
    with pytest.raises(EverclipError, match="the training images of 'cloth' are not those"):
        resume(resume_values, after / "cut")


# -- judging and comparing ---------------------------------------------------------------------------------------------


def judged(out: Path) -> list:
    return [(out / "matrix.csv").read_text(), json.loads((out / "results.json").read_text())["routing"]]


def test_a_run_is_judged_at_another_place(before: Path, after: Path) -> None:
    moved = {name: values(after)[name] for name in ("stream", "backbone")}
    runner.run(judgment(after / "whole", moved), after / "judged")
    assert judged(after / "judged") == judged(before / "whole")
    # The judgment and what it judged move on together.
    last = after.with_name("last")
    after.rename(last)
    moved = {name: values(last)[name] for name in ("stream", "backbone")}
    again = judgment(last / "judged", moved | {"learned": str(last / "whole")})
    notes = Notes()
    runner.run(again, last / "judged", resume=True, display=notes)
    assert notes.said[-1] == f"{last / 'judged'} is finished already."
    runner.run(again, last / "once more")
    assert judged(last / "once more") == judged(before / "whole")


@pytest.mark.parametrize("part", ["test", "train"])
def test_other_data_are_not_judged(part: str, after: Path) -> None:
    all_other(after / "paint" / part)
    moved = {name: values(after)[name] for name in ("stream", "backbone")}
    with pytest.raises(InputError, match="that holds other"):
        runner.run(judgment(after / "whole", moved), after / "judged")
    assert not (after / "judged").exists()


def test_runs_of_two_places_compare(before: Path, after: Path) -> None:
    runner.run(Config.of(values(after, seed=1)), after / "second")
    comparison = compare([before / "whole", after / "second"])
    assert [row.seeds for row in comparison.rows] == [(0, 1)]


# -- references and texts ----------------------------------------------------------------------------------------------


def test_what_is_looked_at_besides_moves_too(after: Path, tmp_path: Path) -> None:
    folder = tmp_path / "besides"
    tiny.image_folder(folder, ["blue"])
    given = values(after, reference=str(folder), method="separate", selector="gaussian")
    given.pop("checkpoint_every")
    out = tmp_path / "referred"
    cut_off(given, out, lambda state: state.stages_learned == 1)
    other = folder.rename(tmp_path / "elsewhere")
    other_pixels(other / "test/blue/000.png")
    with pytest.raises(InputError, match=r"reference=.*besides, not .*elsewhere: that holds something else"):
        resume(given | {"reference": str(other)}, out)
    other_pixels(other / "test/blue/000.png")
    said = resume(given | {"reference": str(other)}, out)
    assert f"reference is now {other} (was {folder}): the same." in said
