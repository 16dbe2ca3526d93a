from __future__ import annotations

from pathlib import Path

import pytest
import torch

from everclip.backbone import Backbone
from everclip.backbone.prompts import class_tokens, encode_classes, encode_texts, ensemble, fill, random_sentences

NAMES = ["cat", "a very long name of a class indeed", "ox", "{}"]
TEMPLATES = ["a photo of a {}.", "{}", "{} art"]


@pytest.fixture(scope="module")
def backbone(tiny_clip: Path) -> Backbone:
    return Backbone.load(str(tiny_clip))


def test_fill_goes_class_by_class():
    assert fill(["cat", "ox"], ["a {}", "{}!"]) == ["a cat", "cat!", "a ox", "ox!"]
    assert fill(["{}"], ["a {}"]) == ["a {}"], "a class may be called anything"


def test_class_tokens(backbone: Backbone):
    tokens = class_tokens(backbone, NAMES, TEMPLATES)
    assert tokens.shape == (4, 3, 24)
    assert torch.equal(tokens[2, 2], backbone.tokenize(["ox art"])[0])
    assert torch.equal(tokens[1, 0], backbone.tokenize(["a photo of a very long name of a class indeed."])[0]) is False
    assert torch.equal(tokens[1, 1], backbone.tokenize([NAMES[1]])[0])


def test_ensemble_is_the_mean_direction():
    features = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10, 100])[:, None]
    for row, result in zip(features, ensemble(features), strict=True):
        mean = sum(template / template.norm() for template in row) / 3
        torch.testing.assert_close(result, mean / mean.norm())


@pytest.mark.parametrize("batch", [1, 5, 256])
def test_encode_classes_keeps_the_order(backbone: Backbone, batch: int):
    tokens = class_tokens(backbone, NAMES, TEMPLATES)
    one_by_one = torch.stack([torch.cat([backbone.encode_text(t[None]) for t in of_class]) for of_class in tokens])
    classifier = encode_classes(backbone.encode_text, tokens, batch)
    torch.testing.assert_close(classifier, ensemble(one_by_one), rtol=0, atol=1e-6)
    torch.testing.assert_close(classifier.norm(dim=1), torch.ones(len(NAMES)))


def test_encode_classes_builds_no_graph(backbone: Backbone):
    twin = backbone.clone().requires_grad_(True)
    assert not encode_classes(twin.encode_text, class_tokens(twin, NAMES, TEMPLATES)).requires_grad


def test_short_prompts_are_not_encoded_at_the_length_of_long_ones(backbone: Backbone):
    lengths = []
    handle = backbone.text_blocks[0].register_forward_pre_hook(lambda block, args: lengths.append(args[0].shape[1]))
    encode_classes(backbone.encode_text, class_tokens(backbone, NAMES, ["{}"]), batch=1)
    handle.remove()
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


@pytest.mark.parametrize("model", ["tiny_clip", "tiny_siglip"])
@pytest.mark.parametrize("words", [1, 10, 99])
def test_random_sentences(model: str, words: int, request: pytest.FixtureRequest):
    backbone = Backbone.load(str(request.getfixturevalue(model)))
    draw = torch.Generator().manual_seed(0)
    tokens = random_sentences(backbone, 50, words, draw)
    context = backbone.tokenize(["a"]).shape[1]
    assert tokens.shape == (50, context)
    empty = backbone.tokenize([""])[0]
    free = ~torch.isin(tokens, empty.unique())
    drawn = min(words, context - 2)  # between the marks of begin and end
    assert (free.sum(dim=1) == drawn).all()
    assert torch.equal(tokens[:, 0], empty[:1].expand(50))
    assert torch.equal(tokens[:, drawn + 1 :], empty[1 : context - drawn].expand(50, -1))
    assert len(tokens[free].unique()) > 25
    assert torch.equal(random_sentences(backbone, 50, words, draw.manual_seed(0)), tokens)
    assert torch.isfinite(encode_texts(backbone.encode_text, tokens)).all()


@torch.no_grad()
def test_texts_come_back_in_their_order(backbone: Backbone):
    tokens = backbone.tokenize(["a very long sentence about nothing", "cat", "an ox", "dog"])
    one_by_one = torch.cat([backbone.encode_text(row[None]) for row in tokens])
    torch.testing.assert_close(encode_texts(backbone.encode_text, tokens, batch=2), one_by_one, rtol=1e-5, atol=1e-5)
