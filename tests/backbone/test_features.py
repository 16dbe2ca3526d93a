from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from everclip.backbone import Backbone
from everclip.backbone.features import BATCH, FrozenFeatures, embed_images
from everclip.data import LabeledEmbeddings, read_folder, viewed
from everclip.errors import InputError

from .. import tiny


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERCLIP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def backbone(tiny_clip: Path) -> Backbone:
    return Backbone.load(str(tiny_clip))


def images_of(folder: Path, backbone: Backbone, seed: int = 0):
    return viewed(read_folder(tiny.image_folder(folder, ["red", "blue"], seed=seed)).train, backbone.view)


def forbid(monkeypatch: pytest.MonkeyPatch, backbone: Backbone) -> None:
    monkeypatch.setattr(backbone, "encode_image", lambda pixels: pytest.fail("encoded again"))


def test_images_are_encoded_once(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images = images_of(tmp_path / "a", backbone)
    features = FrozenFeatures(backbone).images(images)
    expected = backbone.encode_image(backbone.pixels(torch.from_numpy(images[:].copy())))
    assert features.dtype == torch.float32
    assert features.shape == (len(images), backbone.embed_dim)
    torch.testing.assert_close(features, expected)
    forbid(monkeypatch, backbone)
    assert torch.equal(FrozenFeatures(backbone).images(images), features)


def test_equal_content_elsewhere_is_read_from_the_cache(backbone, tmp_path, monkeypatch):
    features = FrozenFeatures(backbone).images(images_of(tmp_path / "a", backbone))
    forbid(monkeypatch, backbone)
    assert torch.equal(FrozenFeatures(backbone).images(images_of(tmp_path / "b", backbone)), features)


def test_other_weights_or_content_or_precision_are_encoded(backbone, tiny_clip, tmp_path):
    images, others = images_of(tmp_path / "a", backbone), images_of(tmp_path / "b", backbone, seed=9)
    changed = backbone.clone()
    with torch.no_grad():
        changed.model.visual.proj.mul_(2)
    half = Backbone.load(str(tiny_clip), precision="bf16")
    found = [FrozenFeatures(b).images(data) for b, data in ((backbone, images), (changed, images), (half, images))]
    found.append(FrozenFeatures(backbone).images(others))
    for number, one in enumerate(found):
        assert not any(torch.equal(one, other) for other in found[:number])
    torch.testing.assert_close(found[1], 2 * found[0])


def test_features_may_be_changed_by_their_reader(backbone, tmp_path):
    images = images_of(tmp_path / "a", backbone)
    features = FrozenFeatures(backbone).images(images)
    kept = features.clone()
    features.zero_()
    assert torch.equal(FrozenFeatures(backbone).images(images), kept)


def test_texts_are_encoded_once(backbone: Backbone, monkeypatch: pytest.MonkeyPatch):
    tokens = backbone.tokenize(["a dog", "two trees, one of them far away", "a cat"])
    features = FrozenFeatures(backbone).texts(tokens)
    torch.testing.assert_close(features, backbone.encode_text(tokens), rtol=1e-5, atol=1e-5)
    assert not torch.equal(FrozenFeatures(backbone).texts(tokens.flip(0)), features)
    monkeypatch.setattr(backbone, "encode_text", lambda tokens: pytest.fail("encoded again"))
    assert torch.equal(FrozenFeatures(backbone).texts(tokens), features)


def test_precomputed_embeddings_pass_through(backbone):
    data = LabeledEmbeddings(np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32), np.zeros(4, np.int64))
    np.testing.assert_array_equal(FrozenFeatures(backbone).images(data).numpy(), data.embeddings)


def test_precomputed_embeddings_of_another_width(backbone):
    data = LabeledEmbeddings(np.zeros((4, 48), np.float32), np.zeros(4, np.int64))
    with pytest.raises(InputError, match=r"48 numbers each, .* works with 32.*--backbone"):
        FrozenFeatures(backbone).images(data)


def test_classes_are_encoded_once(backbone, monkeypatch):
    features = FrozenFeatures(backbone)
    calls = []
    encode = backbone.encode_text
    monkeypatch.setattr(backbone, "encode_text", lambda tokens: calls.append(len(tokens)) or encode(tokens))
    first = features.classes(["cat", "dog"], ["a {}", "{}"])
    assert features.classes(("cat", "dog"), ("a {}", "{}")) is first
    assert calls == [4]
    assert not torch.equal(features.classes(["dog", "cat"], ["a {}", "{}"]), first)
    assert not torch.equal(features.classes(["cat", "dog"], ["{}"]), first)


def test_class_lists_without_end_do_not_fill_the_memory(backbone, monkeypatch):
    monkeypatch.setattr("everclip.backbone.features.CLASS_LISTS", 3)
    features = FrozenFeatures(backbone)
    first = features.classes(["cat"], ["{}"])
    for number in range(5):
        features.classes([f"cat {number}"], ["{}"])
    assert features._classes.cache_info().currsize == 3
    again = features.classes(["cat"], ["{}"])
    assert again is not first
    assert torch.equal(again, first)


def test_embed_images_takes_rows_in_batches(backbone, tmp_path):
    images = images_of(tmp_path / "a", backbone)
    sizes = []

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        return pixels.mean(dim=(2, 3))

    rows = np.arange(BATCH + 3) % len(images)
    picked = embed_images(images, encode, backbone, rows)
    assert sizes == [BATCH, 3]
    whole = embed_images(images, encode, backbone)
    assert torch.equal(picked, whole[rows])
    assert embed_images(images, encode, backbone, np.array([], dtype=np.int64)).shape == (0, backbone.embed_dim)
