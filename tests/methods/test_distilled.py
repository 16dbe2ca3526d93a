"""What is distilled, from whom, and at what price."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.backbone.features import embed_images
from everclip.methods import Batch, Reference
from everclip.methods.distilled import Distilled, LwF, LwFVR
from everclip.methods.zscl import ZSCL
from everclip.testing.lessons import Lessons, begin, learn, new_method, recipe


def taught(method: Distilled) -> tuple[Tensor, Tensor]:
    return method._taught_images, method._taught_texts


def batch_of(method: Distilled, lessons: Lessons) -> Batch:
    """A step's batch for a method that has begun the first task."""
    rows = torch.arange(4)
    pixels = lessons.backbone.pixels(torch.from_numpy(method.reference[rows.numpy()]))
    return Batch(lessons.infos[0], pixels, torch.zeros(4, dtype=torch.int64), Reference(pixels, rows))


def test_lwf_asks_the_model_before_the_task(lessons: Lessons):
    method = new_method(LwF, lessons)
    learn(method, lessons.training[:1], recipe(iterations=4))
    before = method.student.clone().eval()
    begin(method, lessons.training[1:])
    images, texts = taught(method)
    views = lessons.sources.views({lessons.infos[1]: None})
    assert torch.equal(images, F.normalize(embed_images(views, before.encode_image, before), dim=-1))
    prompts = before.tokenize([lessons.infos[1].templates[0].format(name) for name in lessons.infos[1].class_names])
    torch.testing.assert_close(texts, F.normalize(before.encode_text(prompts).detach(), dim=-1))
    assert not torch.equal(images, F.normalize(lessons.features.images(views), dim=-1))


def test_lwf_vr_draws_sentences_for_each_task(lessons: Lessons):
    drawn = []
    for _ in range(2):
        method = new_method(LwFVR, lessons, random_texts=5)
        for sets in lessons.stages(method):
            begin(method, sets)
            drawn.append(method._tokens)
    assert drawn[0].shape[0] == 5
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2]), "keyed by seed and task"


def test_zscl_asks_the_pretrained_clip_in_every_task(lessons: Lessons, monkeypatch: pytest.MonkeyPatch):
    method = new_method(ZSCL, lessons)
    first = None
    for sets in lessons.stages(method):
        begin(method, sets)
        images, texts = taught(method)
        assert torch.equal(images, F.normalize(lessons.features.images(lessons.sources.reference), dim=-1))
        tokens = lessons.backbone.tokenize(list(lessons.sources.reference_texts))
        assert torch.equal(texts, F.normalize(lessons.features.texts(tokens), dim=-1))
        # From here on all constants come from the cache.
        monkeypatch.setattr(type(lessons.backbone), "encode_image", lambda *args: pytest.fail("encoded again"))
        monkeypatch.setattr(type(lessons.backbone), "encode_text", lambda *args: pytest.fail("encoded again"))
        assert first is None or torch.equal(images, first)
        first = images
        method.end_task()


def test_zscl_without_texts_compares_with_the_same_random_sentences(lessons: Lessons):
    drawn = []
    for seed in (1, 2):
        method = new_method(ZSCL, lessons, seed, random_texts=6)
        method.provide(replace(lessons.sources, reference_texts=None))
        for sets in lessons.stages(method):
            begin(method, sets)
            drawn.append(method._tokens)
    assert drawn[0].shape[0] == 6
    assert all(torch.equal(tokens, drawn[0]) for tokens in drawn)


def test_a_reference_text_that_is_too_long_is_cut(lessons: Lessons):
    method = new_method(ZSCL, lessons)
    method.provide(replace(lessons.sources, reference_texts=("a " * 300, "a dog")))
    begin(method, lessons.training[:1])
    assert method._tokens.shape == lessons.backbone.tokenize(["a", "a dog"]).shape


def test_only_text_distillation_reaches_the_text_tower(lessons: Lessons):
    for settings, reaches in (({}, False), ({"distill_text": True}, True)):
        method = new_method(ZSCL, lessons, **settings)
        learn(method, lessons.training[:1], recipe(iterations=4))  # at the teacher itself every gradient is 0
        begin(method, lessons.training[:1])
        terms = method.terms(batch_of(method, lessons))
        (terms["kd_image"] + terms["kd_text"]).backward()
        assert method.student.model.visual.proj.grad.abs().sum() > 0
        gradient = method.student.model.text_projection.grad
        assert (gradient is not None and bool(gradient.abs().sum() > 0)) == reaches


def test_weights_of_the_two_directions(lessons: Lessons):
    plain, weighted = (
        new_method(LwF, lessons, **settings) for settings in ({}, {"kd_image_weight": 5.0, "kd_text_weight": 0.0})
    )
    begin(plain, lessons.training[:1])
    begin(weighted, lessons.training[:1])
    batch = batch_of(plain, lessons)
    one, other = plain(batch), weighted(batch)
    torch.testing.assert_close(other.parts["kd_image"], 5 * one.parts["kd_image"])
    assert other.parts["kd_text"] == 0
    torch.testing.assert_close(other.total.detach(), torch.stack(list(other.parts.values())).sum())


def test_no_model_but_the_student_is_held(lessons: Lessons):
    method = new_method(LwF, lessons)
    begin(method, lessons.training[:1])
    held = {id(p) for p in method.parameters()}
    assert held == {id(p) for p in method.student.parameters()}
    method.end_task()
    assert method.reference is None
