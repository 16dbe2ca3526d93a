"""Lessons that were accepted survive the service; what was not leaves no photo behind."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from everclip.learner import Learner
from everclip.serve import Service
from everclip.serve.accepted import MOST_TRIES, Lesson, Lessons

from .conftest import lesson


def send(service: Service, name: str, folder: Path) -> str:
    with service.arriving() as arriving:
        for _, (path, content) in lesson(folder):
            with arriving(path) as file:
                file.write(content)
        return service.teach(name, arriving)


def ended(service: Service, job: str) -> str:
    for _ in range(1200):
        found = service.job(job)
        assert found is not None
        if found.state in ("done", "failed"):
            return found.state
        time.sleep(0.05)
    raise AssertionError(service.job(job))


def names(model: Path) -> list[str]:
    return [task.name for task in Learner.load(model).tasks]


def kept(model: Path) -> list[str]:
    """What lies on disk for lessons, but for what became of them."""
    return sorted(path.name for path in (model / ".lessons").rglob("*") if path.name != "ended.json")


@pytest.fixture(scope="module")
def moments(taught: Path, folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], str]:
    """What a directory holds when a lesson begins, when it was saved, and at the end; and the lesson's job."""
    root = tmp_path_factory.mktemp("moments")
    found = {moment: root / moment for moment in ("begun", "saved", "end")}
    model = Path(shutil.copytree(taught, root / "model"))
    learn, save_in = Learner.learn, Learner.save_in

    def begun(learner: Learner, *args: object) -> object:
        shutil.copytree(model, found["begun"])
        return learn(learner, *args)

    def saved(learner: Learner, *args: object) -> None:
        save_in(learner, *args)
        shutil.copytree(model, found["saved"])

    with pytest.MonkeyPatch.context() as watched, Service(model, device="cpu") as service:
        watched.setattr(Learner, "learn", begun)
        watched.setattr(Learner, "save_in", saved)
        job = send(service, "again", folders[0])
        assert ended(service, job) == "done"
    shutil.copytree(model, found["end"])
    return found, job


@pytest.fixture
def killed(moments: tuple[dict[str, Path], str], tmp_path: Path) -> Callable[[str], tuple[Path, str]]:
    """Makes a directory that is as if the process had been killed at a moment, and tells the job."""

    def at(moment: str) -> tuple[Path, str]:
        found, job = moments
        return Path(shutil.copytree(found[moment], tmp_path / "after", dirs_exist_ok=True)), job

    return at


def test_a_lesson_that_was_accepted_is_learned_after_a_kill(
    killed: Callable, moments: tuple[dict[str, Path], str]
) -> None:
    copy, job = killed("begun")
    assert "again" not in names(copy)
    with Service(copy, device="cpu") as service:
        assert ended(service, job) == "done"
    assert names(copy) == names(moments[0]["end"])
    assert kept(copy) == []


def test_a_lesson_that_was_kept_is_not_learned_twice(killed: Callable, moments: tuple[dict[str, Path], str]) -> None:
    copy, job = killed("saved")
    assert kept(copy) != []
    with Service(copy, device="cpu") as service:
        found = service.job(job)
        assert found is not None
        assert (found.state, "killed just afterwards" in found.message) == ("done", True)
        assert not service.learning
    assert Learner.load(copy).tasks == Learner.load(moments[0]["end"]).tasks
    assert kept(copy) == []


def test_where_nobody_can_know_it_says_so(killed: Callable) -> None:
    copy, job = killed("saved")
    with Learner.edit(copy) as learner:
        learner.forget(learner.tasks[0].name)
    before = names(copy)
    with Service(copy, device="cpu") as service:
        found = service.job(job)
        assert found is not None
        assert found.state == "failed"
        assert "may be lost" in found.message
    assert names(copy) == before
    assert kept(copy) == []


@pytest.mark.parametrize("damage", ["cut", "gone", "list", "tries", "foreign"])
def test_what_cannot_be_learned_any_more_is_reported(killed: Callable, damage: str) -> None:
    copy, job = killed("begun")
    (folder,) = (copy / ".lessons").glob(f"*-{job}")
    photo = sorted(folder.glob("*.png"))[0]
    if damage == "cut":
        photo.write_bytes(photo.read_bytes()[:-1])
    elif damage == "gone":
        photo.unlink()
    elif damage == "list":
        (folder / "lesson.json").write_text('{"task": "x", "files": [')
    elif damage == "tries":
        (folder / "tries.json").write_text("[]")
    else:  # a name that leads out of the folder
        said = json.loads((folder / "lesson.json").read_text())
        said["files"][0]["name"] = "000000/../../../learner.json"
        (folder / "lesson.json").write_text(json.dumps(said))
    before = names(copy)
    with Service(copy, device="cpu") as service:
        found = service.job(job)
        assert found is not None
        assert (found.state, "lost" in found.message) == ("failed", True)
    assert names(copy) == before
    assert kept(copy) == []


def test_a_lesson_that_ends_the_service_each_time_is_given_up(killed: Callable) -> None:
    copy, job = killed("begun")
    (folder,) = (copy / ".lessons").glob(f"*-{job}")
    (folder / "tries.json").write_text(json.dumps({"begun": MOST_TRIES}))
    with Service(copy, device="cpu") as service:
        assert ended(service, job) == "failed"
        assert f"ended {MOST_TRIES} times" in service.job(job).message


def test_what_became_of_a_lesson_can_be_asked_after_the_next_start(
    serving: Callable[..., Service], model: Path, folders: list[Path]
) -> None:
    service = serving()
    job = send(service, "again", folders[0])
    assert ended(service, job) == "done"
    said = service.job(job)
    service.close()
    with Service(model, device="cpu") as after:
        assert after.job(job) == said


def test_lessons_are_learned_in_the_order_in_which_they_were_accepted(model: Path, folders: list[Path]) -> None:
    jobs = []
    lessons = Lessons(model)
    for name in ("one", "two", "three"):
        each = lessons.new()
        for _, (path, content) in lesson(folders[0]):
            with each.add(path) as file:
                file.write(content)
        each.accept(name, name)
        jobs.append(each.job)
    with Service(model, device="cpu") as service:
        assert [ended(service, job) for job in jobs] == ["done"] * 3
    assert names(model)[-3:] == ["one", "two", "three"]


def test_photos_that_were_never_accepted_are_removed_at_the_start(model: Path) -> None:
    half = Lessons(model).new()
    with half.add("red/a.png") as file:
        file.write(b"half a photo")
    assert kept(model) != []
    with Service(model, device="cpu"):
        assert kept(model) == []


def test_an_upload_that_fails_leaves_nothing(serving: Callable[..., Service], model: Path) -> None:
    service = serving()

    def half() -> None:
        with service.arriving() as arriving, arriving("red/a.png") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert kept(model) == []
    assert not service.learning


def test_a_lesson_under_way_stops_when_the_service_ends_and_goes_on_at_the_next_start(
    serving: Callable[..., Service], model: Path, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    plain = Learner.learn

    def slowly(learner: Learner, *args: object) -> object:
        with learner.display.bar("images") as bar:
            begun.set()
            assert go.wait(30)
            bar(1, 2)
        return plain(learner, *args)

    with monkeypatch.context() as slow:
        slow.setattr(Learner, "learn", slowly)
        service = serving()
        first, second = send(service, "one", folders[0]), send(service, "two", folders[1])
        assert begun.wait(30)
        closing = threading.Thread(target=service.close)
        closing.start()
        while not service._progress.stopped:
            time.sleep(0.01)
        go.set()
        closing.join(30)
    assert "one" not in names(model)
    with Service(model, device="cpu") as after:
        assert [ended(after, job) for job in (first, second)] == ["done", "done"]
    assert names(model)[-2:] == ["one", "two"]


def test_the_folder_of_a_lesson_is_that_of_its_learner_and_hidden(model: Path) -> None:
    folder = Lessons(model).new()
    assert folder.job
    Learner.load(model).save(model)
    assert isinstance(folder, Lesson)
    assert kept(model) != []


def test_what_was_sent_is_read_again_as_it_was_meant(model: Path, folders: list[Path]) -> None:
    """The rule on folders needs the paths, the folder's name, and what was no photo."""
    each = Lessons(model).new()
    sent = [(f"shades/{path}", content) for _, (path, content) in lesson(folders[0])]
    more = [("shades/dataset.json", b'{"class_names": {"red": "rosso"}}'), ("shades/red/film.mov", b"film")]
    for path, content in (*sent, *more):
        with each.add(path) as file:
            file.write(content)
    assert len(each) == len(sent) + 2
    each.accept("colori", "shades")
    again = Lesson(each._folder)
    again.read()
    for found in (each.found(), again.found()):
        assert "rosso" in found.class_names
        assert (len(found), found.left_out) == (len(sent), {".mov": 1})
        assert {entry.origin for entry in found.entries} == {path for path, _ in sent}
    with Service(model, device="cpu") as service:
        assert ended(service, each.job) == "done"
        assert "1 file left out: 1 .mov" in service.job(each.job).message
