"""Learned vectors in front of a class name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from everclip.backbone import Backbone
from everclip.errors import InputError
from everclip.layers.context import WORTHWHILE, PromptContext, encode_after, encode_alike, reads_beginnings_once

NAMES = ["dog", "small red house", "gray"]


@pytest.fixture(scope="module", params=["tiny_clip", "tiny_siglip"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """With a start token, causal and cut; and with neither."""
    return Backbone.load(str(request.getfixturevalue(request.param)))


@torch.no_grad()
def test_words_in_the_context_are_words_in_the_prompt(backbone: Backbone):
    """Vectors that are the embedding of words say what the words say."""
    context = PromptContext(backbone, 4, "a photo of a")
    expected = backbone.encode_text(backbone.tokenize([f"a photo of a {name}." for name in NAMES]))
    torch.testing.assert_close(context.encode(context.tokens(NAMES)), expected)


@torch.no_grad()
def test_words_stand_next_to_the_name(backbone: Backbone):
    embedding = backbone.text_tower.token_embedding
    context = PromptContext(backbone, 6, "a photo")
    words = PromptContext(backbone, 2, "a photo").vectors
    assert torch.equal(context.vectors[4:], words)
    assert words[1] in embedding.weight
    assert context.vectors[:4].std() < 0.1


def test_only_the_vectors_learn(backbone: Backbone):
    before = backbone.encode_text(backbone.tokenize(NAMES))
    context = PromptContext(backbone, 3, "")
    assert [(name, tuple(p.shape)) for name, p in context.named_parameters()] == [
        ("vectors", (3, backbone.text_tower.token_embedding.weight.shape[1]))
    ]
    assert list(context.state_dict()) == ["vectors"]
    features = context.encode(context.tokens(NAMES))
    features.square().sum().backward()
    assert (context.vectors.grad.abs().amax(dim=1) > 0).all(), "every vector is read"
    assert all(p.grad is None for p in backbone.parameters())
    assert torch.equal(backbone.encode_text(backbone.tokenize(NAMES)), before), "the backbone itself has no hook"


@torch.no_grad()
def test_classes_do_not_mix(backbone: Backbone):
    context = PromptContext(backbone, 3, "")
    together = context.encode(context.tokens(NAMES))
    alone = torch.cat([context.encode(context.tokens([name])) for name in NAMES])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_the_beginning_is_read_once_only_where_that_is_exact(tiny_clip: Path, tiny_siglip: Path):
    assert reads_beginnings_once(Backbone.load(str(tiny_clip)))
    assert not reads_beginnings_once(Backbone.load(str(tiny_siglip)))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_reading_the_beginning_once_changes_nothing(tiny_clip: Path, precision: str):
    """Features and gradients are those of the whole prompts, names of different lengths among them."""
    backbone = Backbone.load(str(tiny_clip), precision=precision)
    context = PromptContext(backbone, 4, "a photo of a")
    tokens = context.tokens(NAMES)
    weights = torch.randn(len(NAMES), backbone.embed_dim)
    found = {}
    for how in ("once", "in full"):
        context.zero_grad()
        features = context.encode(tokens) if how == "once" else context._frozen[1].encode_text(tokens)
        (features * weights).sum().backward()
        found[how] = features.detach(), context.vectors.grad
    for once, full in zip(found["once"], found["in full"], strict=True):
        assert float((once - full).norm() / full.norm()) < (1e-5 if precision == "float32" else 0.05)


@torch.no_grad()
def test_any_beginning_serves(tiny_clip: Path):
    """The embedded words of a prompt as its beginning give the prompt's features, wherever the cut is."""
    backbone = Backbone.load(str(tiny_clip))
    tokens = backbone.tokenize([f"a photo of a {name}." for name in NAMES])
    embedded = backbone.text_tower.token_embedding(tokens[0])
    for length in (1, 3, 5):
        features = encode_after(backbone, embedded[:length], tokens)
        torch.testing.assert_close(features, backbone.encode_text(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(
    "texts",
    [
        [f"a photo of a {name}." for name in NAMES],
        NAMES,
        ["a photo of a dog."],
        ["a dog", "a dog"],
        ["a photo", "a photo of a dog"],
    ],
    ids=["a template", "nothing but the start alike", "one", "all alike", "one begins the other"],
)
def test_prompts_that_begin_alike(
    tiny_clip: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str], precision: str
) -> None:
    """Features and the gradients of all weights are those of `encode_text`."""
    monkeypatch.setattr("everclip.layers.context.WORTHWHILE", 0)
    backbone = Backbone.load(str(tiny_clip), precision=precision).requires_grad_(True)
    tokens = backbone.tokenize(texts)
    weights = torch.randn(len(texts), backbone.embed_dim)
    found = []
    for encode in (backbone.encode_text, lambda tokens: encode_alike(backbone, tokens)):
        backbone.zero_grad()
        features = encode(tokens)
        (features * weights).sum().backward()
        grads = {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}
        found.append({"features": features.detach(), **grads})
    in_full, alike = found
    assert alike.keys() == in_full.keys()
    assert len(alike) > 12
    for name, value in in_full.items():
        error = float((alike[name] - value).norm())
        # the gradient of a key's bias is zero but for rounding
        assert error <= (1e-5 if precision == "float32" else 0.05) * max(float(value.norm()), 1e-2), name


def test_little_is_read_as_ever(tiny_clip: Path, tiny_siglip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second pass is spared where it would save little, or would not be exact."""
    taken = []
    monkeypatch.setattr("everclip.layers.context.encode_after", lambda *given: taken.append(given))
    clip, siglip = (Backbone.load(str(path)) for path in (tiny_clip, tiny_siglip))
    prompts = [f"a photo of a {name}." for name in NAMES]
    many = prompts * (WORTHWHILE // 5 // len(prompts) + 1)
    for backbone, texts, spared in ((clip, prompts, True), (clip, many, False), (siglip, many, True)):
        taken.clear()
        tokens = backbone.tokenize(texts)
        features = encode_alike(backbone, tokens)
        assert spared == (not taken)
        if spared:
            assert torch.equal(features, backbone.encode_text(tokens))


def test_what_does_not_fit(tiny_clip: Path):
    backbone = Backbone.load(str(tiny_clip))
    context = PromptContext(backbone, 16, "")
    with pytest.raises(InputError, match=r"'a house with nine red doors' leaves no room for context=16 among the 24"):
        context.tokens(["dog", "a house with nine red doors"])
    with pytest.raises(InputError, match="context_words are 4 tokens, but context=3"):
        PromptContext(backbone, 3, "a photo of a")
