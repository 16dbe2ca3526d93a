"""Analytic learners: the joint solution in any order, exact forgetting, zero-shot kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.covariance import oas
from torch import Tensor

from everclip.data import LabeledEmbeddings
from everclip.engine.evaluation import Evaluator, TestSet
from everclip.errors import InputError
from everclip.experiment.config import Config
from everclip.experiment.runner import run
from everclip.functional.analytic import Statistics, random_projection, rbf_kernel
from everclip.methods import METHODS, Method, MethodConfig, ridge
from everclip.methods.analytic import Analytic
from everclip.selectors import SelectorConfig
from everclip.selectors.oracle import Oracle
from everclip.streams import Protocol, TaskInfo

WIDTH = 8
NAMES = ("ncm", "lda", "ranpac", "rail", "rail-dual")
FIXED = {"ranpac": {"ridge": 0.5, "random_features": 24}, "rail": {"ridge": 0.5, "random_features": 24}}
"""λ given: what is equal to 1e-8 by the algebra alone."""


@dataclass
class Clip:
    """Stands for a backbone: its width and scale."""

    embed_dim: int = WIDTH
    logit_scale: Tensor = field(default_factory=lambda: torch.tensor(20.0))
    name: str = "stub"


class Features:
    """Class embeddings by name; image features are given."""

    def classes(self, names: tuple[str, ...], templates: tuple[str, ...]) -> Tensor:
        return torch.stack([direction(name) for name in names])

    def images(self, data: LabeledEmbeddings) -> Tensor:
        return torch.from_numpy(data.embeddings)


def direction(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(sum(ord(c) * 31**i for i, c in enumerate(name)) % 2**31)
    return F.normalize(torch.randn(WIDTH, generator=generator), dim=0)


def images_of(info: TaskInfo, each: int, seed: int) -> tuple[Tensor, Tensor]:
    """Un-normalized features near, but not at, what the class is called."""
    generator = torch.Generator().manual_seed(seed + info.index)
    labels = torch.arange(len(info.class_names)).repeat(each)
    centers = torch.stack([direction(name) + direction(name + "?") for name in info.class_names])
    features = centers[labels] + 0.5 * torch.randn(len(labels), WIDTH, generator=generator)
    return 3 * features, labels


TASKS = [
    TaskInfo(0, "pets", ("cat", "dog", "fish"), ("a {}.",)),
    TaskInfo(1, "cars", ("van", "bus"), ("a {}.",)),
    TaskInfo(2, "food", ("soup", "cat", "bread"), ("a {}.",)),
]
DATA = {info.name: images_of(info, 9, seed=1) for info in TASKS}
NEW = {info.name: images_of(info, 5, seed=100) for info in TASKS}
CLASSES = [(info.index, label) for info in TASKS for label in range(len(info.class_names))]


def new(name: str, **settings) -> Analytic:
    method = METHODS[name]
    return method(Clip(), method.Config(**{**FIXED.get(name, {}), **settings}), Features())


def teach(method: Analytic, *infos: TaskInfo, batch: int = 1000, turn: int | None = None) -> Analytic:
    for info in infos:
        features, labels = DATA[info.name]
        order = torch.arange(len(labels))
        if turn is not None:
            order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(turn))
        method.begin_task(info)
        for rows in order.split(batch):
            method.accumulate(features[rows], labels[rows])
        method.solve()
        method.end_task()
    return method


@pytest.mark.parametrize("name", ["ranpac", "rail", "rail-dual"])
def test_what_calibrates_does_not_depend_on_rounding(name: str):
    """Another processor computes the same embeddings a little differently; the sample is the same images."""
    features, labels = DATA["pets"]
    known = torch.randint(2**40, labels.shape, generator=torch.Generator().manual_seed(3))
    drawn = []
    for factor in (1, 1 + 1e-6):
        method = new(name, calibration=4)
        method.begin_task(TASKS[0])
        assert method.tasks[-1].name == "pets"
        method.accumulate(features * factor, labels, known)
        method.solve()
        memory = method.memory[-1]
        drawn.append(memory["identities"][method.calibration(memory)].tolist())
    assert drawn[0] == drawn[1]
    assert sorted(drawn[0]) == sorted(known.tolist())[:4]


def posterior(method: Method, columns: Sequence[int] | None = None) -> Tensor:
    """p(c|x) of all new images over all classes, or some of them."""
    x = F.normalize(torch.cat([NEW[info.name][0] for info in TASKS]), dim=-1)
    bank = torch.cat([method.classifier(info, 0) for info in TASKS])
    columns = range(len(CLASSES)) if columns is None else columns
    logits = method.backbone.logit_scale * x @ bank.T
    return method.posterior(x, logits, lambda: logits, CLASSES, {"all": columns})["all"]


def scores(method: Analytic) -> Tensor:
    """Scores of all new images, columns by (task, class) in the order of `CLASSES`."""
    x = F.normalize(torch.cat([NEW[info.name][0] for info in TASKS]), dim=-1)
    learned = [(task.index, label) for task in method.tasks for label in range(len(task.class_names))]
    return method.scores(x)[:, [learned.index(key) for key in CLASSES if key in learned]]


# -- equal to the joint solution ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("order", "batch", "turn"), [((0, 1, 2), 4, 3), ((2, 0, 1), 1000, None), ((1, 2, 0), 1, 8)])
def test_order_and_batches_change_nothing(name: str, order: tuple[int, ...], batch: int, turn: int | None):
    whole = teach(new(name), *TASKS)
    other = teach(new(name), *(TASKS[index] for index in order), batch=batch, turn=turn)
    torch.testing.assert_close(scores(other), scores(whole), rtol=0, atol=1e-8)
    torch.testing.assert_close(other.solution["mixture"], whole.solution["mixture"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(posterior(other), posterior(whole), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["rail", "rail-dual"])
def test_ridge_equals_the_joint_regression(name: str):
    """All images at once, solved by least squares on the stacked system."""
    x = F.normalize(torch.cat([DATA[info.name][0] for info in TASKS]), dim=-1).double()
    new_x = F.normalize(torch.cat([NEW[info.name][0] for info in TASKS]), dim=-1).double()
    starts = np.cumsum([0, 3, 2])
    labels = torch.cat([DATA[info.name][1] + int(start) for info, start in zip(TASKS, starts, strict=True)])
    targets = F.one_hot(labels, 8).double()
    method = teach(new(name, ridge=0.5), *TASKS)
    if name == "rail":
        projection = random_projection(WIDTH, 24, 0)
        phi, new_phi = (x @ projection).clamp(min=0), (new_x @ projection).clamp(min=0)
        stacked = torch.cat([phi, 0.5**0.5 * torch.eye(24, dtype=x.dtype)])
        weights = torch.linalg.lstsq(stacked, torch.cat([targets, torch.zeros(24, 8, dtype=x.dtype)])).solution
        expected = new_phi @ weights
    else:
        kernel = rbf_kernel(x, x, 0.1) + 0.5 * torch.eye(len(x), dtype=x.dtype)
        expected = rbf_kernel(new_x, x, 0.1) @ torch.linalg.solve(kernel, targets)
    torch.testing.assert_close(scores(method), expected, rtol=0, atol=1e-8)


def test_lda_equals_the_classical_rule():
    method = teach(new("lda"), *TASKS)
    x = F.normalize(torch.cat([DATA[info.name][0] for info in TASKS]), dim=-1).double()
    labels = torch.cat([DATA[info.name][1] + start for info, start in zip(TASKS, (0, 3, 5), strict=True)])
    means = torch.stack([x[labels == c].mean(dim=0) for c in range(8)])
    residual = x - means[labels]
    precision = torch.linalg.inv(torch.from_numpy(oas(residual.numpy(), assume_centered=True)[0]))
    new_x = F.normalize(torch.cat([NEW[info.name][0] for info in TASKS]), dim=-1).double()
    difference = new_x[:, None] - means
    expected = -torch.einsum("ncd,de,nce->nc", difference, precision, difference) / 2
    torch.testing.assert_close(scores(method).log_softmax(1), expected.log_softmax(1), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_more_images_of_known_classes_add_to_what_is_known(name: str):
    info = TASKS[0]
    features, labels = DATA[info.name]
    method = new(name)
    for rows in (torch.arange(14), torch.arange(14, len(labels))):
        method.begin_task(info)
        method.accumulate(features[rows], labels[rows])
        method.solve()
    torch.testing.assert_close(scores(method), scores(teach(new(name), info)), rtol=0, atol=1e-8)
    assert scores(method).shape[1] == 3


# -- forgetting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_forgetting_is_exact(name: str, index: int):
    """Down to the stored tensors: nothing of the task is left, neither in statistics nor in the calibration."""
    method = teach(new(name), *TASKS)
    method.drop(index)
    never = teach(new(name), *(info for info in TASKS if info.index != index))
    assert method.tasks == never.tasks
    assert method.solution.keys() == never.solution.keys()
    for key, value in method.solution.items():
        torch.testing.assert_close(value, never.solution[key], rtol=0, atol=1e-8)
    for position in range(2):
        stored, expected = method.sealed_state(position), never.sealed_state(position)
        assert all(torch.equal(stored[key], expected[key]) for key in expected)
    assert torch.equal(posterior(method), posterior(never))


def test_forgetting_everything_leaves_clip():
    method = teach(new("rail"), TASKS[0])
    method.drop(0)
    assert torch.equal(posterior(method), posterior(new("rail")))


# -- zero-shot ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["calibrated", "alone"])
@pytest.mark.parametrize("name", NAMES)
def test_classes_not_learned_keep_what_clip_gives_them(name: str, fusion: str):
    untouched = posterior(new(name))
    method = teach(new(name, fusion=fusion), TASKS[2], TASKS[0])
    p = posterior(method)
    own = torch.tensor([task == 1 for task, _ in CLASSES])
    assert torch.equal(p[:, own], untouched[:, own])
    assert not torch.equal(p[:, ~own], untouched[:, ~own])
    torch.testing.assert_close(p.sum(dim=1), torch.ones(len(p)))
    columns = own.nonzero().flatten().tolist()
    assert torch.equal(posterior(method, columns), posterior(new(name), columns))


def test_the_published_rule():
    """CLIP's answer is kept where it is an unlearned class; else β decides between it and the raw regression."""
    method = teach(new("rail", fusion="published", beta=0.7), TASKS[0])
    untouched, p = posterior(new("rail")), posterior(method)
    unlearned = untouched.argmax(dim=1) >= 3
    assert 0 < unlearned.sum() < len(p)
    assert torch.equal(p[unlearned], untouched[unlearned])
    expected = 0.3 * untouched
    expected[:, :3] += 0.7 * scores(method).float()
    torch.testing.assert_close(p[~unlearned], expected[~unlearned])


def test_a_task_in_progress_is_not_learned():
    for name in NAMES:
        method = teach(new(name), TASKS[0])
        before = posterior(method)
        method.begin_task(TASKS[1])
        method.accumulate(*DATA["cars"])
        assert torch.equal(posterior(method), before)


# -- calibration -------------------------------------------------------------------------------------------------------


def test_the_ridge_is_the_best_on_images_left_out():
    method = teach(new("rail", ridge="search", calibration=1000, fusion="alone"), *TASKS)
    chosen = float(method.solution["ridge"])
    losses = {}
    x = F.normalize(torch.cat([DATA[info.name][0] for info in TASKS]), dim=-1)
    labels = torch.cat([DATA[info.name][1] + start for info, start in zip(TASKS, (0, 3, 5), strict=True)])
    phi = method.mapped(x)
    for candidate in method.decades:
        left_out = torch.empty(len(x), 8, dtype=torch.float64)
        for row in range(len(x)):
            rest = torch.arange(len(x)) != row
            total = Statistics.empty(8, 24)
            total.add_(phi[rest], labels[rest])
            shifted = total.gram + candidate * torch.eye(24, dtype=torch.float64)
            left_out[row] = phi[row] @ torch.linalg.solve(shifted, total.sums.T)
        temperatures = torch.logspace(-2, 3, 300, dtype=torch.float64)
        losses[candidate] = min(float(F.cross_entropy(t * left_out, labels)) for t in temperatures)
    assert chosen == min(losses, key=losses.get)


@pytest.mark.parametrize("name", NAMES)
def test_one_image_per_class_is_enough_but_for_lda(name: str):
    """Nothing can be left out then: scores count as cosines do."""
    method = new(name, **({"ridge": "search"} if "ra" in name else {}))
    features, labels = DATA["pets"]
    method.begin_task(TASKS[0])
    method.accumulate(features[:3], labels[:3])
    if name == "lda":
        with pytest.raises(InputError, match=r"two different training images.*more images"):
            method.solve()
        return
    method.solve()
    assert method.solution["mixture"][0] == 20
    assert torch.isfinite(posterior(method)).all()


def test_refusals(monkeypatch: pytest.MonkeyPatch):
    method = new("rail")
    method.begin_task(TASKS[0])
    with pytest.raises(InputError, match=r"'pets' has no training image"):
        method.solve()
    for name in NAMES:
        for early in (new(name), teach(new(name), TASKS[0])):
            with pytest.raises(InputError, match="between begin_task and solve"):
                early.accumulate(*DATA["pets"])
    monkeypatch.setattr(ridge, "DUAL_LIMIT", 26)
    with pytest.raises(InputError, match=r"27 images and can hold 26; use method rail"):
        teach(new("rail-dual"), TASKS[0])
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"ridge=1e-30 is too small.*raise it"):
        teach(new("rail", ridge=1e-30, random_features=400), TASKS[0])
    untrained = Method(Clip(), MethodConfig(), Features())
    untrained.name = "base"
    for call in (untrained.solve, lambda: untrained.accumulate(*DATA["pets"])):
        with pytest.raises(NotImplementedError, match="closed form"):
            call()
    with pytest.raises(InputError, match=r"ridge=0 is not valid"):
        Config.of({"method": "rail", "stream": "drawn", "ridge": 0})


# -- judged and stored -------------------------------------------------------------------------------------------------


def test_every_candidate_set_is_judged_with_the_joint_classifier():
    method = teach(new("rail"), TASKS[0], TASKS[1])
    tests = [TestSet(info, LabeledEmbeddings(NEW[info.name][0].numpy(), NEW[info.name][1].numpy())) for info in TASKS]
    outcomes = Evaluator(tests, method, Oracle(SelectorConfig()), Protocol()).row(2)
    p = posterior(method)
    owner = torch.tensor([task for task, _ in CLASSES])
    for index, outcome in enumerate(outcomes):
        labels = NEW[TASKS[index].name][1]
        first = int((owner < index).sum())
        start = sum(len(NEW[info.name][1]) for info in TASKS[:index])
        own = p[start : start + len(labels)]
        assert outcome.correct["all"].tolist() == (own.argmax(dim=1) == first + labels).tolist()
        assert outcome.routes is None
    base = Method(Clip(), MethodConfig(), Features())
    untouched = Evaluator(tests, base, Oracle(SelectorConfig()), Protocol()).row(0)
    assert outcomes[2].correct["task"].tolist() == untouched[2].correct["task"].tolist()


def test_learns_from_embedding_files(tiny_clip, tmp_path):
    """No image and no image tower: a stream of stored embeddings."""
    paths = []
    for info in TASKS[:2]:
        embeddings, labels = DATA[info.name]
        wide = np.tile(embeddings.numpy(), 4)  # the tiny model's width
        paths.append(tmp_path / f"{info.name}.npz")
        np.savez(paths[-1], embeddings=wide, labels=labels.numpy(), class_names=np.array(info.class_names))
    values = {
        "method": "rail", "random_features": 32, "backbone": str(tiny_clip), "device": "cpu",
        "stream": f"embeddings:{paths[0]},{paths[1]}",
    }  # fmt: skip
    results = run(Config.of(values), tmp_path / "run")
    assert results["last"] > results["by_candidates"]["task"]["matrix"][0][1]
    assert results["trained_parameters"] == {"per_task": [96, 64], "total": 160}
