from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from everclip.backbone import Backbone
from everclip.backbone.prompts import encode_classes
from everclip.errors import InputError

from .. import tiny

CUT = {
    "CLIP": tiny.VIT,
    "custom text": tiny.VIT | {"custom_text": True},
    "linear projection": tiny.VIT | {"text_cfg": tiny.VIT["text_cfg"] | {"proj_bias": True}},
    "no projection": tiny.VIT | {"text_cfg": tiny.VIT["text_cfg"] | {"proj_type": "none"}},
    "EOS pooling": tiny.VIT | {"text_cfg": tiny.VIT["text_cfg"] | {"pool_type": "eos", "eos_id": 49407}},
}
NOT_CUT = {
    "SigLIP": tiny.SIGLIP,
    "no causal mask": tiny.VIT | {"text_cfg": tiny.VIT["text_cfg"] | {"no_causal_mask": True}},
    "class token at the end": tiny.VIT | {"custom_text": True, "text_cfg": tiny.VIT["text_cfg"] | {"embed_cls": True}},
}
PROMPTS = ["a", "a photo of a red car.", "a drawing of two small cats on a blue sofa beside a lamp", "dog"]


@pytest.fixture(scope="module")
def vit(tiny_clip: Path) -> Backbone:
    return Backbone.load(str(tiny_clip))


@pytest.fixture(scope="module")
def siglip(tiny_siglip: Path) -> Backbone:
    return Backbone.load(str(tiny_siglip))


def pixels(backbone: Backbone, count: int = 3) -> torch.Tensor:
    size = backbone.view.size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


# -- golden numbers ----------------------------------------------------------------------------------------------------


def hidden_states(blocks: list, encode, inputs: torch.Tensor) -> list[torch.Tensor]:
    """The residual stream (B, T, D) before the first block and after each one."""
    states: list[torch.Tensor] = []
    handles = [blocks[0].register_forward_pre_hook(lambda block, args: states.append(args[0]))]
    handles += [block.register_forward_hook(lambda block, args, output: states.append(output)) for block in blocks]
    encode(inputs)
    for handle in handles:
        handle.remove()
    return states


def assert_golden(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """To 1e-5 relative to magnitude."""
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * max(1.0, float(expected.abs().max())))


@torch.no_grad()
def test_golden_image_tower(golden, golden_clip):
    expected = golden("clip_forward")
    states = hidden_states(golden_clip.image_blocks, golden_clip.encode_image, expected["images"])
    assert len(states) == golden.settings["clip"]["image_layers"] + 1
    for number, state in enumerate(states):
        assert_golden(state, expected[f"image_hidden.{number}"])
    features = golden_clip.encode_image(expected["images"])
    assert_golden(features, expected["image_features"])
    assert_golden(F.normalize(features, dim=-1), expected["image_features_normalized"])
    assert golden_clip.embed_dim == features.shape[1]


@torch.no_grad()
def test_golden_text_tower(golden, golden_clip):
    expected = golden("clip_forward")
    tokens = expected["token_ids"]
    whole = hidden_states(golden_clip.text_blocks, golden_clip.model.encode_text, tokens)
    cut = hidden_states(golden_clip.text_blocks, golden_clip.encode_text, tokens)
    length = int((tokens == golden.settings["clip"]["eot_token"]).nonzero()[:, 1].max()) + 1
    assert len(whole) == len(cut) == golden.settings["clip"]["text_layers"] + 1
    for number, (of_whole, of_cut) in enumerate(zip(whole, cut, strict=True)):
        assert_golden(of_whole, expected[f"text_hidden.{number}"])
        assert_golden(of_cut, expected[f"text_hidden.{number}"][:, :length])
    features = golden_clip.encode_text(tokens)
    assert_golden(features, expected["text_features"])
    assert_golden(F.normalize(features, dim=-1), expected["text_features_normalized"])


@torch.no_grad()
def test_golden_logits(golden, golden_clip):
    expected = golden("clip_forward")
    assert_golden(golden_clip.logit_scale, expected["logit_scale_exp"].reshape(()))
    images = F.normalize(golden_clip.encode_image(expected["images"]), dim=-1)
    texts = F.normalize(golden_clip.encode_text(expected["token_ids"]), dim=-1)
    assert_golden(golden_clip.logit_scale * images @ texts.T, expected["logits_per_image"])
    assert_golden(golden_clip.logit_scale * texts @ images.T, expected["logits_per_text"])
    classifier = encode_classes(golden_clip.encode_text, expected["ensemble_token_ids"])
    assert_golden(classifier, expected["ensemble_class_weights"])
    assert_golden(100 * images @ classifier.T, expected["ensemble_logits"])


# -- text --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CUT)
@torch.no_grad()
def test_cut_text_is_exact(tmp_path: Path, name: str):
    backbone = Backbone.load(str(tiny.clip_folder(tmp_path / "model", CUT[name])))
    assert backbone.text_can_be_cut
    tokens = backbone.tokenize([*PROMPTS, "word " * (backbone.tokenizer(["a"]).shape[1] - 2)])
    assert int((tokens[-1] != 0).sum()) == tokens.shape[1], "the last prompt fills the context"
    lengths: list[int] = []
    handle = backbone.text_blocks[0].register_forward_pre_hook(lambda block, args: lengths.append(args[0].shape[1]))
    for rows in ([0], [0, 1], [3, 2], range(len(tokens))):
        batch = tokens[list(rows)]
        torch.testing.assert_close(backbone.encode_text(batch), backbone.model.encode_text(batch), rtol=0, atol=1e-5)
    handle.remove()
    longest = (tokens != 0).sum(dim=1)
    assert lengths[::2] == [longest[0], longest[:2].max(), longest[2:4].max(), tokens.shape[1]]


@pytest.mark.parametrize("name", NOT_CUT)
@torch.no_grad()
def test_other_text_is_never_cut(tmp_path: Path, name: str):
    backbone = Backbone.load(str(tiny.clip_folder(tmp_path / "model", NOT_CUT[name])))
    assert not backbone.text_can_be_cut
    tokens = backbone.tokenize(["a", "a dog"])
    assert torch.equal(backbone.encode_text(tokens), backbone.model.encode_text(tokens))


@pytest.mark.parametrize("kind", ["vit", "siglip"])
@pytest.mark.parametrize("start", ["", "!~ "])  # the tokenizer writes this "!" as 0, like padding
def test_long_prompt_is_refused(request: pytest.FixtureRequest, kind: str, start: str):
    backbone: Backbone = request.getfixturevalue(kind)
    long = start + "word " * 30
    with pytest.raises(InputError) as error:
        backbone.tokenize(["a cat", long])
    assert long[:40] in str(error.value)
    assert "shorten" in str(error.value)


def test_prompt_that_just_fits(vit: Backbone):
    tokens = vit.tokenize(["word " * 22])
    assert tokens.shape == (1, 24)
    assert int(tokens[0, -1]) == 49407


# -- structure ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vit", "siglip"])
def test_blocks_of_both_towers_carry_the_features(request: pytest.FixtureRequest, kind: str):
    backbone: Backbone = request.getfixturevalue(kind)
    for blocks, encode, inputs in (
        (backbone.image_blocks, backbone.encode_image, pixels(backbone)),
        (backbone.text_blocks, backbone.encode_text, backbone.tokenize(["a cat", "two dogs", "x"])),
    ):
        before = encode(inputs)
        states = hidden_states(blocks, encode, inputs)
        assert len(states) == len(blocks) + 1 > 1
        assert all(state.ndim == 3 and len(state) == 3 for state in states), "(B, T, D)"
        handle = blocks[-1].register_forward_hook(lambda block, args, output: output + torch.randn_like(output))
        assert not torch.allclose(encode(inputs), before)
        handle.remove()
        assert torch.equal(encode(inputs), before)


def test_embed_dim_and_scale(vit: Backbone, siglip: Backbone):
    for backbone in (vit, siglip):
        assert backbone.encode_image(pixels(backbone)).shape[1] == backbone.embed_dim
        assert backbone.encode_text(backbone.tokenize(["a"])).shape[1] == backbone.embed_dim
        assert backbone.logit_scale.shape == ()
        assert float(backbone.logit_scale) == pytest.approx(float(backbone.model.logit_scale.exp()))
    assert vit.has_class_token


def test_towers_without_blocks_say_so(tmp_path: Path):
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16}
    resnet = Backbone.load(str(tiny.clip_folder(tmp_path / "resnet", tiny.VIT | {"vision_cfg": vision})))
    with pytest.raises(InputError, match="not a vision transformer"):
        _ = resnet.image_blocks
    assert not resnet.has_class_token
    assert resnet.encode_image(pixels(resnet)).shape == (3, resnet.embed_dim)


@torch.no_grad()
def test_bf16_is_close_to_float32(tiny_clip: Path, vit: Backbone):
    half = Backbone.load(str(tiny_clip), precision="bf16")
    assert half.model.visual.proj.dtype == torch.float32
    for encode, other, inputs in (
        (half.encode_image, vit.encode_image, pixels(vit)),
        (half.encode_text, vit.encode_text, vit.tokenize(PROMPTS)),
    ):
        rounded, exact = encode(inputs), other(inputs)
        assert rounded.dtype == torch.float32
        assert not torch.equal(rounded, exact)
        assert float(F.cosine_similarity(rounded, exact).min()) > 0.999


# -- identity ----------------------------------------------------------------------------------------------------------


def test_digest_follows_the_weights(tiny_clip: Path, vit: Backbone):
    other = Backbone.load(str(tiny_clip))
    assert other.digest == vit.digest
    changed = vit.clone()
    with torch.no_grad():
        changed.model.text_projection[0, 0] += 1e-3
    assert changed.digest != vit.digest


def test_clone_is_independent(tiny_clip: Path):
    backbone = Backbone.load(str(tiny_clip))
    images = pixels(backbone)
    before = backbone.encode_image(images)
    twin = backbone.clone()
    assert torch.equal(twin.encode_image(images), before)
    assert (twin.view, twin.name, twin.precision) == (backbone.view, backbone.name, backbone.precision)
    twin.requires_grad_(True)
    twin.encode_image(images).sum().backward()
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    assert not torch.equal(twin.encode_image(images), before)
    assert torch.equal(backbone.encode_image(images), before)
    assert not any(p.requires_grad for p in backbone.parameters())
    assert backbone.digest == Backbone.load(str(tiny_clip)).digest
