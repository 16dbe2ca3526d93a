"""ZSCL and its baselines against recorded training runs, on a linear toy and on the tiny CLIP."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures
from everclip.engine.recipe import lr_at
from everclip.methods import METHODS, Batch, Reference, Sources, distilled
from everclip.methods.full_model import FullModel
from everclip.methods.zscl import ZSCL
from everclip.streams import TaskInfo


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * max(1.0, float(expected.abs().max())))


class Given:
    """Images that are tensors already."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.pixels.numpy()[rows]


class Told(FrozenFeatures):
    """Frozen features of images that are tensors already, with no cache."""

    @torch.no_grad()
    def images(self, data: Given) -> Tensor:
        return self.backbone.encode_image(data.pixels)

    @torch.no_grad()
    def texts(self, tokens: Tensor) -> Tensor:
        return self.backbone.encode_text(tokens)


def run(method: FullModel, settings: dict, batch: Callable[[int], Batch], watch: Callable[[int, dict], None]) -> None:
    """The recorded loop: N + 1 updates of a task that has begun, the last at rate 0."""
    optimizer = torch.optim.AdamW(method.weights.values(), lr=0.0, weight_decay=0.0)
    for step in range(settings["iterations"] + 1):
        rate = lr_at(step, settings["base_lr"], settings["warmup"], settings["iterations"])
        optimizer.param_groups[0]["lr"] = rate
        loss = method(batch(step))
        optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        optimizer.step()
        watch(step, {"total": loss.total.detach(), "lr": torch.tensor(rate), **loss.parts})
        method.after_step(step)


def configured(settings: dict) -> dict:
    """Names of the recorded settings → ours."""
    return {
        "kd_temperature": settings["temperature"],
        "label_smoothing": settings["label_smoothing"],
        "kd_image_weight": settings.get("kd_image_weight", 1.0),
        "kd_text_weight": settings.get("kd_text_weight", 1.0),
        "consolidation": settings["l2_weight"],
        "average_every": settings["average_every"],
        "new_share": settings.get("wise_ft_new_weight"),
    }


# -- the linear toy ----------------------------------------------------------------------------------------------------


class Toy(nn.Module):
    """Two linear towers: an image x is x·A, a text is a row of T and its number is its only token."""

    device = torch.device("cpu")
    text_can_be_cut = False

    def __init__(self, weights: dict[str, Tensor], log_scale: Tensor) -> None:
        super().__init__()
        self.A, self.T = nn.Parameter(weights["A"]), nn.Parameter(weights["T"])
        self.logit_scale = log_scale.exp().squeeze()
        self.encoded: list[Tensor] = []

    def clone(self) -> Toy:
        return copy.deepcopy(self)

    def pixels(self, images: Tensor) -> Tensor:
        return images

    def _kept(self, features: Tensor) -> Tensor:
        if features.requires_grad:
            features.retain_grad()
            self.encoded.append(features)
        return features

    def encode_image(self, pixels: Tensor) -> Tensor:
        return self._kept(pixels @ self.A)

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self._kept(self.T[tokens[:, 0]])

    def tokenizer(self, texts: list[str]) -> Tensor:
        return torch.tensor([[int(text)] for text in texts])

    tokenize = tokenizer


RUNS = {
    "zscl": ("zscl", {}),
    "zscl_star": ("zscl", {"consolidation": 0.0}),
    "lwf": ("lwf", {}),
    "lwf_vr": ("lwf-vr", {}),
    "finetune": ("finetune", {}),
    "wc": ("wc", {}),
    "wise_ft": ("wise-ft", {}),
}
PARTS = {"ce": "ce", "kd_image": "kd_image", "kd_text": "kd_text", "wc": "l2"}


def numbers(ids: Tensor) -> tuple[str, ...]:
    return tuple(str(int(i)) for i in ids)


@pytest.mark.parametrize("name", RUNS)
def test_toy_runs(golden, name: str, monkeypatch: pytest.MonkeyPatch):
    recorded, settings = golden("zscl"), golden.settings["zscl"]
    method_name, changes = RUNS[name]
    kind = METHODS[method_name]
    fitting = {k: v for k, v in (configured(settings) | changes).items() if k in kind.Config.model_fields}
    toy = Toy({k: recorded[f"toy.pretrained.{k}"] for k in "AT"}, recorded["toy.log_logit_scale"])
    method = kind(toy.requires_grad_(False), kind.Config(**fitting), Told(toy))
    method.student.requires_grad_(True)

    external, own = recorded["toy.reference_images"], recorded["toy.current_images_eval_view"]
    captions = numbers(recorded["toy.caption_text_ids"])
    method.provide(Sources(lambda rows: Given(own.flatten(0, 1)), Given(external.flatten(0, 1)), captions))
    random = recorded["toy.random_text_ids"][:, None]
    monkeypatch.setattr(distilled, "random_sentences", lambda backbone, count: random)

    earlier = TaskInfo(0, "earlier", ("0",), ("{}",))
    task = TaskInfo(1, "task", numbers(recorded["toy.class_text_ids"]), ("{}",))
    method.load_state([earlier], [], {k: recorded[f"toy.previous.{k}"] for k in "AT"})
    method.begin_task(task)
    reference = external if method_name == "zscl" else own

    def batch(step: int) -> Batch:
        method.student.encoded.clear()
        images, labels = recorded["toy.train_images"][step], recorded["toy.train_labels"][step]
        if method.reference is None:
            return Batch(task, images, labels)
        count = reference.shape[1]
        return Batch(task, images, labels, Reference(reference[step], torch.arange(count) + step * count))

    averages = iter(range(1000))

    def watch(step: int, said: dict[str, Tensor]) -> None:
        for part in ("total", "lr"):
            close(said.pop(part).float(), recorded[f"{name}.{part}"][step])
        assert {PARTS[part] for part in said} == {p for p in PARTS.values() if f"{name}.{p}" in recorded}
        for part, value in said.items():
            close(value, recorded[f"{name}.{PARTS[part]}"][step])
        kinds = ["train_image_features", "class_text_features", "reference_image_features"]
        for features, what in zip(method.student.encoded, kinds, strict=False):
            close(features.detach(), recorded[f"{name}.features.{what}"][step])
            close(features.grad, recorded[f"{name}.grad_features.{what}"][step], 1e-6)
        assert len(method.student.encoded) == (3 if "kd_image" in said else 2)
        for k in "AT":
            close(method.student.get_parameter(k).grad, recorded[f"{name}.grad.{k}"][step], 1e-6)
            close(method.student.get_parameter(k).detach(), recorded[f"{name}.trajectory.{k}"][step])
        if step and (step - 1) % settings["average_every"] == 0 and f"{name}.we_count" in recorded:
            number = next(averages)  # the average as it was after the step before
            assert method.average.count == int(recorded[f"{name}.we_count"][number])
            for tensor, k in zip(method.average.tensors, "AT", strict=True):
                close(tensor, recorded[f"{name}.we.{k}"][number])

    run(method, settings, batch, watch)
    method.end_task()
    for k in "AT":
        close(method.student.get_parameter(k).detach(), recorded[f"{name}.saved.{k}"])


# -- the tiny CLIP -----------------------------------------------------------------------------------------------------


def test_zscl_on_the_tiny_clip(golden, golden_clip: Backbone, monkeypatch: pytest.MonkeyPatch):
    recorded, settings = golden("zscl_clip"), golden.settings["zscl_clip"]
    fitting = {k: v for k, v in configured(settings).items() if k in ZSCL.Config.model_fields}
    method = ZSCL(golden_clip, ZSCL.Config(**fitting), Told(golden_clip))
    reference = recorded["reference_images"]
    method.provide(Sources(lambda rows: None, Given(reference.flatten(0, 1)), ("by number",)))
    task = TaskInfo(0, "task", ("by number",), ("{}",))
    # The golden vocabulary is not the tokenizer's: token ids go around it.
    monkeypatch.setattr(method, "reference_tokens", lambda task: recorded["reference_token_ids"])
    method._training_tokens[task] = recorded["class_token_ids"][:, None]
    method.begin_task(task)
    start = {name: weight.detach().clone() for name, weight in method.weights.items()}

    def batch(step: int) -> Batch:
        count = reference.shape[1]
        rows = torch.arange(count) + step * count
        images, labels = recorded["train_images"][step], recorded["train_labels"][step]
        return Batch(task, images, labels, Reference(reference[step], rows))

    def watch(step: int, said: dict[str, Tensor]) -> None:
        for ours, theirs in {"total": "total", "lr": "lr", **PARTS}.items():
            close(said[ours].float(), recorded[theirs][step])
        for name, weight in method.weights.items():
            close(weight.grad.norm(), recorded[f"grad_norm.{name.removeprefix('model.')}"][step], 2e-5)

    def compare(which: str) -> None:
        plain = golden("clip_forward")
        with torch.no_grad():
            close(method.student.encode_image(plain["images"]), recorded[f"{which}.image_features"], 2e-5)
            close(method.student.encode_text(plain["token_ids"]), recorded[f"{which}.text_features"], 2e-5)
        for name, weight in method.weights.items():
            change, plain_name = (weight.detach() - start[name]).norm(), name.removeprefix("model.")
            # A third of in_proj_bias has a gradient of mathematically zero, which AdamW blows up to rounding noise.
            tolerance = 0.1 if name.endswith("in_proj_bias") else 1e-3
            torch.testing.assert_close(
                change, recorded[f"{which}.change_norm.{plain_name}"].squeeze(), rtol=tolerance, atol=1e-4
            )

    run(method, settings, batch, watch)
    compare("final")
    method.end_task()
    compare("averaged")
