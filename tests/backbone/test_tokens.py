"""Output tokens in the embedding space: of towers with a class token, without one, and of no transformer at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures
from everclip.data import LabeledEmbeddings, read_folder, viewed
from everclip.errors import InputError
from everclip.storage.verified import VerifiedArray

from .. import tiny

VISION = tiny.VIT["vision_cfg"]
TOWERS = {
    "class token": tiny.VIT,
    "mean of the patches": tiny.VIT | {"vision_cfg": VISION | {"pool_type": "avg"}},
    "norm after pooling": tiny.VIT | {"vision_cfg": VISION | {"final_ln_after_pool": True}},
    "attention pool": tiny.SIGLIP,
    "timm mean": tiny.SIGLIP | {"vision_cfg": tiny.SIGLIP["vision_cfg"] | {"timm_pool": "avg"}},
    "timm class token": tiny.SIGLIP | {"vision_cfg": tiny.SIGLIP["vision_cfg"] | {"timm_pool": "token"}},
}


@pytest.fixture(scope="module", params=TOWERS)
def tower(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tiny.clip_folder(tmp_path_factory.mktemp("tower") / "clip", TOWERS[request.param])
    return Backbone.load(str(folder))


def pixels(backbone: Backbone, count: int = 3) -> Tensor:
    size = backbone.view.size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_the_first_row_is_the_embedding(tower: Backbone):
    images = pixels(tower)
    tokens = tower.encode_tokens(images)
    assert tokens.shape == (3, 1 + 4, tower.embed_dim)
    assert tokens.dtype == torch.float32
    assert torch.equal(tokens[:, 0], tower.encode_image(images))
    assert len({tuple(token.tolist()) for token in tokens.flatten(0, 1)}) == 15, "every place says something else"


@torch.no_grad()
def test_samples_do_not_mix(tower: Backbone):
    images = pixels(tower)
    others = torch.cat([images[:1], torch.zeros_like(images[1:])])
    torch.testing.assert_close(tower.encode_tokens(others)[0], tower.encode_tokens(images)[0])


@torch.no_grad()
def test_the_mean_of_projected_patches_is_the_mean_projected(tmp_path: Path):
    """A tower that pools by the mean and projects linearly: its embedding is the mean of its tokens."""
    backbone = Backbone.load(str(tiny.clip_folder(tmp_path / "clip", TOWERS["mean of the patches"])))
    tokens = backbone.encode_tokens(pixels(backbone))
    torch.testing.assert_close(tokens[:, 1:].mean(dim=1), tokens[:, 0])


@torch.no_grad()
def test_patch_tokens_are_the_last_block_projected(golden_clip: Backbone, golden):
    """From the recorded residual stream: LN_post(token) · proj, for every token and not only the class token."""
    recorded = golden("clip_forward")
    visual = golden_clip.model.visual
    last = max(int(name.rpartition(".")[2]) for name in recorded if name.startswith("image_hidden."))
    expected = visual.ln_post(recorded[f"image_hidden.{last}"]) @ visual.proj
    actual = golden_clip.encode_tokens(recorded["images"])
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(actual[:, 0], recorded["image_features"], rtol=1e-5, atol=2e-5)


def test_half_precision_gives_float32(tiny_clip: Path):
    with torch.no_grad():
        tokens = Backbone.load(str(tiny_clip), precision="bf16").encode_tokens(pixels(Backbone.load(str(tiny_clip))))
    assert tokens.dtype == torch.float32


def test_no_vision_transformer(tmp_path: Path):
    resnet = tiny.VIT | {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}}
    backbone = Backbone.load(str(tiny.clip_folder(tmp_path / "resnet", resnet)))
    with pytest.raises(InputError, match=r"resnet' is no vision transformer.*another backbone"):
        backbone.encode_tokens(pixels(backbone))


# -- cached ------------------------------------------------------------------------------------------------------------


def test_tokens_are_cached_in_parts(tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EVERCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("everclip.backbone.features.BATCH", 5)
    backbone = Backbone.load(str(tiny_clip))
    images = viewed(read_folder(tiny.image_folder(tmp_path / "a", ["red", "blue"])).train, backbone.view)
    features = FrozenFeatures(backbone)
    frozen = features.frozen(images, "tokens")
    with torch.no_grad():
        expected = backbone.encode_tokens(backbone.pixels(torch.from_numpy(images[:].copy())))
    assert len(frozen) == 12
    torch.testing.assert_close(frozen[np.arange(12)], expected)
    torch.testing.assert_close(frozen.embeddings(np.array([3, 0])), features.images(images)[[3, 0]])
    assert frozen.labels.tolist() == images.labels.tolist()
    assert frozen.name(4) == images.name(4)
    assert frozen.skipped == []
    monkeypatch.setattr(backbone, "encode_tokens", lambda pixels: pytest.fail("encoded again"))
    again = FrozenFeatures(backbone).frozen(images, "tokens")
    assert isinstance(again.features, VerifiedArray)
    assert np.array_equal(again.features, frozen.features)


def test_embeddings_have_no_tokens(tiny_clip: Path):
    data = LabeledEmbeddings(np.ones((4, 32), np.float32), np.arange(4))
    features = FrozenFeatures(Backbone.load(str(tiny_clip)))
    frozen = features.frozen(data, "embeddings")
    assert torch.equal(frozen[np.array([2])], torch.ones(1, 32))
    assert frozen.skipped == []
    assert "2" in frozen.name(2)
    with pytest.raises(InputError, match="no output tokens; give images"):
        features.frozen(data, "tokens")
