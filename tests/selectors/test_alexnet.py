"""AlexNet features: right numbers, computed once, refused in one sentence."""

from __future__ import annotations

import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import AlexNet_Weights, alexnet

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures
from everclip.data import Images, LabeledEmbeddings, read_images, viewed
from everclip.errors import InputError
from everclip.selectors.alexnet import SMALLEST, AlexNet
from everclip.selectors.ddas import DDAS, DDASConfig
from everclip.streams import TaskInfo

from .. import tiny


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("alexnet") / "alexnet.pth"
    torch.save(tiny.alexnet_weights(), path)
    return path


def clip_of(folder: Path, size: int, patch: int) -> Backbone:
    """A tiny CLIP that sees images of `size` pixels."""
    vision = {**tiny.VIT["vision_cfg"], "image_size": size, "patch_size": patch}
    return Backbone.load(str(tiny.clip_folder(folder, {**tiny.VIT, "vision_cfg": vision}, {"size": size})))


@pytest.fixture
def pictures(tiny_clip: Path, tmp_path: Path) -> tuple[Images, Backbone]:
    backbone = Backbone.load(str(tiny_clip))
    return views(tmp_path / "pictures", backbone), backbone


def views(folder: Path, backbone: Backbone) -> Images:
    return viewed(read_images(tiny.image_folder(folder, ["red", "green"])).images, backbone.view)


@pytest.mark.parametrize(("size", "patch", "width"), [(31, 31, 256), (64, 32, 2304), (224, 112, 43264)])
def test_features_are_torchvisions_before_the_last_relu(
    file: Path, tmp_path: Path, size: int, patch: int, width: int
) -> None:
    backbone = clip_of(tmp_path / "clip", size, patch)
    images = views(tmp_path / "pictures", backbone)
    features = AlexNet(str(file)).images(images, backbone)
    assert features.shape == (len(images), width)
    assert features.dtype == torch.float16
    with torch.device("meta"):
        whole = alexnet()
    whole.load_state_dict(tiny.alexnet_weights(), assign=True)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (backbone.view.mean, backbone.view.std))
    pixels = (torch.from_numpy(images[:3].copy()) / 255 - mean) / std
    with torch.no_grad():
        layers = list(whole.features)
        last = max(index for index, layer in enumerate(layers) if isinstance(layer, torch.nn.Conv2d))
        expected = whole.features[: last + 1](pixels).flatten(1)
    assert (expected < 0).any(), "before the ReLU"
    torch.testing.assert_close(features[:3].float(), expected, rtol=2e-3, atol=2e-3)


def test_images_are_looked_at_once(file: Path, pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, backbone = pictures
    net = AlexNet(str(file))
    first = net.images(images, backbone)
    save_file(
        {name: t for name, t in tiny.alexnet_weights().items() if name.startswith("features.")},
        tmp_path / "a.safetensors",
    )
    same = AlexNet(str(tmp_path / "a.safetensors"))
    assert same.digest == net.digest
    for each in (net, same):
        monkeypatch.setattr(each, "_encode", lambda pixels: pytest.fail("computed again"))
        assert torch.equal(each.images(images, backbone), first)
    torch.save(tiny.alexnet_weights(seed=1), tmp_path / "other.pth")
    other = AlexNet(str(tmp_path / "other.pth"))
    assert other.digest != net.digest
    assert not torch.equal(other.images(images, backbone), first)


def test_changing_the_features_leaves_the_cache_alone(file: Path, pictures) -> None:
    net = AlexNet(str(file))
    first = net.images(*pictures)
    kept = first.clone()
    first.zero_()
    assert torch.equal(net.images(*pictures), kept)


def test_weights_are_downloaded_when_no_file_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AlexNet_Weights, "get_state_dict", lambda self, **kwargs: tiny.alexnet_weights())
    assert AlexNet("").digest == AlexNet(str(file)).digest

    def offline(self, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(AlexNet_Weights, "get_state_dict", offline)
    with pytest.raises(InputError, match=r"no route to host.*alexnet=FILE"):
        AlexNet("")


def broken(folder: Path) -> dict[str, Path]:
    """Files that are no AlexNet, by what they are."""
    files = {kind: folder / f"{kind}.pth" for kind in ("missing", "empty", "text", "cut", "list", "other", "code")}
    files["not safe"] = folder / "text.safetensors"
    files["empty"].touch()
    for kind in ("text", "not safe"):
        files[kind].write_text("these are words")
    torch.save(tiny.alexnet_weights(), files["cut"])
    content = files["cut"].read_bytes()
    files["cut"].write_bytes(content[: len(content) // 2])
    torch.save([torch.zeros(2)], files["list"])
    torch.save({**tiny.alexnet_weights(), "features.3.weight": torch.zeros(8, 3, 3, 3)}, files["other"])
    torch.save(torch.nn.Linear(2, 2), files["code"])
    return files


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut", "list", "other", "code", "not safe"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, kind: str) -> None:
    path = broken(tmp_path)[kind]
    with pytest.raises(InputError) as caught:
        AlexNet(str(path))
    assert f"alexnet={path}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_embeddings_and_small_images_are_refused(file: Path, tiny_clip: Path, tmp_path: Path) -> None:
    selector = DDAS(DDASConfig(features="alexnet", alexnet=str(file)))
    embeddings = LabeledEmbeddings(np.zeros((2, 32), dtype=np.float32), np.zeros(2, dtype=np.int64))
    with pytest.raises(InputError, match="features=alexnet looks at images"):
        selector.read(embeddings, FrozenFeatures(Backbone.load(str(tiny_clip))))
    small = clip_of(tmp_path / "clip", SMALLEST - 1, SMALLEST - 1)
    with pytest.raises(InputError, match="needs images of 31 pixels"):
        selector.read(views(tmp_path / "pictures", small), FrozenFeatures(small))


@pytest.mark.parametrize("rule", ["calibrated", "published"])
def test_ddas_works_on_them_as_they_are(file: Path, pictures, rule: str) -> None:
    images, backbone = pictures
    settings = {"features": "alexnet", "alexnet": str(file), "ddas_rule": rule, "threshold": 0.5}
    selector = DDAS(DDASConfig(**settings, ddas_iterations=20, reference_iterations=20))
    features = selector.read(images, FrozenFeatures(backbone))
    assert selector.feature_digest == AlexNet(str(file)).digest
    selector.refer(-3 * features)
    selector.fit(TaskInfo(0, "red", ("a",), ("{}",)), features, torch.zeros(len(features)), None)
    state = selector.state()
    assert state["0.encoder.weight"].shape == (100, 256)
    assert not any("center" in name for name in state), "not standardized"
    kept = {tensor.dtype for name, tensor in state.items() if name.endswith("held_out")}
    assert kept == ({torch.float16} if rule == "calibrated" else set())
    assert (selector.probabilities(features, len(features), None).argmax(dim=1) == 0).all()
    assert (selector.probabilities(-3 * features, len(features), None).argmax(dim=1) == 1).all()
