"""Adapters with parameter retention: what they retain, replay and are fed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures, FrozenImages
from everclip.data import LabeledEmbeddings
from everclip.engine.batches import TrainingSet
from everclip.engine.evaluation import TestSet
from everclip.errors import InputError
from everclip.experiment.config import Config, layered
from everclip.experiment.recipes import read_recipe
from everclip.experiment.runner import run
from everclip.functional.retention import fuse, retain
from everclip.methods import METHODS, ORIGINAL, Batch
from everclip.methods.adapters import AttentionAdapterMethod, LinearAdapterMethod
from everclip.methods.prompt_tuning import PromptTuning
from everclip.methods.retained import Retained
from everclip.streams import TaskInfo
from everclip.testing.laws import expect_same as assert_same
from everclip.testing.laws import stored
from everclip.testing.lessons import Lessons, answers, begin, learn, new_method, recipe, train, zero_shot

KINDS = (LinearAdapterMethod, AttentionAdapterMethod, PromptTuning)
NAMES = [kind.name for kind in KINDS]


def taught(kind: type[Retained], lessons: Lessons, **settings) -> Retained:
    """A method that has learned the first task."""
    method = new_method(kind, lessons, **settings)
    learn(method, lessons.stages(method)[0])
    return method


def entries(method: Retained) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in method.adapter.named_parameters()}


# -- retention ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("settings", "law"),
    [
        ({"retention": "hard", "ratio": 0.7}, lambda old, new: retain(old, new, 0.7)),
        ({"retention": "soft", "b": 0.3}, lambda old, new: fuse(old, new, 0.3)),
        ({"retention": "none"}, lambda old, new: new),
    ],
    ids=["hard", "soft", "none"],
)
def test_every_task_but_the_first_is_retained(kind: type[Retained], settings: dict, law, lessons: Lessons):
    method = new_method(kind, lessons, **settings)
    for number, sets in enumerate(lessons.stages(method)):
        before = entries(method)
        begin(method, sets)
        train(method, sets, recipe())
        learned = entries(method)
        method.end_task()
        for name, value in entries(method).items():
            assert not torch.equal(learned[name], before[name])
            assert torch.equal(value, law(before[name], learned[name]) if number else learned[name])


def test_hard_retention_with_ratio_one_unlearns(lessons: Lessons):
    method = taught(LinearAdapterMethod, lessons, retention="hard", ratio=1.0)
    before = entries(method)
    learn(method, lessons.stages(method)[1])
    assert_same(entries(method), before)


# -- the loss ----------------------------------------------------------------------------------------------------------


def test_the_loss_runs_over_all_classes_and_weighs_by_them(lessons: Lessons, monkeypatch: pytest.MonkeyPatch):
    """Three classes known, two new: replay has three fifths."""
    method = taught(LinearAdapterMethod, lessons, label_smoothing=0.1)
    sets = lessons.stages(method)[1]
    begin(method, sets)
    z = sets[0].images[np.arange(4)]
    old, columns = torch.randn(4, z.shape[1]), torch.tensor([2, 0, 1, 1])
    monkeypatch.setattr(method.replay, "draw", lambda count: (old, columns))
    batch = Batch(lessons.infos[1], z, torch.tensor([1, 0, 1, 1]))
    loss = method.train()(batch)
    bank = torch.cat([method.features.classes(info.class_names, info.templates) for info in lessons.infos])

    def ce(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        adapted = method.adapter(F.normalize(inputs, dim=-1))
        logits = lessons.backbone.logit_scale * F.normalize(adapted, dim=-1) @ bank.T
        return F.cross_entropy(logits, targets, label_smoothing=0.1)

    new, again = (value.detach() for value in (ce(z, torch.tensor([4, 3, 4, 4])), ce(old, columns)))
    torch.testing.assert_close(loss.total, 0.4 * new + 0.6 * again)
    assert loss.parts == {"ce": pytest.approx(float(new)), "replay": pytest.approx(float(again))}
    torch.testing.assert_close(method.eval()(batch).total, new)


@pytest.mark.parametrize("replay", ["gaussian", "exemplars"])
@pytest.mark.parametrize("kind", KINDS)
def test_replay_remembers(kind: type[Retained], replay: str, lessons: Lessons):
    """After the second task the images of the first are told from those of the second better than without replay."""
    settings = {"retention": "none", "replay": replay}
    if kind is AttentionAdapterMethod and replay == "gaussian":
        settings["tokens"] = "pooled"
    right = {}
    for name, own in (("with", settings), ("without", settings | {"replay": "none"})):
        method = new_method(kind, lessons, **own)
        for sets in lessons.stages(method):
            learn(method, sets, recipe(iterations=20, batch=12, lr=1e-2))
        first = lessons.tests[0]
        bank = torch.cat([method.classifier(info, 0) for info in lessons.infos])
        logits = lessons.backbone.logit_scale * method.embed_all(first.data, 0) @ bank.detach().T
        right[name] = float(F.cross_entropy(logits, torch.from_numpy(first.data.labels)))
    assert right["with"] < right["without"]


def test_the_first_class_of_a_name_gives_its_text(lessons: Lessons):
    """A class that comes again in a later task keeps its column, its text and its statistics."""
    first = TaskInfo(0, "one", ("red", "green"), ("a {}.",), ((0, 0), (0, 1)))
    again = TaskInfo(1, "two", ("green", "blue"), ("a photo of {}.",), ((0, 1), (0, 2)))
    rng = np.random.default_rng(0)

    def images(labels: list[int]) -> FrozenImages:
        features = rng.normal(size=(len(labels), lessons.backbone.embed_dim)).astype(np.float32)
        return FrozenImages(LabeledEmbeddings(features, np.array(labels)), features)

    method = new_method(LinearAdapterMethod, lessons)
    learn(method, [TrainingSet(first, images([0, 1] * 5))])
    learn(method, [TrainingSet(again, images([0, 1] * 5))])
    assert method.text_side().shape[0] == 3
    expected = torch.cat([lessons.features.classes(("red", "green"), first.templates),
                          lessons.features.classes(("blue",), again.templates)])  # fmt: skip
    torch.testing.assert_close(method.text_side(), expected)
    learn(method, [TrainingSet(replace(first, index=2, known_as=((0, 3), (0, 2))), images([0, 1] * 5))])
    assert method.replay.classes.tolist() == [0, 1, 2]
    assert method.text_side().shape[0] == 4


# -- what they are fed, and start from ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_classes_learned_divide_anew_what_clip_gives_them_together(kind: type[Retained], lessons: Lessons):
    """Only among themselves: over a task alone the module decides, and over all that is not learned the original."""
    method = taught(kind, lessons)
    counts = [len(info.class_names) for info in lessons.infos]
    own, rest = range(counts[0]), range(counts[0], sum(counts))
    candidates = {"own": own, "rest": rest, "all": range(sum(counts))}
    classes = [key for info in lessons.infos for key in info.keys]
    bank = torch.cat([method.classifier(info, 0) for info in lessons.infos]).detach()
    for test in lessons.tests:
        images, original = method.embed_all(test.data, 0), zero_shot(lessons, test)
        logits = lessons.backbone.logit_scale * images @ bank.T
        p = method.posterior(images, logits, lambda original=original: original, classes, candidates)
        assert torch.equal(p["own"].argmax(dim=1), logits[:, own].argmax(dim=1))
        assert torch.equal(p["rest"], original[:, rest].softmax(dim=1))
        untouched = original.softmax(dim=1)
        assert torch.equal(p["all"][:, rest], untouched[:, rest])
        together = untouched[:, own].sum(dim=1, keepdim=True)
        torch.testing.assert_close(p["all"][:, own], together * logits[:, own].softmax(dim=1))
        assert not torch.allclose(p["all"][:, own], untouched[:, own], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_they_are_clip(kind: type[Retained], lessons: Lessons):
    said = answers(new_method(kind, lessons), lessons, 0)
    for task in range(len(lessons.tests)):
        for what in ("images", "classes"):
            assert torch.equal(said[what, 0, task], said[what, ORIGINAL, task])


def test_image_adapters_start_learning_at_zero_shot(lessons: Lessons):
    """Not only before: with the first task begun and no step taken, too."""
    for kind in (LinearAdapterMethod, AttentionAdapterMethod):
        method = new_method(kind, lessons)
        begin(method, lessons.stages(method)[0])
        for test in lessons.tests:
            torch.testing.assert_close(method.embed_all(test.data, 0), method.embed_all(test.data, ORIGINAL))
    other = new_method(LinearAdapterMethod, lessons, start="random")
    begin(other, lessons.stages(other)[0])
    assert not torch.allclose(other.embed_all(test.data, 0), other.embed_all(test.data, ORIGINAL), atol=0.1)


def test_attention_is_fed_with_tokens(lessons: Lessons):
    whole, pooled = (new_method(AttentionAdapterMethod, lessons, tokens=tokens) for tokens in ("all", "pooled"))
    assert [method.feed for method in (whole, pooled, METHODS["linear-adapter"])] == [
        "tokens", "embeddings", "embeddings",
    ]  # fmt: skip
    assert lessons.sets(whole)[0].images.features.shape[1:] == (5, 32)
    with pytest.raises(InputError, match=r"cannot draw tokens; choose replay=exemplars or tokens=pooled"):
        new_method(AttentionAdapterMethod, lessons, replay="gaussian")


def test_prompts_of_classes_not_learned_are_the_originals(lessons: Lessons):
    method = taught(PromptTuning, lessons)
    for info in lessons.infos:
        original = method.classifier(info, ORIGINAL)
        assert torch.equal(method.classifier(info, 0), original) == (info.index == 1)
    mixed = replace(lessons.infos[1], known_as=((0, 1), (7, 7)))
    same = (method.classifier(mixed, 0) == method.classifier(mixed, ORIGINAL)).all(dim=1)
    assert same.tolist() == [False, True]
    assert method.route_key(0) == "original"


@pytest.mark.parametrize(
    ("name", "expected"), [("linear-adapter", 32 * 32 + 32), ("attention-adapter", 3 * 32 * 32), ("prompt-tuning", 512)]
)
def test_trained_parameters(name: str, expected: int, lessons: Lessons):
    method = new_method(METHODS[name], lessons)
    begin(method, lessons.stages(method)[0])
    assert method.trained_parameters() == expected
    assert method.trained_in_total([expected, expected]) == expected


# -- state -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("replay", ["gaussian", "exemplars"])
def test_state_within_a_task_holds_what_retention_compares_with(kind: type[Retained], replay: str, lessons: Lessons):
    settings = {"tokens": "pooled"} if kind is AttentionAdapterMethod else {}
    method = taught(kind, lessons, replay=replay, **settings)
    between = stored(method.working_state())
    assert not any(name.startswith("before.") for name in between)
    begin(method, lessons.stages(method)[1])
    within = stored(method.working_state())
    for name, value in entries(method).items():
        assert torch.equal(within[f"before.{name}"], value)
    assert bool(method.sealed_state(0)) == (replay == "gaussian")
    assert ("replay.features" in within) == (replay == "exemplars")


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(kind: type[Retained], tiny_clip: Path, lessons: Lessons):
    """Autocast is the backbone's own: the module and the loss stay in float32."""
    half = replace(lessons, backbone=(backbone := Backbone.load(str(tiny_clip), precision="bf16")),
                   features=FrozenFeatures(backbone))  # fmt: skip
    method = taught(kind, half)
    learn(method, half.stages(method)[1])
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in method.parameters())
    for value in answers(method, half, 2).values():
        torch.testing.assert_close(value.norm(dim=1), torch.ones(len(value)))


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedding_stream(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder, rng = tmp_path_factory.mktemp("embeddings"), np.random.default_rng(0)
    for number in range(2):
        labels = np.arange(2).repeat(20)
        features = np.eye(32, dtype=np.float32)[2 * number + labels] + 0.1 * rng.normal(size=(40, 32))
        np.savez(folder / f"{number}.npz", embeddings=features, labels=labels, class_names=np.array(["cat", "dog"]))
    return f"embeddings:{folder / '0.npz'},{folder / '1.npz'}"


@pytest.mark.parametrize(
    ("name", "replay"),
    [("prompt-tuning", "gaussian"), *[("linear-adapter", replay) for replay in ("gaussian", "exemplars", "none")]],
)
def test_learns_from_embedding_files(name: str, replay: str, embedding_stream: str, tiny_clip: Path, tmp_path: Path):
    values = {
        "method": name, "replay": replay, "backbone": str(tiny_clip), "device": "cpu", "stream": embedding_stream,
        "epochs": 4, "batch": 8, "lr": 1e-2, "warmup": 2,
    }  # fmt: skip
    results = run(Config.of(values), tmp_path / "run")
    matrix = results["by_candidates"]["task"]["matrix"]
    assert matrix[0][0] > 90
    assert results["training"]["epochs"] == 4


def test_attention_needs_images(embedding_stream: str, tiny_clip: Path, tmp_path: Path):
    values = {"method": "attention-adapter", "backbone": str(tiny_clip), "device": "cpu", "stream": embedding_stream}
    with pytest.raises(InputError, match=r"'attention-adapter' learns from images, but .* gives embeddings"):
        run(Config.of(values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", NAMES)
def test_epochs_are_their_default(name: str):
    values = {"method": name, "stream": "drawn"}
    assert Config.of(values).training.epochs == METHODS[name].defaults["epochs"]
    assert Config.of(values | {"iterations": 7}).training.epochs is None, "what is given goes before a default"
    assert Config.of(values | {"iterations": 7, "epochs": 2}).training.epochs == 2
    assert Config.of(Config.of(values).flat()) == Config.of(values)
    recommended = read_recipe("development", name)
    assert Config.of(values | recommended).training.epochs == recommended["epochs"]
    assert Config.of(layered(values | recommended, {"iterations": 7})).training.steps(1000) == 7


def test_a_test_set_of_embeddings_is_fed_as_it_is(lessons: Lessons):
    method = taught(LinearAdapterMethod, lessons)
    test = lessons.tests[0]
    frozen = LabeledEmbeddings(lessons.features.images(test.data).numpy(), test.data.labels)
    given = TestSet(test.info, frozen)
    torch.testing.assert_close(method.embed_all(given.data, 0), method.embed_all(test.data, 0))
    rows = np.array([4, 1])
    torch.testing.assert_close(method.embed_all(given.data, 0, rows), method.embed_all(given.data, 0)[rows])
