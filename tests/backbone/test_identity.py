"""What a backbone is known by: the same on every machine and under every version, another for every other model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures
from everclip.backbone.identity import _printed
from everclip.data import cache_dir

from .. import tiny

RESNET = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None, "head_width": 16},
    "text_cfg": tiny.VIT["text_cfg"],
}
MODELS = {"vit": tiny.VIT, "siglip": tiny.SIGLIP, "resnet": RESNET}

DIGESTS = {
    "vit": "b747e5c27bf6bf0637af7e72f915dacc",
    "siglip": "91d6b6c4313bc79b7fb4376883e22465",
    "resnet": "0dcbe5ea393decfc5d688f0a7d973411",
    "embedded": "903a6554504625d1c3d3be7f36a31960",
}
"""Recorded under torch 2.14, open_clip 3.3, timm 1.0.31, and the same under torch 2.7, open_clip 3.1, timm 1.0.17."""

FORMER = {
    "vit": ("2d9c6ae096402a3b69a88033231e83a6", "6c5db065679d1d6ff6abbda8b3e4849b"),
    "siglip": ("b034d0e77566c7f844012ec0f04da762", "66ec887ade598e09936516b8eb82d0d9"),
    "resnet": ("624ec66109ddf7e000ce25d670ea5fe8", "8b56a2125d9d63254595d14fd571cb60"),
    "embedded": ("f2c35b40323c72e34c02c181117366d9", "206fed09fd9b33fcb7340ef3b6da9233"),
}
"""What EverCLIP 0.1 wrote for the same models, under torch 2.14 and under torch 2.7."""


def made(name: str, folder: Path) -> Backbone:
    """A model whose weights no random generator decides, so that they are the same on every processor."""
    if name == "embedded":
        return Backbone.load(name)
    backbone = Backbone.load(str(tiny.clip_folder(folder / name, MODELS[name])))
    with torch.no_grad():
        for number, (_, tensor) in enumerate(sorted(backbone.model.state_dict().items())):
            tensor.copy_(((torch.arange(tensor.numel()) * 37 + number) % 256 / 256).reshape(tensor.shape))
    return backbone


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Backbone]:
    folder = tmp_path_factory.mktemp("identity")
    return {name: made(name, folder) for name in DIGESTS}


@pytest.fixture
def vit(tmp_path: Path) -> Backbone:
    return made("vit", tmp_path)


def digest_of(config: dict, tmp_path: Path, preprocess: dict | None = None) -> str:
    """Of a model of another configuration whose tensors, as far as the shapes allow, are those of `vit`."""
    folder = tiny.clip_folder(tmp_path / "other", config, preprocess)
    backbone = Backbone.load(str(folder))
    with torch.no_grad():
        for number, (_, tensor) in enumerate(sorted(backbone.model.state_dict().items())):
            tensor.copy_(((torch.arange(tensor.numel()) * 37 + number) % 256 / 256).reshape(tensor.shape))
    return backbone.digest


# -- the same everywhere ---------------------------------------------------------------------------------------------


def test_digests_are_those_that_were_recorded(models: dict[str, Backbone]) -> None:
    assert {name: model.digest for name, model in models.items()} == DIGESTS


@pytest.mark.slow
def test_another_process_has_the_same(tmp_path: Path) -> None:
    program = (
        "import json, pathlib, sys; from tests.backbone.test_identity import DIGESTS, made; "
        "print(json.dumps({name: made(name, pathlib.Path(sys.argv[1])).digest for name in DIGESTS}))"
    )
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == DIGESTS


@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.modules.batchnorm._NormBase, nn.Linear, nn.Conv2d, nn.GELU])
def test_no_wording_of_torch_matters(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kind, "extra_repr", lambda self: "worded otherwise")
    monkeypatch.setattr(nn.Module, "__repr__", lambda self: "worded otherwise")
    assert made("resnet", tmp_path).digest == DIGESTS["resnet"]


def test_a_new_setting_that_says_nothing_changes_no_model(vit: Backbone) -> None:
    for module in vit.model.modules():
        if not hasattr(module, "rotate_half"):
            module.rotate_half = False
            module.scaled_cosine = None
    vit.model.visual.another_dropout = nn.Dropout(0.5)
    vit.model.visual.another_identity = nn.Identity()
    assert vit.digest == DIGESTS["vit"]


# -- another for another model ----------------------------------------------------------------------------------------


def heads(model: nn.Module) -> None:
    model.visual.transformer.resblocks[0].attn.num_heads = 4


def eps(model: nn.Module) -> None:
    model.ln_final.eps = 1e-6


def activation(model: nn.Module) -> None:
    model.visual.transformer.resblocks[1].mlp.gelu = nn.SiLU()


def approximation(model: nn.Module) -> None:
    model.visual.transformer.resblocks[1].mlp.gelu = nn.GELU("tanh")


def stride(model: nn.Module) -> None:
    model.visual.conv1.stride = (8, 8)


def image_pooling(model: nn.Module) -> None:
    model.visual.pool_type = "avg"


def text_pooling(model: nn.Module) -> None:
    model.text_pool_type = "last"


def context(model: nn.Module) -> None:
    model.context_length = 23


def mask(model: nn.Module) -> None:
    model.attn_mask = None


def value(model: nn.Module) -> None:
    with torch.no_grad():
        model.text_projection[0, 0] += 2**-20


def dtype(model: nn.Module) -> None:
    model.half()


def shape(model: nn.Module) -> None:
    model.text_projection = nn.Parameter(model.text_projection.detach().reshape(-1))


@pytest.mark.parametrize(
    "change",
    [heads, eps, activation, approximation, stride, image_pooling, text_pooling, context, mask, value, dtype, shape],
)
def test_whatever_decides_the_answers_is_in_it(change: Callable[[nn.Module], None], vit: Backbone) -> None:
    change(vit.model)
    assert vit.digest != DIGESTS["vit"]


@pytest.mark.parametrize("preprocess", [{"mean": [0.5, 0.5, 0.5]}, {"interpolation": "bilinear"}, {"fill_color": 3}])
def test_the_view_is_in_it(preprocess: dict, tmp_path: Path) -> None:
    assert digest_of(tiny.VIT, tmp_path, preprocess) != DIGESTS["vit"]


def test_the_configuration_that_says_the_same_is_the_same(tmp_path: Path) -> None:
    assert digest_of(tiny.VIT | {"quick_gelu": False}, tmp_path) == DIGESTS["vit"]


# -- what earlier versions wrote ---------------------------------------------------------------------------------------


def test_former_digests_are_those_that_were_written(models: dict[str, Backbone]) -> None:
    assert {name: model.former_digests for name, model in models.items()} == FORMER


def test_former_digests_outlive_the_wording(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for kind in (nn.LayerNorm, nn.modules.batchnorm._NormBase):
        monkeypatch.setattr(kind, "extra_repr", lambda self: "worded otherwise")
    assert made("resnet", tmp_path).former_digests == FORMER["resnet"]


@pytest.mark.parametrize("name", MODELS)
def test_the_print_is_that_of_torch(name: str, models: dict[str, Backbone]) -> None:
    assert repr(models[name].model) in [_printed(models[name].model, bias) for bias in (True, False)]


def test_the_print_is_that_of_torch_for_any_module() -> None:
    odd = nn.Module()
    odd.absent = None
    odd.register_module("nothing", None)
    odd.list = nn.ModuleList([nn.Linear(1, 2), nn.Linear(1, 2), nn.Identity(), nn.ModuleList()])
    odd.twice = odd.list[0]
    odd.norms = nn.Sequential(nn.LayerNorm(3, bias=False), nn.GroupNorm(1, 2, affine=False), nn.InstanceNorm2d(2))
    assert repr(odd) in [_printed(odd, bias) for bias in (True, False)]


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_an_array_that_an_earlier_version_stored_is_found(
    vit: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EVERCLIP_CACHE", str(tmp_path / "cache"))
    for former in FORMER["vit"]:
        tokens = vit.tokenize([f"a photo of {former[:4]}."])
        before = FrozenFeatures(vit)
        with monkeypatch.context() as earlier:
            earlier.setitem(vit.__dict__, "digest", former)
            earlier.setitem(vit.__dict__, "former_digests", ())
            stored = before.texts(tokens)
        (file,) = (cache_dir() / "embeddings").glob("*.npy")
        written = file.stat().st_mtime_ns
        with monkeypatch.context() as broken:
            broken.setattr("everclip.backbone.features.encode_texts", None)  # nothing is computed again
            assert torch.equal(FrozenFeatures(vit).texts(tokens), stored)
            assert torch.equal(FrozenFeatures(vit).texts(tokens), stored)
        (renamed,) = (cache_dir() / "embeddings").glob("*.npy")
        assert renamed != file
        assert renamed.stat().st_mtime_ns == written
        renamed.unlink()


def test_an_empty_cache_asks_for_no_former_digest(
    vit: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EVERCLIP_CACHE", str(tmp_path / "cache"))
    FrozenFeatures(vit).texts(vit.tokenize(["a photo of a cat."]))
    assert "former_digests" not in vit.__dict__
