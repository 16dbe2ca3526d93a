"""The laws of methods: what every one does, whatever it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures, FrozenImages, embed_images
from everclip.data import ViewedImages
from everclip.engine.evaluation import Evaluator
from everclip.engine.recipe import TrainingConfig
from everclip.engine.training import Position, Trainer
from everclip.errors import InputError
from everclip.experiment.config import Setup
from everclip.methods import ORIGINAL, Batch, Method, load_checked
from everclip.methods.method import Promise
from everclip.selectors import SELECTORS, selector_class
from everclip.streams import CANDIDATES, Protocol, TaskInfo
from everclip.testing.laws import NOT_PROMISED, expect, expect_close, expect_same, kept_laws, stored
from everclip.testing.lessons import (
    SEED,
    Lessons,
    answers,
    begin,
    classroom,
    judgment,
    learn,
    new_method,
    put_back,
    recipe,
    train,
)


def check_method(kind: type[Method], lessons: Lessons | None = None, **settings: Any) -> tuple[str, ...]:
    """Hold a method to its contract: let it learn two tiny tasks, and apply every law of `METHOD_LAWS`.

    Args:
        kind: the class. It need not be registered.
        lessons: what it learns; by default made on the spot (`classroom`), with images.
        settings: of the method, for example to keep it small.

    Returns:
        The names of the laws that it keeps; those that it does not promise are left out.

    Raises:
        LawBroken: it breaks one; says which, and what was seen.
    """
    if lessons is None:
        with classroom() as made:
            return check_method(kind, made, **settings)
    whose = f"method '{getattr(kind, 'name', kind.__name__)}'"
    kept = kept_laws([described, settings_form_one_namespace], whose, kind)
    history = live(new_method(kind, lessons, **settings), lessons)
    return kept + kept_laws(METHOD_LAWS, whose, history, lessons)


@dataclass(frozen=True)
class Moment:
    """A method between stages: what it says, and what a run directory would keep of it."""

    learned: int
    said: dict[tuple[str, int, int], Tensor]
    keys: dict[int, str]
    sealed: list[dict[str, Tensor]]
    working: dict[str, Tensor]
    judged: dict[tuple[str, str, int], Tensor]


@dataclass(frozen=True)
class History:
    """A method's life over the tasks of the lessons: before the first, and after each stage.

    Attributes:
        method: as it is at the end.
        losses: of each stage, on all training images of its last task: before and after; zeros without steps.
    """

    method: Method
    moments: list[Moment]
    losses: list[tuple[float, float]]

    def fresh(self, lessons: Lessons, seed: int = SEED + 1) -> Method:
        """Another instance with the same settings, from another seed."""
        return new_method(type(self.method), lessons, seed, **self.method.config.model_dump())

    def revived(self, at: Moment, lessons: Lessons) -> Method:
        """A fresh instance of another seed with the state of a moment."""
        fresh = self.fresh(lessons)
        load_checked(fresh, lessons.infos[: at.learned], at.sealed, at.working)
        return fresh


def live(method: Method, lessons: Lessons) -> History:
    """Let a new method learn all tasks."""
    moments, losses = [_moment(method, lessons, 0)], []
    for sets in lessons.stages(method):
        begin(method, sets)
        last = sets[-1].info.index
        before = _loss(method, lessons, last) if method.trains else 0.0
        train(method, sets, _STEPS)
        losses.append((before, _loss(method, lessons, last) if method.trains else 0.0))
        method.end_task()
        moments.append(_moment(method, lessons, last + 1))
    return History(method, moments, losses)


_STEPS = recipe(iterations=20, batch=12)


def _moment(method: Method, lessons: Lessons, learned: int) -> Moment:
    routes = range(learned) if method.routed else [0]
    sealed = [stored(method.sealed_state(index)) for index in range(learned)]
    keys = {route: method.route_key(route) for route in [ORIGINAL, *routes]}
    judged = {} if method.routed else judgment(method, lessons)
    return Moment(learned, answers(method, lessons, learned), keys, sealed, stored(method.working_state()), judged)


@torch.no_grad()
def _loss(method: Method, lessons: Lessons, task: int) -> float:
    """Loss on all training images of a task, under the evaluation mode."""
    method.eval()
    each = lessons.sets(method)[task]
    images, labels = each.images, torch.from_numpy(each.images.labels)
    if isinstance(images, FrozenImages):
        return float(method(Batch(each.info, images[np.arange(len(labels))], labels)).total)
    size = lessons.backbone.view.size
    pixels = torch.stack(
        [torch.from_numpy(images[row][:size, :size].copy()).permute(2, 0, 1) for row in range(len(images))]
    )
    loss = method(Batch(each.info, lessons.backbone.pixels(pixels), labels))
    return float(loss.parts.get("ce", loss.total))


def _fit(judged: Mapping[tuple[str, str, int], Tensor], info: TaskInfo, labels: Tensor) -> float:
    """Mean p of the right class within its task, on the task's test images."""
    p = torch.stack([judged[info.name, info.name, label] for label in range(len(info.class_names))], dim=1)
    return float((p / p.sum(dim=1, keepdim=True))[torch.arange(len(labels)), labels].mean())


# -- what it says of itself --------------------------------------------------------------------------------------------


def described(kind: type[Method]) -> None:
    """It has a name, a summary of one line, a docstring of its own; its promises and what it reads are known."""
    expect(isinstance(getattr(kind, "name", None), str) and kind.name, "it has a `name`")
    expect(kind.__dict__.get("__doc__"), "it has a docstring of its own")
    summary = getattr(kind, "summary", "")
    expect(summary and "\n" not in summary, "it has a `summary` of one line")
    known = set(get_args(Promise))
    expect(kind.promises <= known, f"its promises are among {', '.join(sorted(known))}")
    expect(kind.reads and kind.reads <= {"images", "embeddings"}, "it `reads` images, embeddings, or both")
    expect(kind.requires <= set(Setup.model_fields), "what it `requires` are settings of a run")
    feeds = "embeddings" not in kind.reads or kind.feed == "embeddings" or not kind.trains
    expect(feeds, "a method that reads embeddings is fed with them, or takes no steps")
    for attribute, member in inspect.getmembers(kind, inspect.isfunction):
        if not attribute.startswith("_"):
            expect(member.__doc__, f"`{attribute}` has a docstring")


def settings_form_one_namespace(kind: type[Method]) -> None:
    """Its settings are called like none of a run, and each says what it is for and has a default."""
    for selector in SELECTORS.usable().values():
        sections: list[type[BaseModel]] = [Setup, Protocol, TrainingConfig, kind.Config, selector.Config]
        fields = [(field, info) for section in sections for field, info in section.model_fields.items()]
        names = [field for field, _ in fields]
        twice = sorted({field for field in names if names.count(field) > 1})
        expect(not twice, f"no two sections have a setting '{', '.join(twice)}'")
        for field, info in fields:
            expect(info.description, f"setting '{field}' has a description")
    required = [name for name, info in kind.Config.model_fields.items() if info.is_required()]
    expect(not required, f"setting '{', '.join(required)}' has a default")


# -- what it says of images and classes --------------------------------------------------------------------------------


def embeddings_and_classifiers_are_unit_vectors(history: History, lessons: Lessons) -> None:
    """`embed` and `classifier` give normalized float32 of the backbone's width."""
    width = lessons.backbone.embed_dim
    for at in history.moments:
        for (what, route, task), value in at.said.items():
            test = lessons.tests[task]
            count = len(test.data.labels) if what == "images" else len(test.info.class_names)
            where = f"{what} of task {task} on route {route}"
            expect(
                value.shape == (count, width), f"{where} have the shape ({count}, {width}), not {tuple(value.shape)}"
            )
            expect(value.dtype == torch.float32, f"{where} are float32, not {value.dtype}")
            expect_close(value.norm(dim=1), torch.ones(count), 1e-5, f"the lengths of {where}")


@torch.no_grad()
def original_route_is_clip(history: History, lessons: Lessons) -> None:
    """The route ORIGINAL is the untouched CLIP, to the last bit, at any time."""
    backbone = lessons.backbone
    for test in lessons.tests:
        views = cast(ViewedImages, test.data)  # lessons are of images
        images = embed_images(views, lambda pixels: F.normalize(backbone.encode_image(pixels), dim=-1), backbone)
        classes = lessons.features.classes(test.info.class_names, test.info.templates)
        for at in history.moments:
            when = f"of '{test.info.name}' after {at.learned} tasks"
            expect(torch.equal(at.said["images", ORIGINAL, test.info.index], images), f"images {when} are CLIP's")
            expect(torch.equal(at.said["classes", ORIGINAL, test.info.index], classes), f"classes {when} are CLIP's")


def classes_not_learned_are_encoded_by_the_original(history: History, lessons: Lessons) -> object:
    """On the route of a learned task too, wherever answers differ by task."""
    if not history.method.routed:
        return NOT_PROMISED
    for at in history.moments:
        for task in range(at.learned, len(lessons.tests)):
            for route in range(at.learned):
                same = torch.equal(at.said["classes", route, task], at.said["classes", ORIGINAL, task])
                expect(same, f"classes of task {task}, not learned yet, are CLIP's on route {route}")
    return None


def zero_shot_kept(history: History, lessons: Lessons) -> object:
    """Tasks not learned yet are answered as by CLIP: over the route to it, or over the only route there is."""
    method = history.method
    if "zero_shot_kept" not in method.promised():
        return NOT_PROMISED
    expect(history.moments[-1].keys[ORIGINAL] == "original", "the route key of ORIGINAL is 'original'")
    if method.routed:
        return None
    untouched = history.moments[0].judged
    published = "published" in method.config.model_dump().values()  # RAIL's own rule keeps the answer, not every p
    for at in history.moments:
        for task in range(at.learned, len(lessons.tests)):
            same = torch.equal(at.said["classes", 0, task], at.said["classes", ORIGINAL, task])
            expect(same, f"classes of task {task}, not learned yet, are CLIP's")
            for (images, of, label), p in at.judged.items():
                if of == lessons.infos[task].name and not published:
                    expect(torch.equal(p, untouched[images, of, label]), f"class {label} of '{of}' keeps CLIP's p")
    return None


def finished_tasks_constant(history: History, lessons: Lessons) -> object:
    """What is said of a finished task never changes again."""
    if "finished_tasks_constant" not in history.method.promised():
        return NOT_PROMISED
    for earlier, later in zip(history.moments[1:], history.moments[2:], strict=False):
        for key, value in earlier.said.items():
            if key[2] < earlier.learned:
                expect(torch.equal(later.said[key], value), f"{key} stays what it was")
    return None


def order_free(history: History, lessons: Lessons) -> object:
    """After the same tasks in another order it says the same, up to rounding."""
    method = history.method
    if "order_free" not in method.promised():
        return NOT_PROMISED
    turned = lessons.turned()
    other = new_method(type(method), turned, **method.config.model_dump())
    for sets in turned.stages(other):
        learn(other, sets)
    places = {info.name: info.index for info in turned.infos}
    said = answers(other, turned, len(turned.infos))
    for (what, route, task), value in history.moments[-1].said.items():
        there = places[lessons.infos[route].name] if method.routed and route != ORIGINAL else route
        expect_close(said[what, there, places[lessons.infos[task].name]], value, 1e-5, f"{what} of task {task}")
    if not method.routed:
        judged = judgment(other, turned)
        for key, value in history.moments[-1].judged.items():
            expect_close(judged[key], value, 1e-5, f"p of {key}")
    return None


def equal_route_keys_mean_equal_embeddings(history: History, lessons: Lessons) -> None:
    """`route_key` names what `embed` computes: evaluation reuses embeddings by it."""
    known: dict[tuple[str, int], Tensor] = {}
    for at in history.moments:
        for route, key in at.keys.items():
            for task in range(len(lessons.tests)):
                value = at.said["images", route, task]
                same = torch.equal(known.setdefault((key, task), value), value)
                expect(same, f"route {route} after {at.learned} tasks embeds as its key '{key}' did before")
    for task in range(len(lessons.tests)):
        same = torch.equal(known["original", task], history.moments[0].said["images", ORIGINAL, task])
        expect(same, "the key 'original' stands for the untouched CLIP")


# -- learning ----------------------------------------------------------------------------------------------------------


def learns(history: History, lessons: Lessons) -> None:
    """Steps lower the loss and change what is said; a closed form raises p of the right class."""
    method, last = history.method, history.moments[-1]
    if method.trains:
        expect(method.trained_parameters() > 0, "it counts the parameters that it trains")
        for before, after in history.losses:
            expect(after < before, f"the loss falls ({before:.4f} before, {after:.4f} after)")
        own = last.learned - 1
        route = own if method.routed else 0
        learned, original = (last.said["images", r, own] @ last.said["classes", r, own].T for r in (route, ORIGINAL))
        expect(not torch.equal(learned, original), "it answers otherwise than CLIP once it has learned")
        return
    try:
        method(None)
    except NotImplementedError:
        pass
    else:
        expect(False, "without steps (`trains` is false), `forward` raises NotImplementedError")
    expect_same(last.said, answers(method, lessons, last.learned), "what it says when asked again")
    if method.closed_form:
        expect(method.trained_parameters() > 0, "it counts the numbers that it learns")
        for at in history.moments[1:]:
            test = lessons.tests[at.learned - 1]
            labels = torch.from_numpy(np.asarray(test.data.labels))
            before, after = (_fit(each.judged, test.info, labels) for each in (history.moments[0], at))
            expect(after > before, f"p of the right class rises ({before:.4f} before, {after:.4f} after)")


def learns_in_half_precision(history: History, lessons: Lessons) -> None:
    """Under bf16 it says finite float32, and keeps no state in bf16."""
    backbone = Backbone.load(str(lessons.folder), precision="bf16")
    half = replace(lessons, backbone=backbone, features=FrozenFeatures(backbone))
    method = new_method(type(history.method), half, **history.method.config.model_dump())
    for sets in half.stages(method):
        learn(method, sets, recipe(iterations=2))
    for key, value in answers(method, half, len(half.infos)).items():
        expect(value.dtype == torch.float32, f"{key} is float32, not {value.dtype}")
        expect(torch.isfinite(value).all(), f"{key} is finite")
    for name, tensor in method.working_state().items():
        expect(tensor.dtype != torch.bfloat16, f"'{name}' of the working state is not bf16")


def what_it_requires_must_be_there(history: History, lessons: Lessons) -> None:
    """Without what it `requires` it refuses at once, and names the setting."""
    kind = type(history.method)
    for setting in sorted(kind.requires):
        method = kind(lessons.backbone, history.method.config, lessons.features)
        without: dict[str, Any] = {setting: None}
        try:
            method.provide(replace(lessons.sources, **without))
        except InputError as error:
            expect(f"--set {setting}=" in str(error), f"the refusal names the setting '{setting}'")
        else:
            expect(False, f"it refuses to begin without '{setting}'")


def backbone_is_never_changed(history: History, lessons: Lessons) -> None:
    """It trains a copy or modules of its own, and the backbone is none of its parameters."""
    backbone = lessons.backbone
    expect(backbone.clone().digest == backbone.digest, "the weights of the backbone are what they were")
    expect(not any(p.requires_grad for p in backbone.parameters()), "the backbone stays frozen")
    frozen = {id(p) for p in backbone.parameters()}
    expect(not frozen & {id(p) for p in history.method.parameters()}, "no parameter of the backbone is the method's")
    expect(not backbone.training, "the backbone stays in evaluation mode")


def counts_of_trained_parameters(history: History, lessons: Lessons) -> None:
    """`trained_in_total` lies between what one task trains and the sum over tasks."""
    one = history.method.trained_parameters()
    total = history.method.trained_in_total([one, one])
    expect(one <= total <= 2 * one, f"two tasks of {one} parameters train {one} to {2 * one} in total, not {total}")
    expect(history.method.trained_in_total([]) == 0, "without a task nothing is trained")


def judged_end_to_end(history: History, lessons: Lessons) -> None:
    """An evaluator can judge it under every set of candidates."""
    selector = selector_class("oracle")(selector_class("oracle").Config())
    for info in lessons.infos:
        selector.fit(info, None, None, None)
    outcomes = Evaluator(lessons.tests, history.method, selector, Protocol()).row(len(lessons.infos))
    for outcome, test in zip(outcomes, lessons.tests, strict=True):
        count = len(test.data.labels)
        expect(set(outcome.correct) == set(outcome.by_name) == set(CANDIDATES), "every candidate set is judged")
        expect(all(len(right) == count for right in outcome.correct.values()), "every image is judged")
        expect((outcome.routes is not None) == history.method.routed, "images have routes where the method has")
        fewer, more = outcome.correct["task"].sum(), outcome.correct["all"].sum()
        expect(fewer >= more, f"more candidates make it no easier ({fewer} right among few, {more} among all)")


# -- state -------------------------------------------------------------------------------------------------------------


def state_is_complete(history: History, lessons: Lessons) -> None:
    """A fresh instance of another seed with the stored state says the same, to the last bit, and stores the same."""
    for at in history.moments:
        when = f"after {at.learned} tasks"
        fresh = history.revived(at, lessons)
        expect(fresh.tasks == lessons.infos[: at.learned], f"the tasks are restored {when}")
        again = _moment(fresh, lessons, at.learned)
        expect_same(again.said, at.said, f"what a restored instance says {when}")
        expect_same(again.judged, at.judged, f"p(c|x) of a restored instance {when}")
        expect_same(again.working, at.working, f"the working state of a restored instance {when}")
        for index in range(at.learned):
            expect_same(again.sealed[index], at.sealed[index], f"the sealed state of task {index} {when}")


def sealed_state_never_changes(history: History, lessons: Lessons) -> None:
    """What a finished task fixed for good is the same after every later one."""
    for earlier, later in zip(history.moments, history.moments[1:], strict=False):
        for index in range(earlier.learned):
            expect_same(later.sealed[index], earlier.sealed[index], f"the sealed state of task {index}")


def learning_goes_on_from_a_state(history: History, lessons: Lessons) -> None:
    """A restored method learns the next stage exactly as the one that never stopped."""
    at, then = history.moments[-2], history.moments[-1]
    fresh = history.revived(at, lessons)
    learn(fresh, lessons.stages(fresh)[-1], _STEPS)
    expect_same(answers(fresh, lessons, then.learned), then.said, "what a restored instance says a stage later")
    if not fresh.routed:
        expect_same(judgment(fresh, lessons), then.judged, "p(c|x) of a restored instance a stage later")


def interrupted_within_a_task(history: History, lessons: Lessons) -> object:
    """Put back to the middle of a task from what a checkpoint holds, it ends as the one that never stopped."""
    if not history.method.trains:
        return NOT_PROMISED
    at, then = history.moments[-2], history.moments[-1]
    config = _STEPS.model_copy(update={"checkpoint_every": 13})
    kept: list[tuple[Position, dict[str, Tensor]]] = []
    first = history.revived(at, lessons)
    sets = lessons.stages(first)[-1]
    begin(first, sets)

    def keep(position: Position) -> None:
        kept.append((replace(position, optimizer=stored(position.optimizer)), stored(first.working_state())))

    train(first, sets, config, on_checkpoint=keep)
    position, working = kept[0]
    resumed = history.fresh(lessons)
    put_back(resumed, sets, lessons.infos, at.sealed, at.working, working)
    train(resumed, sets, config, start=position)
    resumed.end_task()
    expect_same(answers(resumed, lessons, then.learned), then.said, "what is said after going on within a task")
    return None


def trainer_sees_what_a_restored_method_trains(history: History, lessons: Lessons) -> object:
    """The parameters of a task in training are the same, in the same order, in a restored instance."""
    if not history.method.trains:
        return NOT_PROMISED
    at = history.moments[-2]
    begun = history.revived(at, lessons)
    sets = lessons.stages(begun)[-1]
    begin(begun, sets)
    restored = history.fresh(lessons)
    put_back(restored, sets, lessons.infos, at.sealed, at.working, stored(begun.working_state()))
    names = [list(Trainer(method, sets, recipe(), SEED, 2, 1).named) for method in (begun, restored)]
    expect(names[0] == names[1], f"the trained parameters are {names[0]}, not {names[1]}")
    expect(restored.trained_parameters() == begun.trained_parameters(), "as many parameters are trained")
    return None


METHOD_LAWS: tuple[Callable[[History, Lessons], object], ...] = (
    embeddings_and_classifiers_are_unit_vectors,
    original_route_is_clip,
    classes_not_learned_are_encoded_by_the_original,
    zero_shot_kept,
    finished_tasks_constant,
    order_free,
    equal_route_keys_mean_equal_embeddings,
    learns,
    learns_in_half_precision,
    what_it_requires_must_be_there,
    backbone_is_never_changed,
    counts_of_trained_parameters,
    judged_end_to_end,
    state_is_complete,
    sealed_state_never_changes,
    learning_goes_on_from_a_state,
    interrupted_within_a_task,
    trainer_sees_what_a_restored_method_trains,
)
"""What a method must do once it has learned."""
