"""A learner as an ONNX graph: a program that has only the file answers as the learner does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures
from everclip.errors import EverclipError, InputError
from everclip.learner import Learner, Prediction
from everclip.learner import export as exporting
from everclip.learner.config import LearnerConfig
from everclip.learner.knowledge import Knowledge
from everclip.methods import METHODS

from .. import tiny

LEARNABLE = [name for name, method in METHODS.items() if method.forgets is not None]
QUICK = {"iterations": 12, "batch": 8, "warmup": 2, "lr": 5e-3, "lead": 0.0, "scale": 1.0, "bottleneck": 8}
SETTINGS = {"moe-adapters": QUICK, "rail": {"random_features": 64}, "ranpac": {"random_features": 64}}

New = Callable[..., Learner]


@pytest.fixture(scope="module")
def new(tiny_clip: Path) -> New:
    """A learner on the tiny CLIP, or another one, that has learned these folders."""

    def make(method: str, *folders: Path, clip: Path = tiny_clip, **settings: object) -> Learner:
        values = {"method": method, "backbone": str(clip), **SETTINGS.get(method, {}), **settings}
        config = LearnerConfig.of(values)
        backbone = Backbone.load(str(clip), precision=config.setup.precision)
        learner = Learner(Knowledge(config, FrozenFeatures(backbone)))
        for folder in folders:
            learner.learn(folder.name, folder)
        return learner

    return make


class Program:
    """What somebody else would write: onnxruntime, Pillow, and the metadata of the file."""

    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.about = self.session.get_modelmeta().custom_metadata_map
        self.columns = [(each["label"], each["task"]) for each in json.loads(self.about["everclip.columns"])]

    def view(self, path: Path) -> np.ndarray:
        wanted = json.loads(self.about["everclip.preprocessing"])
        assert (wanted["resize_mode"], wanted["interpolation"]) == ("shortest", "bicubic")
        size, image = wanted["size"], Image.open(path).convert("RGB")
        scale = size / min(image.size)
        image = image.resize([max(size, int(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
        left, top = (round((side - size) / 2) for side in image.size)
        return np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)

    def __call__(self, paths: list[Path]) -> list[dict[tuple[str | None, str | None], float]]:
        (p,) = self.session.run(["probabilities"], {"images": np.stack([self.view(path) for path in paths])})
        assert p.shape == (len(paths), len(self.columns))
        return [dict(zip(self.columns, row.tolist(), strict=True)) for row in p]


def assert_alike(found: list[dict], answers: list[Prediction]) -> None:
    """The probabilities of a program are those of `predict`, candidate by candidate."""
    for row, answer in zip(found, answers, strict=True):
        expected = {(label, task if label is not None else None): p for label, p, task in answer.top}
        assert row.keys() == expected.keys()
        assert max(abs(row[key] - expected[key]) for key in row) < 1e-4
        assert abs(sum(row.values()) - 1) < 1e-4


@pytest.mark.parametrize(
    "method", [name if name == "rail" else pytest.param(name, marks=pytest.mark.slow) for name in LEARNABLE]
)
def test_a_program_with_only_the_file_answers_alike(
    new: New, paint: Path, cloth: Path, photos: list[Path], tmp_path: Path, method: str
) -> None:
    learner = new(method, paint, cloth)
    report = learner.export(tmp_path / "model.onnx", compare_on=photos)
    assert report.difference <= 1e-4
    assert report.compared == len(photos) + 4
    assert report.bytes == (tmp_path / "model.onnx").stat().st_size
    program = Program(tmp_path / "model.onnx")
    answers = learner.predict(photos, top_k=100)
    assert_alike(program(photos), answers)
    assert_alike(program(photos[:1]), answers[:1])  # a batch of any size
    assert program.about["everclip.method"] == method
    assert [*report.columns, (None, None)] == program.columns
    tasks = {task for answer in answers for label, _, task in answer.top if label is not None}
    assert tasks == {"paint", "cloth"}


@pytest.mark.slow
def test_routes_take_part_in_what_is_compared(
    new: New, paint: Path, cloth: Path, photos: list[Path], tmp_path: Path
) -> None:
    """Where images take routes of their own, an exported graph must not just say what the original CLIP says."""
    learner = new("moe-adapters", paint, cloth)
    assert {answer.task for answer in learner.predict(photos, closed=True)} == {"paint", "cloth"}
    learner.export(tmp_path / "model.onnx", closed=True, compare_on=photos)
    found = Program(tmp_path / "model.onnx")(photos)
    untouched = new("zero-shot", paint, cloth).predict(photos, closed=True, top_k=100)
    assert_alike(found, learner.predict(photos, closed=True, top_k=100))
    with pytest.raises(AssertionError):
        assert_alike(found, untouched)


@pytest.mark.slow
@pytest.mark.parametrize("selector", ["ddas", "prototype"])
def test_every_selector(new: New, paint: Path, cloth: Path, photos: list[Path], tmp_path: Path, selector: str) -> None:
    learner = new("moe-adapters", paint, cloth, selector=selector)
    learner.export(tmp_path / "model.onnx", compare_on=photos)
    assert_alike(Program(tmp_path / "model.onnx")(photos), learner.predict(photos, top_k=100))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rail", "moe-adapters"])
def test_every_question(new: New, paint: Path, cloth: Path, photos: list[Path], tmp_path: Path, method: str) -> None:
    learner = new(method, paint, cloth)
    learner.learn(paint.name, paint)  # classes that come again
    learner.learn("again", paint)  # and the same names in another task
    for question in (
        {"closed": True},
        {"labels": ["a squirrel", "red"]},
        {"labels": ["a squirrel", "a house"], "only": True},
        {"labels": ["a squirrel", "red"], "only": True},
    ):
        learner.export(tmp_path / "model.onnx", **question)
        assert_alike(Program(tmp_path / "model.onnx")(photos), learner.predict(photos, top_k=100, **question))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "method"),
    [
        (tiny.SIGLIP, "rail"),
        (tiny.SIGLIP, "moe-adapters"),
        (tiny.VIT | {"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}}, "rail"),
    ],
    ids=["siglip", "siglip-moe", "resnet"],
)
def test_every_kind_of_tower(
    new: New, paint: Path, photos: list[Path], tmp_path: Path, config: dict, method: str
) -> None:
    learner = new(method, paint, clip=tiny.clip_folder(tmp_path / "clip", config))
    # Closed: random weights give all images nearly one embedding, and how far it is from itself is rounding.
    learner.export(tmp_path / "model.onnx", closed=True, compare_on=photos)
    views = np.stack([learner.view(Image.open(path).convert("RGB")) for path in photos])
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    p, z, classes = session.run(exporting.OUTPUTS, {"images": views})
    for row, answer in zip(p, learner.predict(photos, closed=True, top_k=100), strict=True):
        assert np.allclose(sorted(row, reverse=True), sorted((c[1] for c in answer.top), reverse=True), atol=1e-4)
    assert z.shape == (len(photos), config["embed_dim"])
    assert classes.shape == (p.shape[1], config["embed_dim"])


@pytest.mark.slow
def test_bf16_is_exported_in_float32(new: New, paint: Path, photos: list[Path], tmp_path: Path) -> None:
    """What was learned stays; the graph is more exact than the learner."""
    learner = new("ncm", paint, precision="bf16")
    report = learner.export(tmp_path / "model.onnx", closed=True, compare_on=photos)
    assert report.difference < 1e-5
    for row, answer in zip(Program(tmp_path / "model.onnx")(photos), learner.predict(photos, closed=True), strict=True):
        assert abs(max(row.values()) - answer.probability) < 0.1


@pytest.mark.slow
def test_embeddings_are_the_original_clips(new: New, paint: Path, photos: list[Path], tmp_path: Path) -> None:
    """Their cosines, times the scale, are zero-shot's logits."""
    learner = new("rail", paint)
    learner.export(tmp_path / "model.onnx")
    program = Program(tmp_path / "model.onnx")
    views = np.stack([program.view(path) for path in photos])
    z, classes = program.session.run(["embeddings", "class_embeddings"], {"images": views})
    logits = float(program.about["everclip.logit_scale"]) * z @ classes.T
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    untouched = new("zero-shot", paint).predict(photos, closed=True, top_k=100)
    assert_alike([dict(zip(program.columns[:-1], row, strict=True)) for row in p], untouched)


@pytest.mark.slow
def test_before_the_first_lesson_it_is_clip_among_labels(new: New, photos: list[Path], tmp_path: Path) -> None:
    learner, labels = new("rail"), ["red", "green"]
    learner.export(tmp_path / "model.onnx", labels)
    assert_alike(Program(tmp_path / "model.onnx")(photos), learner.predict(photos, labels))
    with pytest.raises(InputError, match="nothing is learned yet"):
        learner.export(tmp_path / "other.onnx")


@pytest.mark.slow
def test_large_weights_get_a_file_of_their_own(
    new: New, paint: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "LARGEST", 0)
    learner, path = new("ncm", paint), tmp_path / "model.onnx"
    report = learner.export(path)
    first = {file.name for file in tmp_path.iterdir()}
    assert len(first) == 2
    assert report.bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert_alike(Program(path)(photos), learner.predict(photos, top_k=100))
    learner.export(path)  # the weights of the graph before are gone with it
    assert len(list(tmp_path.iterdir())) == 2
    assert {file.name for file in tmp_path.iterdir()} != first
    assert_alike(Program(path)(photos), learner.predict(photos, top_k=100))


def test_a_graph_that_answers_otherwise_is_not_left_behind(
    new: New, paint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, path = new("ncm", paint), tmp_path / "model.onnx"
    path.write_bytes(b"what was there")
    exact = exporting.Answers.forward

    def wrong(self: exporting.Answers, images: Tensor) -> tuple[Tensor, ...]:
        p, *rest = exact(self, images)
        return (p + 0.001 if torch.compiler.is_exporting() else p, *rest)

    monkeypatch.setattr(exporting.Answers, "forward", wrong)
    with pytest.raises(EverclipError, match=r"onnxruntime answers otherwise than the learner, by 0\.001"):
        learner.export(path)
    assert path.read_bytes() == b"what was there"
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_refusals(new: New, paint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = new("ncm", paint)
    with pytest.raises(InputError, match=r"does not end in \.onnx"):
        learner.export(tmp_path / "model.bin")
    with pytest.raises(InputError, match="there is no folder"):
        learner.export(tmp_path / "absent" / "model.onnx")
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"broken\.png"):
        learner.export(tmp_path / "model.onnx", compare_on=[tmp_path / "broken.png"])
    with pytest.raises(InputError, match="only one of the labels"):
        learner.export(tmp_path / "model.onnx", only=True)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"export needs onnxruntime.*pip install 'everclip\[export\]'"):
        learner.export(tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["broken.png"]
