from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.engine import answers
from everclip.engine.answers import ROUTE_FLOOR
from everclip.engine.evaluation import Evaluator, TestSet
from everclip.methods import ORIGINAL, Method, MethodConfig
from everclip.selectors import Selector, SelectorConfig, selector_class
from everclip.selectors.oracle import Oracle
from everclip.streams import Protocol, TaskInfo

SCALE = 5.0


@dataclass
class Pictures:
    """Stands for images: each is one number, its row in the tables of the stub method."""

    numbers: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.numbers[rows]


@dataclass
class StubBackbone:
    embed_dim: int
    logit_scale: Tensor = field(default_factory=lambda: torch.tensor(SCALE))

    def pixels(self, images: Tensor) -> Tensor:
        return images


@dataclass
class StubFeatures:
    """Un-normalized frozen features by number."""

    table: Tensor

    def images(self, data: Pictures) -> Tensor:
        return 3 * self.table[data.numbers]


class Stub(Method):
    """Answers from tables: images[route] (numbers, D) and classes[route, task] (C, D), and notes what it is asked."""

    name = "stub"
    summary = "answers from tables"

    def __init__(self, images: dict[int, Tensor], classes: dict[tuple[int, int], Tensor], routed: bool) -> None:
        width = images[ORIGINAL].shape[1]
        super().__init__(StubBackbone(width), MethodConfig(), StubFeatures(images[ORIGINAL]))
        self.images = images
        self.classes = classes
        self.routed = routed
        self.version = dict.fromkeys(images, "0")
        self.asked: list[tuple[int, int]] = []

    def embed(self, pixels: Tensor, route: int) -> Tensor:
        self.asked += [(route, int(number)) for number in pixels]
        return F.normalize(self.images[route][pixels], dim=-1)

    def classifier(self, task: TaskInfo, route: int) -> Tensor:
        return F.normalize(self.classes[route, task.index], dim=-1)

    def route_key(self, route: int) -> str:
        return "original" if route == ORIGINAL else f"{route}/{self.version[route]}"


class Told(Selector):
    """p(t|x) from a table by the index of the test set."""

    name = "told"
    summary = "reads a table"
    reads_features = False

    def __init__(self, tasks: list[TaskInfo], tables: dict[int, Tensor]) -> None:
        super().__init__(SelectorConfig())
        self.tasks = tasks
        self.tables = tables

    def probabilities(self, features: Tensor | None, count: int, truth: int | None) -> Tensor:
        assert truth is not None
        return self.tables[truth]


def info(index: int, *names: str) -> TaskInfo:
    return TaskInfo(index, f"task {index}", names, ("{}",))


def test_sets(infos: list[TaskInfo], labels: list[list[int]]) -> list[TestSet]:
    ends = np.cumsum([0, *map(len, labels)])
    return [
        TestSet(task, Pictures(np.arange(start, end), np.array(own)))
        for task, own, start, end in zip(infos, labels, ends, ends[1:], strict=False)
    ]


test_sets.__test__ = False  # a helper, whatever its name says to pytest


def evaluator(tests: list[TestSet], method: Method, selector: Selector | None = None, **protocol) -> Evaluator:
    return Evaluator(tests, method, selector or selector_class("oracle")(SelectorConfig()), Protocol(**protocol))


# -- candidate sets, by hand -------------------------------------------------------------------------------------------


@pytest.fixture
def by_hand() -> Evaluator:
    """Classes wild cat, dog | car, Wild_Cat on four axes; each image lies on one axis, with something of another."""
    axes = torch.eye(4)
    cat, dog, car, other_cat = axes
    images = torch.stack(
        [
            0.5 * cat + 0.8 * other_cat,  # a cat of task 0 that looks most like task 1's
            0.5 * dog + 0.8 * car,  # a dog that looks like a car
            dog,
            0.5 * car + 0.8 * dog,  # a car that looks like a dog
            0.5 * car + 0.8 * other_cat,  # a car taken for the other class of its own task
        ]
    )
    infos = [info(0, "wild cat", "dog"), info(1, "car", " Wild_Cat")]
    classes = {(0, 0): axes[:2], (0, 1): axes[2:]}
    return evaluator(test_sets(infos, [[0, 1, 1], [0, 0]]), Stub({0: images, ORIGINAL: images}, classes, False))


@pytest.mark.parametrize(
    ("learned", "first", "first_by_name", "second"),
    [
        (0, [1, 1, 1], [1, 1, 1], [1, 0]),
        (1, [1, 1, 1], [1, 1, 1], [0, 0]),
        (2, [0, 0, 1], [1, 0, 1], [0, 0]),
    ],
)
def test_seen_grows_with_what_is_learned(by_hand: Evaluator, learned: int, first, first_by_name, second):
    one, two = by_hand.row(learned)
    assert one.correct["seen"].tolist() == [bool(x) for x in first]
    assert one.by_name["seen"].tolist() == [bool(x) for x in first_by_name]
    assert two.correct["seen"].tolist() == [bool(x) for x in second]
    assert one.routes is None


@pytest.mark.parametrize("learned", [0, 1, 2])
def test_task_and_all_do_not_depend_on_what_is_learned(by_hand: Evaluator, learned: int):
    one, two = by_hand.row(learned)
    assert one.correct["task"].tolist() == [True, True, True]
    assert two.correct["task"].tolist() == [True, False]
    assert one.correct["all"].tolist() == [False, False, True]
    assert one.by_name["all"].tolist() == [True, False, True], "a cat is a cat, whatever its task and spelling"
    assert two.correct["all"].tolist() == [False, False]
    assert two.by_name["all"].tolist() == [False, False]


# -- the mixture -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    infos: list[TaskInfo]
    tests: list[TestSet]
    method: Stub
    tables: dict[int, Tensor]

    def evaluator(self, learned: int = 3, **protocol) -> Evaluator:
        return evaluator(self.tests, self.method, Told(self.infos[:learned], self.tables), **protocol)


def random_world(
    counts: tuple[int, ...] = (40, 30, 20), learned: int = 3, seed: int = 0, one_space: bool = False
) -> World:
    """Random tables for a routed method, and a soft selector over `learned` tasks.

    With `one_space`, b is one class in both tasks that have it, as in class-incremental streams.
    """
    rng = np.random.default_rng(seed)
    infos = [info(0, "a", "b", "c"), info(1, "d", "b"), info(2, "e", "f", "g", "h")]
    if one_space:
        infos = [replace(task, known_as=tuple((0, ord(name)) for name in task.class_names)) for task in infos]
    labels = [rng.integers(len(task.class_names), size=n).tolist() for task, n in zip(infos, counts, strict=True)]

    def table(rows: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=(rows, 6)).astype(np.float32))

    routes = [ORIGINAL, *range(learned)]
    images = {route: table(sum(counts)) for route in routes}
    # A class has the text side of its own task on every learned route, and another one on the route to CLIP.
    original, own = ({task.index: table(len(task.class_names)) for task in infos} for _ in range(2))
    classes = {(r, t.index): (original if r == ORIGINAL else own)[t.index] for r in routes for t in infos}
    shares = {
        task.index: torch.from_numpy(rng.dirichlet(np.full(learned + 1, 0.4), n)).float()
        for task, n in zip(infos, counts, strict=True)
    }
    return World(infos, test_sets(infos, labels), Stub(images, classes, True), shares)


def naive_answer(world: World, test: int, row: int, candidates: list[tuple[int, int]]) -> tuple[int, int]:
    """p(c|x) in plain loops: unlearned classes keep p_zs, the learned ones share the rest by the route."""
    method = world.method
    number = int(world.tests[test].data.numbers[row])
    share = world.tables[test][row].double().numpy()
    share = np.where(share < ROUTE_FLOOR, 0, share) / share[share >= ROUTE_FLOOR].sum()

    def softmax(route: int, tasks: list[TaskInfo]) -> dict[tuple[int, int], float]:
        image = method.images[route][number].double().numpy()
        logits = {}
        for task in reversed(tasks):  # the first task that has a class speaks for it
            for label, key in enumerate(task.keys):
                if key in candidates:
                    text = method.classes[route, task.index][label].double().numpy()
                    logits[key] = SCALE * image @ text / np.linalg.norm(image) / np.linalg.norm(text)
        norm = sum(np.exp(value) for value in logits.values())
        return {key: np.exp(value) / norm for key, value in logits.items()}

    zero_shot = softmax(ORIGINAL, world.infos)
    taught = world.infos[: len(share) - 1]
    learned = {key for task in taught for key in task.keys if key in candidates}
    mass = sum(zero_shot[key] for key in learned)
    total = {key: 0.0 if key in learned else p for key, p in zero_shot.items()}
    for route in [*range(len(taught)), ORIGINAL]:
        answer = softmax(route, [world.infos[route]]) if route != ORIGINAL else {}
        for key in learned:  # CLIP answers for a task without a candidate
            total[key] += share[route] * (mass * answer.get(key, 0.0) if answer else zero_shot[key])
    assert sum(total.values()) == pytest.approx(1)
    return max(total, key=lambda key: total[key])


@pytest.mark.parametrize("one_space", [False, True])
@pytest.mark.parametrize("learned", [1, 2, 3])
def test_mixture_equals_plain_loops(learned: int, one_space: bool):
    world = random_world(learned=learned, one_space=one_space)
    assert any((table < ROUTE_FLOOR).any() for table in world.tables.values()), "some shares are below the floor"
    outcomes = world.evaluator(learned).row(learned)
    names = {key: name for task in world.infos for key, name in zip(task.keys, task.class_names, strict=True)}
    assert len(names) == (8 if one_space else 9)
    for index, (test, outcome) in enumerate(zip(world.tests, outcomes, strict=True)):
        own = list(world.infos[index].keys)
        known = [key for task in world.infos[:learned] for key in task.keys]
        sets = {"task": own, "seen": list(dict.fromkeys(known + own)), "all": list(names)}
        for name, candidates in sets.items():
            found = [naive_answer(world, index, row, candidates) for row in range(len(test.data))]
            truth = [own[int(label)] for label in test.data.labels]
            assert outcome.correct[name].tolist() == [a == t for a, t in zip(found, truth, strict=True)]
            called = [[names[key] for key in answer] for answer in (found, truth)]
            assert outcome.by_name[name].tolist() == [a == t for a, t in zip(*called, strict=True)]


def test_against_its_own_classes_alone_an_unlearned_task_keeps_zero_shot():
    """Whatever the selector says: no learned task has anything to say of a class that it does not know."""
    world = random_world(learned=2)
    lost = torch.eye(3)[[0] * 10 + [1] * 10]
    world.tables[2] = lost
    misrouted = world.evaluator(2).row(2)[2]
    world.tables[2] = torch.eye(3)[[2] * 20]
    original = world.evaluator(2).row(2)[2]
    assert misrouted.correct["task"].tolist() == original.correct["task"].tolist()
    assert misrouted.routes.tolist() == [10, 10, 0]


@pytest.mark.parametrize("candidates", ["seen", "all"])
def test_the_selector_takes_nothing_from_classes_that_nobody_taught(candidates: str):
    """A selector cannot know them: it divides what CLIP gives to the learned classes, and no more."""
    world = random_world(learned=2)
    infos = world.infos
    bank = torch.cat([F.normalize(world.method.classes[ORIGINAL, task.index], dim=1) for task in infos])
    images = F.normalize(world.method.images[ORIGINAL], dim=1)[world.tests[2].data.numbers]
    unlearned = (SCALE * images @ bank.T).softmax(dim=1)[:, 5:]
    sure = (unlearned.max(dim=1).values > 0.5).numpy()  # no split of the rest can beat it
    assert sure.sum() > 3
    right = (unlearned.argmax(dim=1).numpy() == world.tests[2].data.labels)[sure]
    for misrouted in (0, 1):
        world.tables[2] = torch.eye(3)[[misrouted] * 20]
        assert world.evaluator(2).row(2)[2].correct[candidates][sure].tolist() == right.tolist()


def test_many_unsure_routes_still_give_an_answer(monkeypatch: pytest.MonkeyPatch):
    """With more than 1 / ROUTE_FLOOR routes of equal probability, each one alone is below the floor."""
    monkeypatch.setattr(answers, "ROUTE_FLOOR", 0.1)
    tasks = 12
    infos = [info(index, f"class {index}", f"other {index}") for index in range(tasks)]
    images = dict.fromkeys([ORIGINAL, *range(tasks)], torch.tensor([[1.0, 0.0]]).repeat(tasks, 1))
    classes = {(route, task): torch.eye(2).flip(0) for route in images for task in range(tasks)}
    tests = test_sets(infos, [[1]] * tasks)
    shares = dict.fromkeys(range(tasks), torch.full((1, tasks + 1), 1 / (tasks + 1)))
    outcome = evaluator(tests, Stub(images, classes, True), Told(infos, shares)).row(tasks)[0]
    assert outcome.correct["task"].tolist() == [True]


# -- routing -----------------------------------------------------------------------------------------------------------


def test_routes_count_every_image():
    world = random_world()
    for index, outcome in enumerate(world.evaluator().row(3)):
        assert outcome.routes is not None
        assert outcome.routes.tolist() == np.bincount(world.tables[index].argmax(1).numpy(), minlength=4).tolist()
        assert outcome.routes.sum() == len(world.tests[index].data)


def test_batches_vote():
    """Of 300 images the first 128 are sent to task 1 by a small majority, the others to task 0."""
    world = random_world(counts=(300, 1, 1))
    lean = torch.tensor([[0.3, 0.6, 0.05, 0.05]]).repeat(300, 1)
    lean[:60] = lean[128:] = torch.tensor([0.5, 0.4, 0.05, 0.05])
    world.tables[0] = lean
    batch = world.evaluator(routing="batch").row(3)[0].routes
    sample = world.evaluator(routing="sample").row(3)[0].routes
    assert batch.tolist() == [172, 128, 0, 0]
    assert sample.tolist() == [232, 68, 0, 0]
    voted = world.evaluator(routing="batch").row(3)[0].correct
    world.tables[0] = torch.eye(4)[[1] * 128 + [0] * 172]
    decided = world.evaluator(routing="sample").row(3)[0].correct
    assert all(np.array_equal(voted[name], decided[name]) for name in decided)


def test_oracle_sends_unlearned_tasks_to_the_original():
    world = random_world()
    oracle = Oracle(SelectorConfig())
    oracle.fit(world.infos[0], None, None, None)
    first, *others = evaluator(world.tests, world.method, oracle).row(1)
    assert first.routes.tolist() == [40, 0]
    assert [outcome.routes.tolist() for outcome in others] == [[0, 30], [0, 20]]
    assert {route for route, _ in world.method.asked} == {0}, "the original's features come from the cache"


def test_selector_reads_frozen_features():
    world = random_world()
    given = []

    class Reader(Told):
        reads_features = True

        def probabilities(self, features: Tensor | None, count: int, truth: int | None) -> Tensor:
            given.append(features)
            return super().probabilities(features, count, truth)

    evaluator(world.tests, world.method, Reader(world.infos, world.tables)).row(3)
    for test, features in zip(world.tests, given, strict=True):
        assert torch.equal(features, 3 * world.method.images[ORIGINAL][test.data.numbers])


# -- what is computed --------------------------------------------------------------------------------------------------


def test_each_image_is_embedded_once_per_route_it_takes():
    world = random_world()
    judge = world.evaluator()
    progress: list[int] = []
    first = judge.row(3, progress.append)
    assert progress == [40, 30, 20]
    asked = world.method.asked
    taken = {
        (route, int(number))
        for index, test in enumerate(world.tests)
        for row, number in enumerate(test.data.numbers)
        for route in range(3)
        if world.tables[index][row, route] >= ROUTE_FLOOR
    }
    assert len(asked) == len(set(asked))
    assert set(asked) == taken

    asked.clear()
    again = judge.row(3)
    assert asked == [], "nothing changed"
    for one, other in zip(first, again, strict=True):
        assert all(np.array_equal(one.correct[name], other.correct[name]) for name in one.correct)

    world.method.version[1] = "later"
    judge.row(3)
    assert sorted(asked) == sorted(pair for pair in taken if pair[0] == 1)


def test_images_that_take_a_new_route_are_added():
    world = random_world()
    judge = world.evaluator()
    judge.row(3)
    before = set(world.method.asked)
    world.method.asked.clear()
    for index, table in world.tables.items():
        world.tables[index] = table.flip(1)
    judge.row(3)
    assert world.method.asked
    assert not before & set(world.method.asked)


def test_changed_embeddings_change_the_answers():
    world = random_world()
    judge = world.evaluator()
    first = [outcome.correct["all"] for outcome in judge.row(3)]
    for route in range(3):
        world.method.images[route] = -world.method.images[route]
        world.method.version[route] = "turned around"
    second = [outcome.correct["all"] for outcome in judge.row(3)]
    assert any(not np.array_equal(one, other) for one, other in zip(first, second, strict=True))
    fresh = [outcome.correct["all"] for outcome in world.evaluator().row(3)]
    assert all(np.array_equal(one, other) for one, other in zip(second, fresh, strict=True))
