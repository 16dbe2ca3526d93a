"""What every method of the registry must do, whatever it is."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import BaseModel

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures, embed_images
from everclip.engine.evaluation import Evaluator
from everclip.engine.training import Position, Trainer, TrainingConfig
from everclip.errors import InputError
from everclip.experiment.config import Setup
from everclip.methods import METHODS, ORIGINAL, Batch, Method, method_class
from everclip.selectors import SELECTORS, selector_class
from everclip.streams import CANDIDATES, Protocol, TaskInfo

from ..learning import (
    SEED,
    Lessons,
    answers,
    assert_same,
    begin,
    judgment,
    learn,
    lessons_of,
    new_method,
    put_back,
    recipe,
    stored,
    train,
)

VARIANTS: dict[str, tuple[str, dict]] = {
    "moe-adapters-strict": ("moe-adapters", {"strict": True}),
    "moe-adapters-shared": ("moe-adapters", {"experts": 2, "shared_router": True, "freeze": 0}),
    "linear-adapter-hard": ("linear-adapter", {"retention": "hard", "replay": "exemplars"}),
    "attention-adapter-pooled": ("attention-adapter", {"tokens": "pooled", "replay": "gaussian"}),
    "prompt-tuning-plain": ("prompt-tuning", {"retention": "none", "replay": "none", "context_words": ""}),
    "rail-published": ("rail", {"fusion": "published", "ridge": 10.0, "random_features": 64}),
    "rail-dual-search": ("rail-dual", {"ridge": "search", "calibration": 4}),
    "zscl-text": ("zscl", {"distill_text": True, "consolidation": 0.0, "average_every": 0}),
}
"""Settings under which a method promises or stores something else: they pass the same tests."""

SMALL: dict[str, dict] = {
    **{name: {"random_features": 64} for name in ("rail", "ranpac")},
    "lwf-vr": {"random_texts": 8},
    "icarl": {"exemplars": 11},
    "zscl": {"average_every": 3},
}
"""What keeps the matrix quick, and lets a few steps on a few images show what a method does."""

PROMISES = {"zero_shot_kept", "finished_tasks_constant", "order_free"}


@dataclass(frozen=True)
class Moment:
    """A method between stages: what it says, and what a run directory would keep of it."""

    learned: int
    said: dict
    keys: dict[int, str]
    sealed: list[dict]
    working: dict
    judged: dict


@dataclass(frozen=True)
class History:
    """A method's life over the two tasks: before, and after each stage."""

    method: Method
    moments: list[Moment]
    losses: list[tuple[float, float]]

    def fresh(self, lessons: Lessons, seed: int = SEED + 1) -> Method:
        """Another instance with the same settings, from another seed."""
        return new_method(type(self.method), lessons, seed, **self.method.config.model_dump())


def moment(method: Method, lessons: Lessons, learned: int) -> Moment:
    routes = range(learned) if method.routed else [0]
    sealed = [stored(method.sealed_state(index)) for index in range(learned)]
    keys = {route: method.route_key(route) for route in [ORIGINAL, *routes]}
    judged = {} if method.routed else judgment(method, lessons)
    return Moment(learned, answers(method, lessons, learned), keys, sealed, stored(method.working_state()), judged)


@torch.no_grad()
def loss_of(method: Method, lessons: Lessons, task: int) -> float:
    """Loss on all training images of a task, under the evaluation mode."""
    method.eval()
    each = lessons.sets(method)[task]
    labels = torch.from_numpy(each.images.labels)
    if method.feed != "images":
        return float(method(Batch(each.info, each.images[np.arange(len(labels))], labels)).total)
    size = lessons.backbone.view.size
    pixels = torch.stack(
        [torch.from_numpy(each.images[row][:size, :size].copy()).permute(2, 0, 1) for row in range(len(each.images))]
    )
    return float(method(Batch(each.info, lessons.backbone.pixels(pixels), labels)).parts["ce"])


def fit(judged: dict, info: TaskInfo, labels: torch.Tensor) -> float:
    """Mean p of the right class within its task, on the task's test images."""
    p = torch.stack([judged[info.name, info.name, label] for label in range(len(info.class_names))], dim=1)
    return float((p / p.sum(dim=1, keepdim=True))[torch.arange(len(labels)), labels].mean())


def live(method: Method, lessons: Lessons) -> History:
    moments, losses = [moment(method, lessons, 0)], []
    for sets in lessons.stages(method):
        begin(method, sets)
        last = sets[-1].info.index
        before = loss_of(method, lessons, last) if method.trains else 0.0
        train(method, sets, recipe(iterations=20, batch=12))
        losses.append((before, loss_of(method, lessons, last) if method.trains else 0.0))
        method.end_task()
        moments.append(moment(method, lessons, last + 1))
    return History(method, moments, losses)


@pytest.fixture(scope="module", params=[*METHODS, *VARIANTS])
def history(request: pytest.FixtureRequest, lessons: Lessons) -> History:
    name, settings = VARIANTS.get(request.param, (request.param, SMALL.get(request.param, {})))
    return live(new_method(METHODS[name], lessons, **settings), lessons)


def revived(history: History, at: Moment, lessons: Lessons) -> Method:
    """A fresh instance of another seed with the state of a moment."""
    fresh = history.fresh(lessons)
    fresh.load_state(lessons.infos[: at.learned], at.sealed, at.working)
    return fresh


# -- what it says of itself --------------------------------------------------------------------------------------------


def test_unknown_method():
    with pytest.raises(InputError, match=r"'nonsense'.*finetune.*separate"):
        method_class("nonsense")


@pytest.mark.parametrize("name", METHODS)
def test_described(name: str):
    kind = METHODS[name]
    assert method_class(name) is kind
    assert kind.name == name
    assert kind.__dict__.get("__doc__"), "a docstring of its own"
    assert kind.summary
    assert "\n" not in kind.summary
    assert kind.paper
    assert kind.promises <= PROMISES
    assert kind.reads
    assert kind.reads <= {"images", "embeddings"}
    assert kind.requires <= set(Setup.model_fields)
    assert "embeddings" not in kind.reads or kind.feed == "embeddings" or not kind.trains
    for attribute, member in inspect.getmembers(kind, inspect.isfunction):
        if not attribute.startswith("_") and member.__module__.startswith("everclip"):
            assert member.__doc__, attribute


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("name", METHODS)
def test_settings_form_one_namespace(name: str, selector: str):
    sections: list[type[BaseModel]] = [
        Setup,
        Protocol,
        TrainingConfig,
        METHODS[name].Config,
        SELECTORS[selector].Config,
    ]
    fields = [(field, info) for section in sections for field, info in section.model_fields.items()]
    assert len({field for field, _ in fields}) == len(fields)
    for field, info in fields:
        assert info.description, field
    for section in sections[1:]:
        section()  # everything but what runs on what has a default


# -- what it says of images and classes --------------------------------------------------------------------------------


def test_embeddings_and_classifiers_are_unit_vectors(history: History, lessons: Lessons):
    width = lessons.backbone.embed_dim
    for at in history.moments:
        for (what, _, task), value in at.said.items():
            test = lessons.tests[task]
            count = len(test.data.labels) if what == "images" else len(test.info.class_names)
            assert value.shape == (count, width)
            assert value.dtype == torch.float32
            torch.testing.assert_close(value.norm(dim=1), torch.ones(count))


@torch.no_grad()
def test_original_route_is_clip(history: History, lessons: Lessons):
    backbone = lessons.backbone
    for test in lessons.tests:
        images = embed_images(test.data, lambda pixels: F.normalize(backbone.encode_image(pixels), dim=-1), backbone)
        classes = lessons.features.classes(test.info.class_names, test.info.templates)
        for at in history.moments:
            assert torch.equal(at.said["images", ORIGINAL, test.info.index], images)
            assert torch.equal(at.said["classes", ORIGINAL, test.info.index], classes)


def test_classes_not_learned_are_encoded_by_the_original(history: History, lessons: Lessons):
    """On the route of a learned task too, wherever answers differ by task."""
    if history.method.routed:
        for at in history.moments:
            for task in range(at.learned, len(lessons.tests)):
                for route in range(at.learned):
                    assert torch.equal(at.said["classes", route, task], at.said["classes", ORIGINAL, task])


def test_zero_shot_kept(history: History, lessons: Lessons):
    """Tasks not learned yet are answered as by CLIP: over the route to it, or over the only route there is."""
    if "zero_shot_kept" not in history.method.promised():
        pytest.skip("not promised")
    assert history.moments[-1].keys[ORIGINAL] == "original"
    if not history.method.routed:
        for at in history.moments:
            for task in range(at.learned, len(lessons.tests)):
                assert torch.equal(at.said["classes", 0, task], at.said["classes", ORIGINAL, task])
                untouched = history.moments[0].judged
                for (images, of, label), p in at.judged.items():
                    # RAIL's own rule keeps the answer of CLIP, not every class's probability
                    if (
                        of == lessons.infos[task].name
                        and "published" not in history.method.config.model_dump().values()
                    ):
                        assert torch.equal(p, untouched[images, of, label])


def test_finished_tasks_constant(history: History):
    if "finished_tasks_constant" not in history.method.promised():
        pytest.skip("not promised")
    for earlier, later in zip(history.moments[1:], history.moments[2:], strict=False):
        for (what, route, task), value in earlier.said.items():
            if task < earlier.learned:
                assert torch.equal(later.said[what, route, task], value)


def test_order_free(history: History, lessons: Lessons, two_folders: str):
    kind = type(history.method)
    if "order_free" not in history.method.promised():
        pytest.skip("not promised")
    kind_of, _, names = two_folders.partition(":")
    turned = lessons_of(lessons.backbone, f"{kind_of}:{','.join(reversed(names.split(',')))}")
    method = new_method(kind, turned, **history.method.config.model_dump())
    for sets in turned.stages(method):
        learn(method, sets)
    places = {info.name: info.index for info in turned.infos}
    said = answers(method, turned, len(turned.infos))
    for (what, route, task), value in history.moments[-1].said.items():
        there = places[lessons.infos[route].name] if method.routed and route != ORIGINAL else route
        other = said[what, there, places[lessons.infos[task].name]]
        torch.testing.assert_close(other, value, rtol=0, atol=1e-5)
    if not method.routed:
        judged = judgment(method, turned)
        for key, value in history.moments[-1].judged.items():
            torch.testing.assert_close(judged[key], value, rtol=0, atol=1e-5)


def test_equal_route_keys_mean_equal_embeddings(history: History, lessons: Lessons):
    known: dict[tuple, torch.Tensor] = {}
    for at in history.moments:
        for route, key in at.keys.items():
            for task in range(len(lessons.tests)):
                value = at.said["images", route, task]
                assert torch.equal(known.setdefault((key, task), value), value), (key, route)
    for task in range(len(lessons.tests)):
        assert torch.equal(known["original", task], history.moments[0].said["images", ORIGINAL, task])


# -- learning ----------------------------------------------------------------------------------------------------------


def test_learns(history: History, lessons: Lessons):
    method = history.method
    last = history.moments[-1]
    if not method.trains:
        with pytest.raises(NotImplementedError):
            method(None)
        assert_same(last.said, answers(method, lessons, last.learned))
        if method.closed_form:
            assert method.trained_parameters() > 0
            own = {test.info.name: torch.from_numpy(test.data.labels) for test in lessons.tests}
            for at in history.moments[1:]:
                info = lessons.infos[at.learned - 1]
                before, after = (fit(each.judged, info, own[info.name]) for each in (history.moments[0], at))
                assert after > before
        return
    assert method.trained_parameters() > 0
    for before, after in history.losses:
        assert after < before
    route = last.learned - 1 if method.routed else 0
    own = last.learned - 1
    learned, original = (last.said["images", r, own] @ last.said["classes", r, own].T for r in (route, ORIGINAL))
    assert not torch.equal(learned, original)


@pytest.mark.parametrize("name", METHODS)
def test_learns_in_half_precision(name: str, tiny_clip: Path, lessons: Lessons):
    half = Backbone.load(str(tiny_clip), precision="bf16")
    lessons = replace(lessons, backbone=half, features=FrozenFeatures(half))
    method = new_method(METHODS[name], lessons, **SMALL.get(name, {}))
    for sets in lessons.stages(method):
        learn(method, sets, recipe(iterations=2))
    for value in answers(method, lessons, 2).values():
        assert value.dtype == torch.float32
        assert torch.isfinite(value).all()
    for value in method.working_state().values():
        assert value.dtype != torch.bfloat16


@pytest.mark.parametrize("name", METHODS)
def test_what_it_requires_must_be_there(name: str, lessons: Lessons):
    kind = METHODS[name]
    for setting in kind.requires:
        method = kind(lessons.backbone, kind.Config(), lessons.features)
        with pytest.raises(InputError, match=rf"'{name}' needs .* --set {setting}="):
            method.provide(replace(lessons.sources, **{setting: None}))


def test_backbone_is_never_changed(history: History, lessons: Lessons):
    assert lessons.backbone.clone().digest == lessons.backbone.digest
    assert not any(p.requires_grad for p in lessons.backbone.parameters())
    frozen = {id(p) for p in lessons.backbone.parameters()}
    assert not frozen & {id(p) for p in history.method.parameters()}
    assert not lessons.backbone.training


def test_counts_of_trained_parameters(history: History):
    one = history.method.trained_parameters()
    assert one <= history.method.trained_in_total([one, one]) <= 2 * one
    assert history.method.trained_in_total([]) == 0


def test_judged_end_to_end(history: History, lessons: Lessons):
    selector = selector_class("oracle")(selector_class("oracle").Config())
    for info in lessons.infos:
        selector.fit(info, None, None, None)
    outcomes = Evaluator(lessons.tests, history.method, selector, Protocol()).row(len(lessons.infos))
    for outcome, test in zip(outcomes, lessons.tests, strict=True):
        assert set(outcome.correct) == set(outcome.by_name) == set(CANDIDATES)
        assert all(len(right) == len(test.data.labels) for right in outcome.correct.values())
        assert (outcome.routes is not None) == history.method.routed
        assert outcome.correct["task"].sum() >= outcome.correct["all"].sum()


# -- state -------------------------------------------------------------------------------------------------------------


def test_state_is_complete(history: History, lessons: Lessons):
    for at in history.moments:
        fresh = revived(history, at, lessons)
        assert fresh.tasks == lessons.infos[: at.learned]
        again = moment(fresh, lessons, at.learned)
        assert_same(again.said, at.said)
        assert_same(again.judged, at.judged)
        assert_same(again.working, at.working)
        for index in range(at.learned):
            assert_same(again.sealed[index], at.sealed[index])


def test_sealed_state_never_changes(history: History):
    for earlier, later in zip(history.moments, history.moments[1:], strict=False):
        for index in range(earlier.learned):
            assert_same(later.sealed[index], earlier.sealed[index])


def test_learning_goes_on_from_a_state(history: History, lessons: Lessons):
    """A revived method learns the next stage exactly as the one that never stopped."""
    at, then = history.moments[-2], history.moments[-1]
    fresh = revived(history, at, lessons)
    learn(fresh, lessons.stages(fresh)[-1], recipe(iterations=20, batch=12))
    assert_same(answers(fresh, lessons, then.learned), then.said)
    if not fresh.routed:
        assert_same(judgment(fresh, lessons), then.judged)


def test_interrupted_within_a_task(history: History, lessons: Lessons):
    method = history.method
    if not method.trains:
        pytest.skip("takes no steps")
    at, then = history.moments[-2], history.moments[-1]
    config = recipe(iterations=20, batch=12, checkpoint_every=13)
    kept: list[tuple[Position, dict]] = []
    first = revived(history, at, lessons)
    sets = lessons.stages(first)[-1]
    begin(first, sets)

    def keep(position: Position) -> None:
        kept.append((Position(position.step, stored(position.optimizer)), stored(first.working_state())))

    train(first, sets, config, on_checkpoint=keep)
    position, working = kept[0]
    resumed = history.fresh(lessons)
    put_back(resumed, sets, lessons.infos, at.sealed, at.working, working)
    train(resumed, sets, config, start=position)
    resumed.end_task()
    assert_same(answers(resumed, lessons, then.learned), then.said)


def test_trainer_sees_what_a_restored_method_trains(history: History, lessons: Lessons):
    """The parameters of a task in training are the same, in the same order, in a restored instance."""
    if not history.method.trains:
        pytest.skip("takes no steps")
    at = history.moments[-2]
    begun = revived(history, at, lessons)
    sets = lessons.stages(begun)[-1]
    begin(begun, sets)
    restored = history.fresh(lessons)
    put_back(restored, sets, lessons.infos, at.sealed, at.working, stored(begun.working_state()))
    names = [list(Trainer(m, sets, recipe(), SEED, 2, 1).named) for m in (begun, restored)]
    assert names[0] == names[1]
    assert restored.trained_parameters() == begun.trained_parameters()
