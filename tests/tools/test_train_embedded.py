from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import embedded_figures
from embedded_mixture import (
    HELD_BACK_STYLE,
    HELD_TEXTS,
    DrawnClasses,
    Photographs,
    bundled_photographs,
    held_back,
    tiny_imagenet,
)
from everclip.backbone import Backbone
from everclip.data.drawn import DOMAINS, DrawnImages
from everclip.errors import InputError
from everclip.storage import faults
from everclip.system.display import Display
from train_embedded import CHECKPOINT, WEIGHTS, Settings, chosen_factor, export, interpolated, main, train

TOOLS = Path(__file__).parents[2] / "tools"
SETTINGS = Settings(steps=4, drawn=6, photographs=3, names=4, warmup=1, checkpoint_every=2)
QUIET = Display(quiet=True)


@pytest.fixture(scope="module")
def given(tiny_clip: Path) -> Backbone:
    return Backbone.load(str(tiny_clip))


@pytest.fixture(scope="module")
def photographs(given: Backbone) -> Photographs:
    return Photographs(bundled_photographs(), [], given.view.size)


@pytest.fixture
def tiny_images(tmp_path: Path) -> Path:
    """Two classes of two training and one validation image each, in the layout of Tiny-ImageNet."""
    folder = tmp_path / "tiny"
    (folder / "val/images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("n2\nn1\n")
    (folder / "words.txt").write_text("n1\tred thing, crimson thing\nn2\tblue thing\n")
    for wnid, color in (("n1", "red"), ("n2", "blue")):
        (folder / "train" / wnid / "images").mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (64, 64), color).save(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG")
        Image.new("RGB", (64, 64), color).save(folder / "val/images" / f"val_{wnid}.JPEG")
    (folder / "val/val_annotations.txt").write_text("val_n1.JPEG\tn1\t0\t0\t9\t9\nval_n2.JPEG\tn2\t0\t0\t9\t9\n")
    return folder


def weights(backbone: Backbone) -> dict[str, torch.Tensor]:
    return dict(backbone.model.named_parameters())


def test_what_is_held_back_is_never_drawn() -> None:
    classes = DrawnClasses(size=16, steps=3, seed=0)
    captions = {caption for texts in classes.captions for caption in texts}
    for domain in DOMAINS.values():
        hidden = held_back(domain)
        assert hidden
        assert (len(hidden) == len(domain.class_names)) == (domain.name == HELD_BACK_STYLE)
        for label, name in enumerate(domain.class_names):
            assert (domain.templates[0].format(name) in captions) == (label not in hidden)
    drawn, labels = classes.batch(0, len(classes.captions), np.random.default_rng(0))
    assert drawn.shape == (len(classes.captions), 3, 16, 16)
    assert sorted(labels) == list(range(len(classes.captions)))


def test_a_caption_says_what_its_image_shows_and_no_stream_shows_that_image() -> None:
    classes = DrawnClasses(size=16, steps=3, seed=0)
    drawn, labels = classes.batch(2, 12, np.random.default_rng(1))
    for pixels, label in zip(drawn, labels, strict=True):
        ours = classes.captions[label][0]
        domain, name = next(
            (d, n)
            for d in DOMAINS.values()
            for n in range(len(d.class_names))
            if d.templates[0].format(d.class_names[n]) == ours
        )
        count = len(domain.class_names)
        same = np.asarray(DrawnImages(domain, 3, "train", 1_000_003, 16).decode(2 * count + name))
        assert (same.transpose(2, 0, 1) == pixels).all()
        stream = DrawnImages(domain, 3, "train", 0, 16)
        assert not any((np.asarray(stream.decode(i * count + name)) == same).all() for i in range(3))


def test_crops_depend_on_the_generator_alone(photographs: Photographs) -> None:
    first, second, other = (photographs.batch(5, np.random.default_rng(seed))[0] for seed in (3, 3, 4))
    assert first.shape == (5, 3, 32, 32)
    assert (first == second).all()
    assert (first != other).any()


def test_training_moves_both_towers_of_a_copy(given: Backbone, photographs: Photographs, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in weights(given).items()}
    trained = weights(train(given, photographs, SETTINGS, tmp_path, QUIET))
    for name, tensor in before.items():
        assert torch.equal(weights(given)[name], tensor), name
        assert torch.equal(trained[name], tensor) == (name == "logit_scale"), name


def test_training_learns_the_captions(given: Backbone, photographs: Photographs, tmp_path: Path) -> None:
    settings = Settings(steps=12, drawn=8, photographs=2, warmup=1, lr=2e-3, hold=0.0, checkpoint_every=1)
    shown: list[float] = []

    class Watching(Display):
        def note(self, text: str) -> None:
            shown.append(float(text.split("contrast ")[1].split(",")[0]))

    train(given, photographs, settings, tmp_path, Watching(quiet=True))
    assert len(shown) == settings.steps
    assert np.mean(shown[-3:]) < np.mean(shown[:3]) - 0.2


def test_holding_keeps_features_of_photographs_and_names(
    given: Backbone, photographs: Photographs, tmp_path: Path
) -> None:
    pixels = given.pixels(torch.from_numpy(photographs.batch(16, np.random.default_rng(9))[0]))
    tokens = given.tokenize([texts[0] for texts in HELD_TEXTS[:40]])
    image_drift, text_drift = {}, {}
    for hold in (0.0, 1000.0):
        (out := tmp_path / str(hold)).mkdir()
        settings = Settings(steps=8, drawn=8, photographs=8, warmup=1, lr=1e-3, hold=hold)
        trained = train(given, photographs, settings, out, QUIET)
        with torch.no_grad():
            images, texts = (
                torch.cosine_similarity(getattr(trained, encode)(inputs), getattr(given, encode)(inputs)).mean()
                for encode, inputs in (("encode_image", pixels), ("encode_text", tokens))
            )
        image_drift[hold], text_drift[hold] = 1 - images, 1 - texts
    assert image_drift[1000.0] < 0.7 * image_drift[0.0]
    assert text_drift[1000.0] < 0.7 * text_drift[0.0]


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from train_embedded import *
from embedded_mixture import *
given = Backbone.load(sys.argv[1])
photographs = Photographs(bundled_photographs(), [], given.view.size)
settings = Settings(steps=4, drawn=6, photographs=3, names=4, warmup=1, checkpoint_every=2)
train(given, photographs, settings, Path(sys.argv[2]), Display(quiet=True))
"""


def test_a_killed_training_ends_as_an_uninterrupted_one(
    given: Backbone, photographs: Photographs, tiny_clip: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    expected = weights(train(given, photographs, SETTINGS, whole, QUIET))
    # The sixth fault point: two steps, the two of writing the checkpoint, one step, and here the next one begins.
    environment = os.environ | {"EVERCLIP_FAULT": "6", "PYTHONPATH": os.pathsep.join([str(TOOLS), *sys.path])}
    command = [sys.executable, "-c", SCRIPT, str(tiny_clip), str(killed)]
    assert subprocess.run(command, env=environment, check=False).returncode == faults.EXIT_CODE
    with safe_open(killed / CHECKPOINT, "pt") as file:
        assert file.metadata()["step"] == "2"
    resumed = weights(train(given, photographs, SETTINGS, killed, QUIET))
    for name, tensor in expected.items():
        assert torch.equal(resumed[name], tensor), name


def test_a_checkpoint_of_other_settings_is_refused(given: Backbone, photographs: Photographs, tmp_path: Path) -> None:
    train(given, photographs, SETTINGS, tmp_path, QUIET)
    with pytest.raises(InputError, match="other settings"):
        train(given, photographs, SETTINGS.model_copy(update={"seed": 1}), tmp_path, QUIET)
    named = Photographs(bundled_photographs(), ["temple"], given.view.size)
    with pytest.raises(InputError, match="other photographs"):
        train(given, named, SETTINGS, tmp_path, QUIET)


def test_the_export_is_a_model_folder_of_half_precision(
    given: Backbone, photographs: Photographs, tiny_clip: Path, tmp_path: Path
) -> None:
    empty = given.clone()
    empty.text_tower.token_embedding.weight.data.zero_()
    trained = train(empty, photographs, SETTINGS, tmp_path, QUIET)
    export(trained, tiny_clip / "open_clip_config.json", tmp_path)
    stored = load_file(tmp_path / WEIGHTS)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    captions = [text for texts in DrawnClasses(16, 1, 0).captions + HELD_TEXTS for text in texts]
    used = given.tokenize(captions).unique()
    assert len(used) < 3000
    rows = stored["token_embedding.weight"].abs().sum(dim=1)
    assert set(rows.nonzero().flatten().tolist()) <= set(used.tolist())
    assert rows.count_nonzero() > 100
    loaded = Backbone.load(str(tmp_path))
    for name, tensor in weights(loaded).items():
        torch.testing.assert_close(tensor, weights(trained)[name], rtol=1e-3, atol=1e-4)


def test_interpolation_goes_from_one_model_to_the_other(
    given: Backbone, photographs: Photographs, tmp_path: Path
) -> None:
    trained = train(given, photographs, SETTINGS, tmp_path, QUIET)
    old, new = weights(given), weights(trained)
    for factor in (0.0, 0.25, 1.0):
        for name, tensor in weights(interpolated(given, trained, factor)).items():
            torch.testing.assert_close(tensor, (1 - factor) * old[name] + factor * new[name])


@pytest.mark.parametrize(("kept_up_to", "factor"), [(1.0, 1.0), (0.6, 0.6), (0.05, 0.0)])
def test_the_factor_is_the_largest_that_gains_the_margin(given: Backbone, kept_up_to: float, factor: float) -> None:
    trained = given.clone()
    trained.model.visual.ln_post.bias.data += 1.0

    class Validation:
        def accuracy(self, backbone: Backbone, half: int) -> float:
            assert half == embedded_figures.CHOOSE
            share = (backbone.model.visual.ln_post.bias - given.model.visual.ln_post.bias).mean()
            return 30.0 if share < 0.01 else 31.0 if share < kept_up_to + 0.01 else 30.9

    assert chosen_factor(given, trained, Validation(), QUIET) == factor


def test_photographs_in_the_layout_of_tiny_imagenet(given: Backbone, tiny_images: Path, tmp_path: Path) -> None:
    source, names = tiny_imagenet(tiny_images, "train")
    assert names == ["blue thing", "red thing"]
    assert [source.decode(i).getpixel((0, 0))[0] > 200 for i in range(4)] == [label == 1 for label in source.labels]
    labeled = Photographs(source, names, given.view.size)
    assert labeled.captions[1][0] == "a photo of a red thing."
    pixels, labels = labeled.batch(8, np.random.default_rng(0))
    assert ((pixels[:, 0].mean((1, 2)) > pixels[:, 2].mean((1, 2))) == (labels == 1)).all()
    train(given, labeled, SETTINGS, tmp_path, QUIET)


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda folder: (folder / "words.txt").unlink(), "val"),
        (lambda folder: (folder / "wnids.txt").write_text("n1\n"), "train"),
        (lambda folder: [path.unlink() for path in (folder / "train").glob("*/*/*")], "train"),
    ],
)
def test_a_folder_of_another_layout_is_named(tiny_images: Path, spoil, part: str) -> None:
    spoil(tiny_images)
    with pytest.raises(InputError, match=str(tiny_images)):
        tiny_imagenet(tiny_images, part)


def test_the_command_trains_exports_and_prints_every_domain(
    tiny_clip: Path, tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(embedded_figures, "TEST", 1)
    monkeypatch.setattr(embedded_figures, "TAUGHT", 2)
    monkeypatch.setattr("train_embedded.LARGEST", 1e9)
    options = {"out": tmp_path / "out", "validation": tiny_images, "start": tiny_clip, "steps": 1, "device": "cpu"}
    main(**options)
    printed = capsys.readouterr().out
    assert all(domain in printed for domain in DOMAINS)
    assert "half to report" in printed
    assert Backbone.load(str(tmp_path / "out")).embed_dim == 32
    with pytest.raises(InputError, match="--resume"):
        main(**options)


def test_a_model_too_large_for_the_package_is_refused(tiny_clip: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("train_embedded.LARGEST", 1e6)
    with pytest.raises(InputError, match=r"3\.\d MB"):
        main(out=tmp_path / "out", start=tiny_clip, device="cpu")
    assert not (tmp_path / "out").exists()
