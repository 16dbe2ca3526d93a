from __future__ import annotations

import json
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_model

from everclip.backbone.clip import Backbone, _resolve
from everclip.errors import EverclipError, InputError

from .. import tiny


@pytest.fixture(scope="module")
def vit(tiny_clip: Path) -> Backbone:
    return Backbone.load(str(tiny_clip))


@pytest.fixture(scope="module")
def arch(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny CLIP as an architecture that open_clip knows by name."""
    path = tmp_path_factory.mktemp("configs") / "everclip-test-tiny.json"
    path.write_text(json.dumps(tiny.VIT))
    open_clip.add_model_config(path)
    return path.stem


@pytest.fixture
def model_folder(tiny_clip: Path, tmp_path: Path):
    """A function that copies the tiny CLIP, with its weights or its preprocessing replaced."""

    def copy(weights: bytes | None = None, **preprocess) -> Path:
        folder = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(tiny_clip, folder)
        config = {"model_cfg": tiny.VIT, "preprocess_cfg": preprocess}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        if weights is not None:
            (folder / "open_clip_model.safetensors").write_bytes(weights)
        return folder

    return copy


# -- loading by name ---------------------------------------------------------------------------------------------------


def test_embedded_loads_without_network(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args, **kwargs):
        pytest.fail("opened a connection")

    monkeypatch.setattr(socket, "socket", refuse)
    backbone = Backbone.load("embedded")
    assert (len(backbone.image_blocks), len(backbone.text_blocks)) == (6, 4)
    assert backbone.has_class_token
    assert not backbone.training
    assert not any(p.requires_grad for p in backbone.parameters())
    tokens = backbone.tokenize(["a photo of a cat."])
    assert backbone.encode_text(tokens).shape == (1, backbone.embed_dim)
    assert backbone.encode_image(torch.zeros(3, 3, 64, 64)).shape == (3, backbone.embed_dim)


def test_folder_may_be_spelled_as_open_clip_does(tiny_clip: Path, vit: Backbone):
    assert Backbone.load(f"local-dir:{tiny_clip}").digest == vit.digest


def test_unknown_architecture_suggests():
    with pytest.raises(InputError, match=r"'ViT-B16/openai' is neither .* did you mean .*ViT-B-16"):
        Backbone.load("ViT-B16/openai")
    with pytest.raises(InputError, match="list of models"):
        Backbone.load("qqqqqqq")


def test_unknown_weights_list_the_tags():
    with pytest.raises(InputError, match=r"no pretrained weights 'opnai'.*openai, .*laion2b_s34b_b88k.*random"):
        Backbone.load("ViT-B-16/opnai")
    with pytest.raises(InputError, match=r"'ViT-B-16' needs the name of its weights.*openai"):
        Backbone.load("ViT-B-16")


def test_folder_without_config(tmp_path: Path):
    with pytest.raises(InputError, match=rf"{tmp_path} has no open_clip_config\.json"):
        Backbone.load(str(tmp_path))


def test_random_weights_are_reproducible(arch: str):
    before = torch.get_rng_state()
    first = Backbone.load(f"{arch}/random")
    assert torch.equal(torch.get_rng_state(), before), "loading moved the global generator"
    torch.randn(3)
    assert Backbone.load(f"{arch}/random").digest == first.digest


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_checkpoint_round_trip(arch: str, tmp_path: Path, suffix: str):
    backbone = Backbone.load(f"{arch}/random").clone()
    with torch.no_grad():
        backbone.model.visual.proj.add_(1)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(backbone.model.state_dict(), path)
    else:
        save_model(backbone.model, str(path))
    loaded = Backbone.load(f"{arch}/{path}")
    assert loaded.digest == backbone.digest
    assert loaded.digest != Backbone.load(f"{arch}/random").digest


def test_openai_weights_get_their_activation():
    assert _resolve("ViT-B-16/openai") == ("ViT-B-16", {"pretrained": "openai", "force_quick_gelu": True})
    assert _resolve("ViT-B-16/laion2b_s34b_b88k")[1]["force_quick_gelu"] is False
    assert _resolve("hf-hub:org/name") == ("hf-hub:org/name", {"require_pretrained": True})


def assert_one_sentence(message: str, *parts: str) -> None:
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("damage", [b"", b"garbage" * 100, "cut short"])
def test_damaged_weights(model_folder, tiny_clip: Path, damage: bytes | str):
    if isinstance(damage, str):
        damage = (tiny_clip / "open_clip_model.safetensors").read_bytes()[:-1000]
    folder = model_folder(damage)
    with pytest.raises(EverclipError) as error:
        Backbone.load(str(folder))
    assert_one_sentence(str(error.value), str(folder), "could not be loaded")


@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_damaged_checkpoint(arch: str, tmp_path: Path, content: bytes):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(EverclipError) as error:
        Backbone.load(f"{arch}/{path}")
    assert_one_sentence(str(error.value), str(path), "could not be loaded")


def test_weights_of_another_model(model_folder, tiny_siglip: Path):
    folder = model_folder((tiny_siglip / "open_clip_model.safetensors").read_bytes())
    with pytest.raises(EverclipError) as error:
        Backbone.load(str(folder))
    assert_one_sentence(str(error.value), str(folder))


def test_missing_weights(model_folder):
    folder = model_folder()
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(EverclipError) as error:
        Backbone.load(str(folder))
    assert_one_sentence(str(error.value), str(folder))


@pytest.mark.parametrize("change", [{"unknown_field": 1}, None])
def test_damaged_config(model_folder, change: dict | None):
    folder = model_folder()
    vision = {**tiny.VIT["vision_cfg"], **(change or {})}
    text = json.dumps({"model_cfg": tiny.VIT | {"vision_cfg": vision}}) if change else "{"
    (folder / "open_clip_config.json").write_text(text)
    with pytest.raises(EverclipError) as error:
        Backbone.load(str(folder))
    assert_one_sentence(str(error.value), str(folder))


# -- text that `transformers` reads ------------------------------------------------------------------------------------


@pytest.fixture
def foreign_text(tmp_path: Path) -> Path:
    """A SigLIP whose folder says that its text is read by a tokenizer of `transformers`, which is not in it."""
    folder = tiny.clip_folder(tmp_path / "model", tiny.SIGLIP)
    text = tiny.SIGLIP["text_cfg"] | {"hf_tokenizer_name": "org/name", "tokenizer_kwargs": {"clean": "canonicalize"}}
    content = {"model_cfg": tiny.SIGLIP | {"text_cfg": text}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("name", ["", "ViT-B-16-SigLIP/webli", "ViT-B-16-SigLIP2/random", "roberta-ViT-B-32/random"])
def test_text_needs_a_package_that_is_absent(name: str, foreign_text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(open_clip, "create_model", lambda *args, **kwargs: pytest.fail("weights before the package"))
    name = name or str(foreign_text)
    with pytest.raises(InputError) as error:
        Backbone.load(name)
    assert_one_sentence(str(error.value), name, "transformers", "not installed", "pip install 'everclip[siglip]'")
    assert "connection" not in str(error.value)


def test_a_package_that_does_not_fit_is_named(foreign_text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise ImportError("huggingface-hub>=0.26 is required,\nbut found 0.25")

    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr("everclip.backbone.clip.find_spec", lambda name: object())
    monkeypatch.setattr(open_clip, "get_tokenizer", refuse)
    monkeypatch.setattr(open_clip, "create_model", lambda *args, **kwargs: None)
    with pytest.raises(InputError) as error:
        Backbone.load(str(foreign_text))
    assert_one_sentence(str(error.value), str(foreign_text), "huggingface-hub>=0.26 is required, but found 0.25")
    assert "connection" not in str(error.value)


def test_text_is_read_by_a_tokenizer_of_transformers(foreign_text: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `siglip`")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", "a", "photo", "of", "cat"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(foreign_text)
    backbone = Backbone.load(str(foreign_text))
    tokens = backbone.tokenize(["a photo of a Cat.", "dog"])
    assert tokens[0, :5].tolist() == [3, 4, 5, 3, 6]
    assert tokens[1, 0] == words["<unk>"]
    assert backbone.encode_text(tokens).shape == (2, backbone.embed_dim)
    with pytest.raises(InputError, match="longer than the 16 tokens"):
        backbone.tokenize(["a photo " * 20])


# -- the evaluation view -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("preprocess", [{}, {"interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3}])
def test_view_is_open_clips_own(model_folder, resize_mode: str, preprocess: dict):
    assert_same_view(Backbone.load(str(model_folder(resize_mode=resize_mode, **preprocess))))


def test_view_pads_with_the_models_color(model_folder):
    assert_same_view(Backbone.load(str(model_folder(resize_mode="longest", fill_color=127))))


def assert_same_view(backbone: Backbone) -> None:
    config = open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(backbone.model))
    theirs = open_clip.transform.image_transform_v2(config, is_train=False)
    for number, (height, width) in enumerate([(50, 71), (90, 33), (32, 32), (11, 20)]):
        content = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(content)
        view = backbone.view(image)
        assert view.size == (backbone.view.size, backbone.view.size)
        ours = backbone.pixels(torch.from_numpy(np.array(view)).permute(2, 0, 1)[None])
        torch.testing.assert_close(ours[0], theirs(image), rtol=0, atol=1e-6)


def test_view_key_tells_views_apart(model_folder):
    modes = [{}, {"resize_mode": "squash"}, {"interpolation": "bilinear"}]
    assert len({Backbone.load(str(model_folder(**mode))).view.key for mode in modes}) == 3


def test_non_square_input_is_refused(tmp_path: Path):
    config = tiny.VIT | {"vision_cfg": tiny.VIT["vision_cfg"] | {"image_size": [32, 48]}}
    folder = tiny.clip_folder(tmp_path / "model", config)
    with pytest.raises(InputError, match=r"32×48|48×32"):
        Backbone.load(str(folder))
