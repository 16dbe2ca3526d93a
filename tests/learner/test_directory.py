"""Learners on disk: the same after loading, whole after a kill, one sentence where something is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

from everclip.errors import EverclipError, InputError
from everclip.learner import Learner, LearnerDirectory, hub
from everclip.learner.card import card, summary
from everclip.learner.directory import Stored
from everclip.storage import faults
from everclip.storage.directory import body_digest

from .. import tiny
from .test_learner import ask


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("lessons")
    classes = {"paint": ["red", "green"], "cloth": ["gray", "red"], "third": ["blue"]}
    return {
        name: tiny.image_folder(root / name, own, seed=number) for number, (name, own) in enumerate(classes.items())
    }


@pytest.fixture(scope="module")
def photos(folders: dict[str, Path]) -> list[Path]:
    return sorted(path for folder in folders.values() for path in (folder / "test").rglob("*.png"))


@pytest.fixture(scope="module")
def learners(tiny_clip: Path, folders: dict[str, Path]) -> dict[str, Learner]:
    """Learners of two tasks, one of them in two lessons."""
    made = {}
    for method in ("rail", "moe-adapters", "zero-shot"):
        settings = {"rail": {"random_features": 16}, "moe-adapters": {"iterations": 3, "batch": 4, "warmup": 1}}
        made[method] = Learner.create(str(tiny_clip), method, settings.get(method), "cpu")
        for name, folder in (("paint", "paint"), ("cloth", "cloth"), ("paint", "third")):
            made[method].learn(name, folders[folder])
    return made


@pytest.fixture
def saved(learners: dict[str, Learner], tmp_path: Path) -> Path:
    learners["rail"].save(tmp_path / "model")
    return tmp_path / "model"


# -- the same after loading --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rail", "moe-adapters", "zero-shot"])
def test_a_loaded_learner_is_the_same(
    learners: dict[str, Learner], photos: list[Path], folders: dict[str, Path], tmp_path: Path, method: str
) -> None:
    learner = learners[method]
    learner.save(tmp_path / "model")
    loaded = Learner.load(tmp_path / "model", device="cpu")
    assert ask(loaded, photos, "a house") == ask(learner, photos, "a house")
    assert loaded.tasks == learner.tasks
    assert loaded.config == learner.config
    assert summary(LearnerDirectory(tmp_path / "model").peek())["tasks"][0]["name"] == "paint"
    loaded.save(tmp_path / "again")
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("model", "again")]
    assert files[0] == files[1]  # named by their content
    # It goes on learning as if it had never been away.
    loaded.learn("more", folders["cloth"])
    other = Learner.load(tmp_path / "again", device="cpu")
    other.learn("more", folders["cloth"])
    assert ask(loaded, photos) == ask(other, photos)


def test_what_tells_the_unknown_is_stored_or_found_again(saved: Path, photos: list[Path]) -> None:
    expected = ask(Learner.load(saved, device="cpu"), photos)
    directory = LearnerDirectory(saved)
    about = directory.read_state()
    del about["familiarity"]  # as a version wrote it that did not store it
    directory.write_state(about)
    assert ask(Learner.load(saved, device="cpu"), photos) == expected


def test_an_empty_learner_can_be_kept(tiny_clip: Path, tmp_path: Path, photos: list[Path]) -> None:
    for method in ("rail", "moe-adapters"):
        Learner.create(str(tiny_clip), method, device="cpu").save(tmp_path / method)
        loaded = Learner.load(tmp_path / method, device="cpu")
        assert loaded.tasks == []
        assert loaded.predict(photos[0], ["cat"]).task == "zero-shot"


def test_only_what_changed_is_written(saved: Path, folders: dict[str, Path]) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in saved.glob("increment-*")}
    images = [(path, "gray") for path in sorted((folders["cloth"] / "train/gray").iterdir())]
    with Learner.edit(saved, "cpu") as learner:
        learner.learn("new", images)
    after = {path.name: path.stat().st_mtime_ns for path in saved.glob("increment-*")}
    assert len(before) == 3
    assert len(after) == 4
    assert before.items() < after.items()
    assert len(list(saved.glob("working-*"))) == 1


def test_forgetting_leaves_no_file_of_the_task(saved: Path, photos: list[Path]) -> None:
    with Learner.edit(saved, "cpu") as learner:
        learner.forget("paint")
    assert len(list(saved.glob("increment-*"))) == 1
    everything = (saved / "learner.json").read_text() + (saved / "README.md").read_text()
    assert "paint" not in everything
    assert {task for _, task in ask(Learner.load(saved, device="cpu"), photos)[0]} == {"cloth"}


def test_an_error_while_editing_saves_nothing(saved: Path) -> None:
    before = (saved / "learner.json").read_bytes()
    with contextlib.suppress(InputError), Learner.edit(saved, "cpu") as learner:
        learner.forget("paint")
        learner.forget("nothing")
    assert learner.tasks != Learner.load(saved, device="cpu").tasks
    assert (saved / "learner.json").read_bytes() == before


# -- whole after a kill ------------------------------------------------------------------------------------------------


def replace_by(source: Path, target: Path) -> None:
    """Save the learner of one directory into another."""
    kept = LearnerDirectory(source).load()
    about = {name: value for name, value in kept.about.items() if name not in ("format", "files")}
    directory = LearnerDirectory(target)
    with directory:
        directory.save(Stored(about, kept.parts), card(summary(about)))


def cut_off(source: Path, target: Path, fault: str) -> int:
    """The exit status of a process that does so and ends at a fault point; it computes nothing, so it may be forked."""
    child = os.fork()
    if child == 0:
        os.environ["EVERCLIP_FAULT"] = fault
        try:
            replace_by(source, target)
        except EverclipError as error:
            os._exit(error.exit_code)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def before_and_after(learners: dict[str, Learner], folders: dict[str, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Two learners that share one increment's files."""
    learners["rail"].save(tmp_path / "old")
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    with Learner.edit(tmp_path / "new", "cpu") as learner:
        learner.forget("paint")
        learner.learn("third", folders["third"])
    return tmp_path / "old", tmp_path / "new"


def contents(directory: Path) -> tuple[dict, dict]:
    kept = LearnerDirectory(directory).load()
    return kept.about, {part: {k: v.tolist() for k, v in tensors.items()} for part, tensors in kept.parts.items()}


def test_killed_at_any_moment_the_old_or_the_new_learner_is_there(
    before_and_after: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = before_and_after
    states = [contents(old), contents(new)]
    seen = []
    for number in range(1, 40):
        target = tmp_path / str(number)
        shutil.copytree(old, target)
        status = cut_off(new, target, str(number))
        seen.append(states.index(contents(target)))
        if status == 0:
            break
        assert status == faults.EXIT_CODE
        replace_by(new, target)  # whatever was left over is gone after the next save
        assert contents(target) == states[1]
        assert sorted(path.name for path in target.iterdir()) == sorted(path.name for path in new.iterdir())
    assert seen == sorted(seen), "once it is the new one it stays so"
    assert {0, 1} == set(seen)
    assert number > 8


def test_killed_in_the_first_save_there_is_none_yet(before_and_after: tuple[Path, Path], tmp_path: Path) -> None:
    _, new = before_and_after
    for fault in ("1", "3", "5"):
        assert cut_off(new, tmp_path / "first", fault) == faults.EXIT_CODE
        with pytest.raises(InputError, match="holds no learner"):
            Learner.load(tmp_path / "first")
    Learner.load(new, device="cpu").save(tmp_path / "first")
    assert contents(tmp_path / "first")[1] == contents(new)[1]


def test_a_full_disk_keeps_what_was_there(before_and_after: tuple[Path, Path]) -> None:
    old, new = before_and_after
    before = contents(old)
    assert cut_off(new, old, "2:disk-full") == 1
    assert contents(old) == before


def test_whoever_saves_while_it_is_read_is_waited_for(
    before_and_after: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = before_and_after
    expected = contents(new)
    read = LearnerDirectory._tensors
    calls = []

    def saved_meanwhile(self: LearnerDirectory, file: dict) -> dict:
        if not calls:
            calls.append(file)
            replace_by(new, old)
        return read(self, file)

    monkeypatch.setattr(LearnerDirectory, "_tensors", saved_meanwhile)
    assert contents(old) == expected


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["learner.json", "increment-*", "working-*"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_one_sentence_that_names_the_file(saved: Path, pattern: str, damage: str) -> None:
    path = sorted(saved.glob(pattern))[0]
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    with pytest.raises(EverclipError, match=path.name) as error:
        Learner.load(saved)
    assert "\n" not in str(error.value)


def rewrite(saved: Path, **changes: object) -> None:
    body = json.loads((saved / "learner.json").read_text())["state"] | changes
    (saved / "learner.json").write_text(json.dumps({"sha256": body_digest(body), "state": body}))


def test_another_format_is_refused(saved: Path) -> None:
    rewrite(saved, format=99)
    with pytest.raises(EverclipError, match="format 99, this one reads 1"):
        Learner.load(saved)


def test_other_weights_are_refused_and_moved_ones_are_found(
    saved: Path, tiny_clip: Path, tmp_path: Path, photos: list[Path]
) -> None:
    other = tiny.clip_folder(tmp_path / "other", tiny.VIT, seed=1)
    with pytest.raises(EverclipError, match="other weights"):
        Learner.load(saved, str(other), "cpu")
    moved = tmp_path / "moved"
    shutil.copytree(tiny_clip, moved)
    loaded = Learner.load(saved, str(moved), "cpu")
    assert ask(loaded, photos) == ask(Learner.load(saved, device="cpu"), photos)
    assert loaded.config.setup.backbone == str(moved)


def test_a_folder_of_something_else_is_left_alone(learners: dict[str, Learner], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match="another folder"):
            learners["rail"].save(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "thesis.tex"]
    with pytest.raises(InputError, match="holds no learner"):
        Learner.load(tmp_path)
    with pytest.raises(InputError, match="holds no learner"), Learner.edit(tmp_path / "nowhere"):
        pass
    assert not (tmp_path / "nowhere").exists()


def test_one_writer_at_a_time(learners: dict[str, Learner], saved: Path) -> None:
    with LearnerDirectory(saved):
        with pytest.raises(EverclipError, match=f"in use by process {os.getpid()}"):
            learners["rail"].save(saved)
        with pytest.raises(EverclipError, match="in use"), Learner.edit(saved):
            pass
        assert Learner.load(saved, device="cpu").tasks  # reading needs no lock
    learners["rail"].save(saved)
    with pytest.raises(InputError, match="already"):
        learners["rail"].save(saved, replace=False)


# -- the model card and the Hub ----------------------------------------------------------------------------------------


def test_the_card_tells_tasks_and_accuracies(saved: Path, learners: dict[str, Learner]) -> None:
    lines = (saved / "README.md").read_text().splitlines()
    assert lines[:2] == ["---", "library_name: everclip"]
    assert "| paint | 3 | 18 | green, red, blue |" in lines
    assert "| after | paint | cloth |" in lines
    (first,) = [line for line in lines if line.startswith("| paint | ") and line.endswith("| – |")]
    assert first.count("|") == 4
    assert any(line.startswith("| paint #2 | ") for line in lines)


class Hub:
    """The Hub's functions on a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens: list[str | None] = []

    def create_repo(self, repo_id: str, *, token: str | None, exist_ok: bool) -> None:
        assert exist_ok
        self.tokens.append(token)

    def upload_folder(self, *, repo_id: str, folder_path: Path, ignore_patterns: list[str], **options: object) -> None:
        assert "lock" in ignore_patterns
        shutil.copytree(folder_path, self.folder / repo_id, ignore=shutil.ignore_patterns(*ignore_patterns))

    def snapshot_download(self, repo_id: str, *, token: str | None, allow_patterns: list[str]) -> str:
        if not (self.folder / repo_id).is_dir():
            raise FileNotFoundError("404: no such repository")
        return str(self.folder / repo_id)


@pytest.fixture
def the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    fake = Hub(tmp_path / "hub")
    for name in ("create_repo", "upload_folder", "snapshot_download"):
        monkeypatch.setattr(hub, name, getattr(fake, name))
    return fake


def test_to_the_hub_and_back(learners: dict[str, Learner], the_hub: Hub, photos: list[Path]) -> None:
    learners["rail"].push_to_hub("me/birds", token="secret")
    assert the_hub.tokens == ["secret"]
    names = {path.name for path in (the_hub.folder / "me/birds").iterdir()}
    assert {"README.md", "learner.json"} < names
    assert "lock" not in names
    assert ask(Learner.from_pretrained("me/birds", device="cpu"), photos) == ask(learners["rail"], photos)
    assert Learner.from_pretrained(the_hub.folder / "me/birds", device="cpu").tasks == learners["rail"].tasks


def test_a_hub_that_says_no_is_one_sentence(
    learners: dict[str, Learner], the_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EverclipError, match="no such repository"):
        Learner.from_pretrained("me/nothing")

    def refuse(**options: object) -> None:
        raise OSError("no connection")

    monkeypatch.setattr(hub, "upload_folder", refuse)
    with pytest.raises(EverclipError, match="no connection"):
        learners["rail"].push_to_hub("me/birds")


def test_a_push_without_room_for_temporary_files_is_one_sentence(
    learners: dict[str, Learner], the_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(EverclipError, match=r"gone takes no temporary files .*TMPDIR"):
        learners["rail"].push_to_hub("me/birds")


def test_held_out_samples_are_embeddings_and_no_paths(saved: Path, folders: dict[str, Path]) -> None:
    kept = LearnerDirectory(saved).load()
    assert str(folders["paint"]) not in json.dumps(kept.about["increments"])
    sample = kept.parts["increment-0"]["held_out.embeddings"]
    assert sample.shape == (2, 32)
    assert sample.dtype == torch.float32
