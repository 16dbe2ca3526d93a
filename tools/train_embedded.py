"""Train a small CLIP further, as the one that ships with the package was: drawn images with captions, held photographs.

    python tools/train_embedded.py --out runs/embedded [--photos DIR] [--validation DIR]

Drawn images are contrasted with the captions of their domain's classes, while features of photographs and of the names
of things that photographs show are held to the given model's. Without weight decay the rows of tokens that no caption
uses stay what they are: zero, where the given model never used them either. At the end the weights are interpolated
with the given ones (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903): by the largest factor that gains a point on half
of the validation photographs, if there are any.

`--out` becomes a model folder in open_clip's layout, float16, at most 35 MB, for `--backbone` or `Backbone.load`.
Killed at any moment, the same command with `--resume` ends with the same weights (bit for bit on a CPU).
"""

from __future__ import annotations

import math
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from embedded_figures import CHOOSE, REPORT, PhotoValidation, measure, table
from embedded_mixture import HELD_TEXTS, DrawnClasses, Photographs, bundled_photographs, tiny_imagenet
from everclip.backbone import Backbone, resolve_device
from everclip.data import viewed
from everclip.engine.recipe import lr_at
from everclip.engine.training import Progress
from everclip.errors import EverclipError, InputError
from everclip.storage.faults import fault_point
from everclip.storage.files import write_atomic
from everclip.system.display import Display

LARGEST = 35e6
"""Bytes that the exported weights may take."""

CONFIG, WEIGHTS, CHECKPOINT = "open_clip_config.json", "open_clip_model.safetensors", "training.safetensors"

FACTORS = tuple(tenth / 10 for tenth in range(10, 0, -1))
"""What the interpolation chooses from; without validation it takes 0.5, as WiSE-FT does."""

MARGIN = 1.0
"""Points by which a factor must beat the given model on the photographs to choose by, to be no worse on others."""

EMBEDDED = Path(str(files("everclip") / "embedded"))


class Settings(BaseModel):
    """How both towers are trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(1000, ge=1, description="of the optimizer")
    seed: int = Field(0, ge=0, description="of everything random")
    drawn: int = Field(48, ge=1, description="drawn images per step, each of another class")
    photographs: int = Field(16, ge=1, description="crops of photographs per step")
    names: int = Field(48, ge=1, description="names of things per step, to hold the text tower")
    lr: float = Field(3e-4, gt=0, description="peak rate of AdamW; linear warm-up, then cosine to 0")
    warmup: int = Field(20, ge=0, description="steps of warm-up")
    hold: float = Field(40.0, ge=0, description="weight of 1 - cosine to the given model's features, per tower")
    checkpoint_every: int = Field(50, ge=1, description="steps")


class Training:
    """Both towers in training; the logit scale stays.

    Args:
        given: the model to go on from.
        photographs: what its features are held on; their captions, if they have any, are learned as well.
        settings: see there.

    Attributes:
        identity: what a checkpoint must have been made with to be gone on from.
    """

    def __init__(self, given: Backbone, photographs: Photographs, settings: Settings) -> None:
        self.settings = settings
        self.student = given.clone()
        self._given = given
        self._drawn = DrawnClasses(given.view.size, settings.steps, settings.seed)
        self._photographs = photographs
        self._captions = [given.tokenize(texts) for texts in self._drawn.captions + photographs.captions]
        # The classes of a domain are contrasted with each other, those of the photographs as one more domain.
        domains = torch.tensor([*self._drawn.domains, *[-1] * len(photographs.captions)], device=given.device)
        self._other_domain = domains[:, None] != domains
        self._held = [given.tokenize(texts) for texts in HELD_TEXTS]
        self._named = {n: p for n, p in self.student.model.named_parameters() if n not in ("logit_scale", "logit_bias")}
        for parameter in self._named.values():
            parameter.requires_grad_(True)
        self.identity = {
            "settings": settings.model_dump_json(),
            "start": given.digest,
            "drawings": self._drawn.key,
            "photographs": photographs.key,
        }
        self._optimizer = torch.optim.AdamW(self._named.values(), betas=(0.9, 0.98), weight_decay=0.0)

    def step(self, step: int) -> dict[str, float]:
        """Take step `step`, a pure function of the state, the seed and `step`; return the parts of its loss."""
        random = np.random.default_rng([self.settings.seed, step])
        drawn, labels = self._drawn.batch(step, self.settings.drawn, random)
        crops, shown = self._photographs.batch(self.settings.photographs, random)
        pixels = self._given.pixels(torch.from_numpy(np.concatenate([drawn, crops])))
        if self._photographs.captions:
            labels = np.concatenate([labels, shown + len(self._drawn.captions)])
        names = [self._held[index] for index in random.choice(len(self._held), self.settings.names, replace=False)]
        held = _one_of_each(names, random)

        images = F.normalize(self.student.encode_image(pixels), dim=-1)
        texts = F.normalize(self.student.encode_text(_one_of_each(self._captions, random)), dim=-1)
        target = torch.from_numpy(labels).to(pixels.device)
        logits = self.student.logit_scale * images[: len(target)] @ texts.T
        contrast = F.cross_entropy(logits.masked_fill(self._other_domain[target], -torch.inf), target)
        image_drift = _distance(images[len(drawn) :], self._closer(pixels[len(drawn) :]))
        text_drift = _distance(F.normalize(self.student.encode_text(held), dim=-1), self._meaning(held))

        for group in self._optimizer.param_groups:
            group["lr"] = lr_at(step, self.settings.lr, self.settings.warmup, self.settings.steps)
        self._optimizer.zero_grad(set_to_none=True)
        (contrast + self.settings.hold * (image_drift + text_drift)).backward()
        self._optimizer.step()
        return {"contrast": contrast.item(), "image drift": image_drift.item(), "text drift": text_drift.item()}

    @torch.no_grad()
    def _meaning(self, tokens: Tensor) -> Tensor:
        """The given model's normalized features (B, D) of texts."""
        return F.normalize(self._given.encode_text(tokens), dim=-1)

    @torch.no_grad()
    def _closer(self, pixels: Tensor) -> Tensor:
        """The given model's normalized features (B, D) of the crops a little closer, where it recognizes more."""
        size, margin = pixels.shape[-1], pixels.shape[-1] // 16
        closer = pixels[:, :, margin : size - margin, margin : size - margin]
        closer = F.interpolate(closer, size=(size, size), mode="bicubic", antialias=True)
        return F.normalize(self._given.encode_image(closer), dim=-1)

    def state(self) -> dict[str, Tensor]:
        """What is trained and the optimizer's moments, on the CPU."""
        moments = {
            f"{name}/{key}": value
            for name, parameter in self._named.items()
            for key, value in self._optimizer.state[parameter].items()
        }
        weights = {f"{name}/weight": parameter.detach() for name, parameter in self._named.items()}
        return {name: tensor.cpu().contiguous() for name, tensor in (weights | moments).items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""
        for full_name, value in tensors.items():
            name, key = full_name.rsplit("/", 1)
            parameter = self._named[name]
            if key == "weight":
                parameter.data.copy_(value)
            else:
                device = "cpu" if key == "step" else parameter.device
                self._optimizer.state[parameter][key] = value.to(device, copy=True)


def _one_of_each(variants: list[Tensor], random: np.random.Generator) -> Tensor:
    """One of the captions (K, context) of each class: (C, context)."""
    return torch.stack([tokens[int(random.integers(len(tokens)))] for tokens in variants])


def _distance(features: Tensor, targets: Tensor) -> Tensor:
    """Mean of 1 - cosine between normalized (B, D)."""
    return 1 - (features * targets).sum(dim=-1).mean()


def train(given: Backbone, photographs: Photographs, settings: Settings, out: Path, display: Display) -> Backbone:
    """Train, or go on from the checkpoint in `out` if there is one, to the last step.

    Returns:
        The trained model.

    Raises:
        InputError: the checkpoint is of other settings or of another model.
        EverclipError: it is damaged, or the loss is not finite; the last checkpoint is kept.
    """
    training = Training(given, photographs, settings)
    first = _restore(training, out / CHECKPOINT)
    clock = time.perf_counter()
    with display.training("towers", settings.steps, first) as advance:
        for step in range(first, settings.steps):
            fault_point("training step")
            parts = training.step(step)
            done = step + 1
            if not all(math.isfinite(part) for part in parts.values()):
                raise EverclipError(f"the loss became {parts} at step {step}; lower lr (now {settings.lr:g}).")
            images = (done - first) * (settings.drawn + settings.photographs)
            loss = parts["contrast"] + settings.hold * (parts["image drift"] + parts["text drift"])
            advance(Progress(done, settings.steps, loss, parts, images / (time.perf_counter() - clock)))
            if done % settings.checkpoint_every == 0 or done == settings.steps:
                write_atomic(
                    out / CHECKPOINT, save(training.state(), metadata={**training.identity, "step": str(done)})
                )
                display.note(f"step {done}: " + ", ".join(f"{name} {value:.3f}" for name, value in parts.items()))
    return training.student.requires_grad_(False)


def _restore(training: Training, path: Path) -> int:
    """Load the checkpoint, if there is one; return how many steps it has taken."""
    if not path.exists():
        return 0
    try:
        with safe_open(path, "pt") as file:
            found = file.metadata()
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise EverclipError(f"{path} can't be read ({error}); remove it to start over.") from error
    step = int(found.pop("step"))
    for what, value in training.identity.items():
        if found.get(what) != value:
            raise InputError(f"{path} was made with other {what} ({found.get(what)}); choose another --out.")
    training.load_state(tensors)
    return step


def interpolated(given: Backbone, trained: Backbone, factor: float) -> Backbone:
    """The model with weights given + factor · (trained − given)."""
    mixed = given.clone()
    with torch.no_grad():
        for own, new in zip(mixed.model.parameters(), trained.model.parameters(), strict=True):
            own.lerp_(new, factor)
    return mixed


def chosen_factor(given: Backbone, trained: Backbone, validation: PhotoValidation, display: Display) -> float:
    """The largest of `FACTORS` that gains `MARGIN` on the half to choose by; 0 where none does."""
    before = validation.accuracy(given, CHOOSE)
    display.note(f"photographs, half to choose by: the given model {before:.2f} %")
    for factor in FACTORS:
        accuracy = validation.accuracy(interpolated(given, trained, factor), CHOOSE)
        display.note(f"factor {factor:.1f}: {accuracy:.2f} %")
        if accuracy >= before + MARGIN:
            return factor
    return 0.0


def export(model: Backbone, config: Path, out: Path) -> None:
    """Write open_clip's model folder: the weights as float16, and a copy of the configuration."""
    weights = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in model.model.state_dict().items()
    }
    write_atomic(out / WEIGHTS, save(weights))
    write_atomic(out / CONFIG, config.read_bytes())


def main(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and the model.")],
    photos: Annotated[
        Path | None, typer.Option(help="Photographs to train on (Tiny-ImageNet's layout); else three bundled ones.")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="Photographs to measure, never to train on (`val` of Tiny-ImageNet's layout).")
    ] = None,
    start: Annotated[Path, typer.Option(help="Folder of the model to go on from.")] = EMBEDDED,
    steps: Annotated[int, typer.Option(min=1, help="Steps to train.")] = Settings().steps,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = Settings().seed,
    device: Annotated[str, typer.Option(help="auto · cpu · cuda · …")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
) -> None:
    """Train a small CLIP on drawn images with captions, and hold what it knows of photographs."""
    settings = Settings(steps=steps, seed=seed)
    display = Display()
    given = Backbone.load(str(start), resolve_device(device))
    size = 2 * sum(tensor.numel() for tensor in given.model.state_dict().values())
    if size > LARGEST:
        raise InputError(f"{start} takes {size / 1e6:.1f} MB as float16, more than {LARGEST / 1e6:.0f}; start smaller.")
    if photos is None:
        photographs = Photographs(bundled_photographs(), [], given.view.size)
    else:
        photographs = Photographs(*tiny_imagenet(photos, "train"), given.view.size)
    judge = None
    if validation is not None:
        images, class_names = tiny_imagenet(validation, "val")
        judge = PhotoValidation(viewed(images, given.view), class_names)
    out.mkdir(parents=True, exist_ok=True)
    if (out / CHECKPOINT).exists() and not resume:
        raise InputError(f"{out} holds a training under way; add --resume to go on, or choose another --out.")

    trained = train(given, photographs, settings, out, display)
    factor = chosen_factor(given, trained, judge, display) if judge else 0.5
    export(interpolated(given, trained, factor), start / CONFIG, out)
    exported = Backbone.load(str(out), given.device)
    console = Console(width=100)
    console.print(f"{out / WEIGHTS}: {(out / WEIGHTS).stat().st_size / 1e6:.1f} MB, factor {factor:.1f}")
    if judge:
        for what, half in (("choose by", CHOOSE), ("report", REPORT)):
            before, after = (judge.accuracy(model, half) for model in (given, exported))
            console.print(f"photographs, half to {what}: given {before:.2f}, now {after:.2f}")
    console.print(table(measure(given, exported)))


if __name__ == "__main__":
    try:
        typer.run(main)
    except EverclipError as error:
        typer.echo(f"train_embedded: {error}", err=True)
        sys.exit(error.exit_code)
