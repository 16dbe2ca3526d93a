"""A learner against the laws it states: one rule of answers, exact forgetting, all or nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures
from everclip.data import BadImage
from everclip.engine import training
from everclip.errors import EverclipError, InputError
from everclip.experiment import runner
from everclip.experiment.config import Config
from everclip.experiment.outcomes import unpack
from everclip.learner import Learner, Prediction
from everclip.learner import learner as module
from everclip.learner.config import LearnerConfig
from everclip.learner.knowledge import Knowledge
from everclip.learner.lessons import HELD_OUT_LIMIT, held_out_rows
from everclip.methods import METHODS

from .. import tiny

QUICK = {"iterations": 3, "batch": 4, "warmup": 1}
SETTINGS = {
    "ncm": {},
    "lda": {},
    "ranpac": {"random_features": 32},
    "rail": {"random_features": 32},
    "rail-dual": {},
    "moe-adapters": QUICK,
    "zero-shot": {},
}
CLOSED_FORM = ["ncm", "lda", "ranpac", "rail", "rail-dual"]

New = Callable[..., Learner]


@pytest.fixture(scope="module")
def backbone(tiny_clip: Path) -> Backbone:
    return Backbone.load(str(tiny_clip))


@pytest.fixture(scope="module")
def new(backbone: Backbone, tiny_clip: Path) -> New:
    """A learner on the tiny CLIP that has learned these folders."""
    features = FrozenFeatures(backbone)

    def make(method: str = "rail", *folders: Path, **settings: object) -> Learner:
        values = {"method": method, "backbone": str(tiny_clip), **SETTINGS[method], **settings}
        learner = Learner(Knowledge(LearnerConfig.of(values), features))
        for folder in folders:
            learner.learn(folder.name, folder)
        return learner

    return make


def said(answers: list[Prediction]) -> list[dict[tuple[str, str], float]]:
    """(label, task) → probability, of answers that name all candidates."""
    return [{(label, task): p for label, p, task in answer.top} for answer in answers]


def ask(learner: Learner, photos: list[Path], *labels: str, only: bool = False) -> list[dict[tuple[str, str], float]]:
    return said(learner.predict(photos, labels, only=only, closed=True, top_k=100))


def assert_close(one: list[dict], other: list[dict], tolerance: float) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        assert all(abs(a[key] - b[key]) <= tolerance for key in a)


# -- what nobody taught ------------------------------------------------------------------------------------------------


def dark(folder: Path, count: int = 12) -> list[Path]:
    """Photographs of a kind that no folder of the tests has."""
    folder.mkdir()
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 40, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("method", SETTINGS)
def test_an_image_of_no_learned_kind_is_not_forced_into_one(
    new: New, paint: Path, cloth: Path, tmp_path: Path, method: str
) -> None:
    learner = new(method, paint, cloth)
    photos = dark(tmp_path / "dark")
    for answer in learner.predict(photos, top_k=100):
        assert (answer.label, answer.task) == (None, "zero-shot")
        assert answer.probability == answer.route_confidence > 0.5
        assert sum(p for _, p, _ in answer.top) == pytest.approx(1, abs=1e-5)
    for answer in learner.predict(photos, closed=True, top_k=100):
        assert answer.label is not None
        assert all(label is not None for label, _, _ in answer.top)
    for answer in learner.predict(photos, ["a house"], top_k=100):
        assert all(label is not None for label, _, _ in answer.top), "another label takes the place of none"


def test_images_of_a_learned_kind_are_known(new: New, paint: Path, cloth: Path, photos: list[Path]) -> None:
    learner = new("rail", paint, cloth)
    answers = learner.predict(photos, top_k=100)
    assert sum(answer.label is not None for answer in answers) >= 0.8 * len(photos)
    for open_, closed in zip(answers, learner.predict(photos, closed=True, top_k=100), strict=True):
        none = {label: p for label, p, _ in open_.top}[None]
        assert {label: p for label, p, _ in open_.top if label is not None} == {
            label: pytest.approx((1 - none) * p, abs=1e-6) for label, p, _ in closed.top
        }
        if none <= 0.5:
            assert open_.label == closed.label


# -- one rule of answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rail", "moe-adapters"])
def test_a_run_over_the_same_images_learns_and_answers_the_same(
    new: New, tiny_clip: Path, two_folders: str, paint: Path, cloth: Path, tmp_path: Path, method: str
) -> None:
    settings = {**SETTINGS[method], **({"lr": 5e-3, "scale": 1.0} if method == "moe-adapters" else {})}
    values = {"method": method, "backbone": str(tiny_clip), "stream": two_folders, "device": "cpu", **settings}
    runner.run(Config.of(values), tmp_path / "run")
    learner = new(method, paint, cloth)
    sealed, _, selector = learner._knowledge.state()
    for index, tensors in enumerate(sealed):
        stored = load_file(tmp_path / f"run/checkpoints/task-{index:02d}.safetensors")
        assert tensors.keys() == stored.keys()
        for name in stored:  # embedded in other batches, so up to rounding
            torch.testing.assert_close(tensors[name], stored[name], rtol=1e-4, atol=1e-6)
    if selector:
        stored = load_file(tmp_path / "run/checkpoints/selector-01.safetensors")
        for name in stored:
            torch.testing.assert_close(selector[name], stored[name], rtol=1e-4, atol=1e-6)
    outcomes = unpack(load_file(tmp_path / "run/evaluation/after-01.safetensors"), 2)
    for folder, outcome in zip((paint, cloth), outcomes, strict=True):
        tests = sorted((folder / "test").rglob("*.png"), key=lambda path: path.parent.name)
        answers = learner.predict(tests)
        right = [(a.label, a.task) == (p.parent.name, folder.name) for a, p in zip(answers, tests, strict=True)]
        assert sorted(right) == sorted(outcome.correct["all"].tolist())
    accuracy = [learner.evaluate(folder).accuracy for folder in (paint, cloth)]
    assert accuracy == pytest.approx([100 * outcome.by_name["all"].mean() for outcome in outcomes])


@pytest.mark.parametrize("method", [*CLOSED_FORM, "moe-adapters"])
def test_labels_that_nobody_taught_keep_exactly_what_clip_gives_them(
    new: New, paint: Path, cloth: Path, photos: list[Path], method: str
) -> None:
    labels = ["a house", "two trees"]
    learned, original = (ask(new(name, paint, cloth), photos, *labels) for name in (method, "zero-shot"))
    assert learned != original
    for one, other in zip(learned, original, strict=True):
        assert sum(one.values()) == pytest.approx(1, abs=1e-5)
        for label in labels:
            assert one[label, "zero-shot"] == other[label, "zero-shot"]


def test_before_the_first_lesson_it_is_clip(new: New, photos: list[Path]) -> None:
    for method in ("rail", "moe-adapters"):
        assert ask(new(method), photos, "cat", "dog") == ask(new("zero-shot"), photos, "cat", "dog")
    with pytest.raises(InputError, match="nothing is learned"):
        new().predict(photos)


@pytest.mark.parametrize("method", ["rail", "moe-adapters"])
def test_a_class_of_two_tasks_is_two_candidates(
    new: New, paint: Path, cloth: Path, photos: list[Path], method: str
) -> None:
    learner = new(method, paint, cloth)
    everything = {("red", "paint"), ("green", "paint"), ("blue", "paint"), ("gray", "cloth"), ("red", "cloth")}
    assert ask(learner, photos)[0].keys() == everything
    assert ask(learner, photos, " RED ", "Green") == ask(learner, photos)  # known already, whatever the spelling
    assert ask(learner, photos, "Red", only=True)[0].keys() == {("red", "paint"), ("red", "cloth")}
    among = ask(learner, photos, "red", "a house", only=True)
    assert among[0].keys() == {("red", "paint"), ("red", "cloth"), ("a house", "zero-shot")}
    assert all(sum(p.values()) == pytest.approx(1, abs=1e-5) for p in among)


def test_the_confidence_of_a_route_is_the_sum_over_its_classes(
    new: New, paint: Path, cloth: Path, photos: list[Path]
) -> None:
    for answer in new("rail", paint, cloth).predict(photos, ["a house", "a tree"], top_k=100):
        assert (answer.label, answer.probability, answer.task) == answer.top[0]
        assert answer.probability == max(p for _, p, _ in answer.top)
        assert answer.route_confidence == pytest.approx(sum(p for _, p, task in answer.top if task == answer.task))


def test_it_learns(new: New, paint: Path, cloth: Path) -> None:
    learner = new("rail", paint, cloth)
    found = learner.evaluate(paint)
    assert found.images == 9
    assert found.accuracy > 60 > new("zero-shot", paint, cloth).evaluate(paint).accuracy
    assert found.interval[0] < found.accuracy <= found.interval[1]
    assert sum(right for right, _ in found.per_class.values()) == round(found.accuracy / 100 * 9)
    assert {images for _, images in found.per_class.values()} == {3}


def test_every_method_that_can_forget_is_tried() -> None:
    assert SETTINGS.keys() == {name for name, method in METHODS.items() if method.forgets is not None}


# -- learning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SETTINGS)
def test_one_class_is_enough(new: New, tmp_path: Path, photos: list[Path], method: str) -> None:
    folder = tiny.image_folder(tmp_path / "snow", ["gray"], train=7)
    learner = new(method, folder)
    answer = learner.predict(photos[0], closed=True)
    assert (answer.label, answer.probability, answer.task, answer.route_confidence) == ("gray", 1, "snow", 1)
    assert 0 < learner.predict(photos[0], ["a house"], top_k=2).top[1][1] < 1


@pytest.mark.parametrize("method", SETTINGS)
def test_one_image_is_learned_or_refused_in_a_sentence(new: New, photos: list[Path], method: str) -> None:
    learner = new(method)
    if method in ("lda", "moe-adapters"):
        with pytest.raises(InputError, match="two different training images"):
            learner.learn("snow", [(photos[0], "gray")])
        assert learner.tasks == []
    else:
        learner.learn("snow", [(photos[0], "gray")])
        assert learner.predict(photos[1]).label == "gray"


@pytest.mark.parametrize("method", ["rail", "moe-adapters"])
def test_learning_again_adds_to_the_task(new: New, paint: Path, cloth: Path, tmp_path: Path, method: str) -> None:
    more = tiny.image_folder(tmp_path / "more", ["Green", "violet"], train=8, seed=7)
    learner = new(method, paint, cloth)
    report = learner.learn("paint", more)
    assert (report.new_classes, report.known_classes) == (("violet",), ("green",))
    first, second = learner.tasks
    assert (first.name, first.class_names) == ("paint", ("blue", "green", "red", "violet"))
    assert (first.images, first.increments, second.increments) == (18 + 16, 2, 1)
    answers = ask(learner, sorted((paint / "test").rglob("*.png")))
    assert [task for _, task in answers[0]].count("paint") == 4
    assert len({info.info.name for info in learner._knowledge.increments}) == 3


@pytest.mark.parametrize("method", CLOSED_FORM)
def test_the_lessons_of_a_task_may_come_in_any_order(new: New, paint: Path, photos: list[Path], method: str) -> None:
    images = [(path, path.parent.name) for path in sorted((paint / "train").rglob("*.png"))]
    lessons = [images[0::2], images[1::2]]  # three images per class: none is held out
    answers = []
    for order in (lessons, lessons[::-1]):
        learner = new(method)
        assert [learner.learn("paint", lesson).held_out for lesson in order] == [0, 0]
        assert learner.learn("other", images[:1]).accuracy == {"paint": None, "other": None}
        answers.append(ask(learner, photos, "a house"))
    assert_close(*answers, 1e-5)


def test_every_form_of_images_is_the_same_lesson(new: New, paint: Path, photos: list[Path]) -> None:
    class Dataset:
        classes = ("blue", "green", "red")

        def __init__(self, paths: list[Path]) -> None:
            self.paths = paths

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            path = self.paths[index]
            return Image.open(path), self.classes.index(path.parent.name)

    paths = sorted((paint / "train").rglob("*.png"))
    forms = {
        "paths": [(str(path), path.parent.name) for path in paths],
        "pictures": [(Image.open(path), path.parent.name) for path in paths],
        "arrays": [(np.asarray(Image.open(path)), path.parent.name) for path in paths],
        "dataset": Dataset(paths),
    }
    expected = ask(new("rail", paint), photos)
    for form in forms.values():
        learner = new("rail")
        assert learner.learn("paint", form).images == 18
        assert_close(ask(learner, photos), expected, 1e-6)


def test_images_may_go_once_they_are_learned(new: New, tmp_path: Path, photos: list[Path]) -> None:
    folder = tiny.image_folder(tmp_path / "gone", ["red", "green"], seed=11)
    learner = new("rail", folder)
    before = ask(learner, photos)
    shutil.rmtree(folder)
    other = tiny.image_folder(tmp_path / "other", ["blue"], seed=12)
    learner.learn("other", other)
    learner.forget("other")
    assert_close(ask(learner, photos), before, 0)


def test_bad_images_are_told_and_a_class_of_them_is_not_learned(new: New, tmp_path: Path) -> None:
    folder = tiny.image_folder(tmp_path / "some", ["red", "green"])
    (folder / "train/red/zero.png").touch()
    (folder / "train/violet").mkdir()
    (folder / "train/violet/words.png").write_text("words")
    learner = new()
    report = learner.learn("some", folder)
    assert sorted(Path(name).name for name, _ in report.skipped) == ["words.png", "zero.png"]
    assert learner.tasks[0].class_names == ("green", "red")
    assert report.images == 12


def test_a_report_says_what_moved(new: New, paint: Path, cloth: Path) -> None:
    learner = new("rail")
    first, second = (learner.learn(folder.name, folder) for folder in (paint, cloth))
    assert (first.images, first.held_out, first.moved, first.watched) == (18, 3, 0, 0)
    assert second.watched == 3
    assert 0 <= second.moved <= 3
    assert first.accuracy.keys() == {"paint"}
    assert second.accuracy.keys() == {"paint", "cloth"}
    assert all(value is not None for value in second.accuracy.values())


def test_images_go_to_the_task_that_has_more_like_them(new: New, cloth: Path, tmp_path: Path) -> None:
    few = tiny.image_folder(tmp_path / "few", ["red", "green", "blue"], train=5)
    many = tiny.image_folder(tmp_path / "many", ["red", "green", "blue"], train=60)  # these, and 55 more of each
    report = new("rail", few, cloth).learn("many", many)
    assert report.moved > 0


@pytest.mark.parametrize("method", CLOSED_FORM)
def test_of_two_tasks_with_the_same_images_the_first_one_answers(
    new: New, paint: Path, cloth: Path, photos: list[Path], tmp_path: Path, method: str
) -> None:
    twin = tiny.image_folder(tmp_path / "twin", ["red", "green", "blue"])  # the images of `paint` under another name
    for first, second in ((paint, twin), (twin, paint)):
        learner = new(method, first)
        assert learner.learn(second.name, second).moved == 0
        assert {answer.task for answer in learner.predict(photos, closed=True)} == {first.name}
        learner.learn("cloth", cloth)
        assert {answer.task for answer in learner.predict(photos, closed=True)} <= {first.name, "cloth"}


def test_what_needs_images_that_are_gone_is_not_measured(new: New, paint: Path, cloth: Path) -> None:
    learner = new("moe-adapters", paint)
    assert learner.learn("cloth", cloth).accuracy.keys() == {"paint", "cloth"}
    assert learner._knowledge.increments[1].accuracy["paint"] is None
    assert learner._knowledge.increments[1].accuracy["cloth"] is not None


@given(st.lists(st.integers(1, 400), min_size=1, max_size=30), st.integers(0, 3))
def test_what_is_held_out(counts: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    kept, held_out = held_out_rows(labels, seed)
    assert sorted([*kept, *held_out]) == list(range(len(labels)))
    assert len(held_out) <= HELD_OUT_LIMIT
    assert set(labels[kept]) == set(labels)
    lost = np.bincount(labels[held_out], minlength=len(counts))
    assert all(number <= round(0.1 * count) for number, count in zip(lost, counts, strict=True))


# -- all or nothing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rail", "rail-dual", "moe-adapters"])
@pytest.mark.parametrize("problem", [EverclipError, KeyboardInterrupt])
def test_an_error_in_the_middle_changes_nothing(
    new: New, paint: Path, cloth: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch, method: str, problem: type
) -> None:
    learner = new(method, paint)
    before, tasks = ask(learner, photos), learner.tasks
    calls = []

    def fail(name: str) -> None:
        calls.append(name)
        if len(calls) == (1 if method != "moe-adapters" else 3):
            raise problem

    monkeypatch.setattr(training, "fault_point", fail)
    for name in ("cloth", "paint"):
        calls.clear()
        with pytest.raises(problem):
            learner.learn(name, cloth)
        assert learner.tasks == tasks
        assert ask(learner, photos) == before
    monkeypatch.undo()
    learner.learn("cloth", cloth)
    assert_close(ask(learner, photos), ask(new(method, paint, cloth), photos), 0)


def test_a_lesson_that_can_not_be_is_refused(new: New, paint: Path, tmp_path: Path) -> None:
    learner = new("rail", paint)
    broken = tmp_path / "broken/red"
    broken.mkdir(parents=True)
    (broken / "0.png").write_text("words")
    (tmp_path / "empty").mkdir()
    good = sorted((paint / "train").rglob("*.png"))[0]
    for images, words in (
        (tmp_path / "broken", "none of the 1 images"),
        (tmp_path / "empty", "no class folder"),
        (tmp_path / "nowhere", "nowhere"),
        ([], "empty"),
        ([good], "pair"),
        ([(good, " ")], "empty name"),
        ([(3, "red")], "type int"),
        ([(np.zeros((4, 4), np.uint8), "red")], r"\(H, W, 3\)"),
        ([(good, "long " * 60)], "longer than"),
        (7, "type int"),
    ):
        with pytest.raises(InputError, match=words):
            learner.learn("new", images)
    with pytest.raises(InputError, match="template"):
        learner.learn("new", [(good, "red")], templates=["a photo"])
    for name in ("", " ", "zero-shot", "..", "a\nb", "\x1b[31m", "a" * 201):
        with pytest.raises(InputError, match="another name"):
            learner.learn(name, paint)
    assert [task.name for task in learner.tasks] == ["paint"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"method": "finetune"}, "rail-dual"),
        ({"method": "nope"}, "'nope'"),
        ({"fusion": "published"}, "probabilities"),
        ({"lr": 1e-3}, "'lr'"),
        ({"method": "moe-adapters", "lr": [1e-3, 1e-3]}, "one rate"),
        ({"method": "moe-adapters", "selector": "oracle"}, "told"),
        ({"selector": "gaussian"}, "'selector'"),
        ({"random_features": 0}, "random_features=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_settings_that_can_not_be(tiny_clip: Path, values: dict, words: str) -> None:
    settings = {name: value for name, value in values.items() if name != "method"}
    with pytest.raises(InputError, match=words):
        Learner.create(str(tiny_clip), values.get("method", "rail"), settings)


def test_one_answer_for_all_tasks_is_refused(new: New) -> None:
    with pytest.raises(InputError, match="shared_router"):
        new("moe-adapters", shared_router=True, freeze=0)


# -- forgetting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*CLOSED_FORM, "zero-shot"])
def test_forgetting_is_exact(
    new: New, paint: Path, cloth: Path, photos: list[Path], tmp_path: Path, method: str
) -> None:
    more = tiny.image_folder(tmp_path / "more", ["green", "gray"], train=8, seed=7)
    learner = new(method, paint, cloth)
    learner.learn("paint", more)
    report = learner.forget("paint")
    assert (report.exact, report.class_names) == (True, ("blue", "green", "red", "gray"))
    never = new(method, cloth)
    assert_close(ask(learner, photos, "a house"), ask(never, photos, "a house"), 1e-8)
    assert [task.name for task in learner.tasks] == ["cloth"]
    for one in (learner, never):
        one.learn("paint", more)
    assert_close(ask(learner, photos), ask(never, photos), 1e-8)


@pytest.mark.parametrize("gone", ["paint", "cloth", "third"])
def test_moe_adapters_forget_the_route_and_the_classes(
    new: New, backbone: Backbone, paint: Path, cloth: Path, photos: list[Path], tmp_path: Path, gone: str
) -> None:
    third = tiny.image_folder(tmp_path / "third", ["blue", "gray"], seed=9)
    learner = new("moe-adapters", paint, cloth, third)
    before = learner._knowledge.method
    report = learner.forget(gone)
    assert not report.exact
    assert "experts" in report.note
    left = [name for name in ("paint", "cloth", "third") if name != gone]
    assert {task for _, task in ask(learner, photos)[0]} == set(left)
    after = learner._knowledge.method
    pixels = backbone.pixels(torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8))
    with torch.no_grad():
        for route, name in enumerate(left):
            old = ("paint", "cloth", "third").index(name)
            assert torch.equal(after.embed(pixels, route), before.embed(pixels, old))
            assert torch.equal(after.classifier(after.tasks[route], route), before.classifier(before.tasks[old], old))
    frozen = [(branch.frozen_by >= 0).tolist() for branch in after.branches]
    assert frozen == [(branch.frozen_by >= 0).tolist() for branch in before.branches]
    learner.learn("again", third)
    assert [task.name for task in learner.tasks] == [*left, "again"]


def test_forgetting_the_only_task_leaves_a_new_learner(new: New, paint: Path, photos: list[Path]) -> None:
    learner = new("moe-adapters", paint)
    assert learner.forget("paint").exact
    assert learner.tasks == []
    learner.learn("paint", paint)
    assert ask(learner, photos) == ask(new("moe-adapters", paint), photos)
    with pytest.raises(InputError, match="learned so far: paint"):
        learner.forget("nope")


# -- predicting --------------------------------------------------------------------------------------------------------


def test_every_form_of_an_image_is_the_same_image(new: New, paint: Path, photos: list[Path]) -> None:
    learner = new("rail", paint)
    picture = Image.open(photos[0])
    answers = learner.predict([photos[0], str(photos[0]), picture, np.asarray(picture)])
    assert len(answers) == 4
    assert len({(answer.label, round(answer.probability, 5)) for answer in answers}) == 1
    assert isinstance(learner.predict(photos[0]), Prediction)
    assert learner.predict([]) == []


def test_questions_that_make_no_sense(new: New, paint: Path, photos: list[Path]) -> None:
    learner = new("rail", paint)
    for wrong, words in (
        ({"labels": "cat"}, "list of labels"),
        ({"labels": ["cat", " "]}, "empty"),
        ({"only": True}, "labels"),
        ({"top_k": 0}, "top_k"),
    ):
        with pytest.raises(InputError, match=words):
            learner.predict(photos, **wrong)
    with pytest.raises(BadImage, match="not there"):
        learner.predict(["nowhere.jpg"])
    with pytest.raises(InputError, match="type list"):
        learner.predict([photos])


def test_files_are_answered_in_batches_and_in_order(
    new: New, paint: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = new("rail", paint)
    whole = learner.predict(photos)
    words = tmp_path / "words.png"
    words.write_text("words")
    sizes = []
    features = learner._features
    monkeypatch.setattr(module, "BATCH", 4)
    monkeypatch.setattr(learner, "_features", lambda views: sizes.append(len(views)) or features(views))
    paths = [words, *photos[:7], words, *photos[7:]]
    answers = list(learner.predict_files(paths))
    assert [path for path, _ in answers] == [str(path) for path in paths]
    good = [answer for _, answer in answers if isinstance(answer, Prediction)]
    assert [answer.label for answer in good] == [answer.label for answer in whole]
    assert sum(isinstance(answer, BadImage) for _, answer in answers) == 2
    assert sizes == [3, 4, 3, 4, 1]


def test_reports_are_plain_data(new: New, paint: Path, photos: list[Path]) -> None:
    learner = new("rail", paint)
    assert asdict(learner.predict(photos[0]))["top"][0] == learner.predict(photos[0]).top[0]
    assert asdict(learner.evaluate(paint))["images"] == 9
