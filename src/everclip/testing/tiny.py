"""A CLIP that is made in a moment, and folders of images that it learns in a few steps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_model

from everclip.system.openclip import open_clip

COLORS = {"red": (200, 40, 40), "green": (40, 190, 60), "blue": (50, 60, 210), "gray": (120, 120, 120)}

VIT: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
"""An open_clip configuration: two blocks in each tower, images of 32 pixels."""


def clip_folder(
    folder: Path, config: Mapping[str, Any] = VIT, preprocess: Mapping[str, Any] | None = None, seed: int = 0
) -> Path:
    """Make an open_clip model folder with seeded random weights; returns the folder, which must not be there yet."""
    folder.mkdir(parents=True)
    content = {"model_cfg": dict(config), "preprocess_cfg": dict(preprocess or {})}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.create_model(f"local-dir:{folder}")
    save_model(model, str(folder / "open_clip_model.safetensors"))
    return folder


def image_folder(
    folder: Path, classes: Sequence[str], train: int = 6, test: int = 3, size: int = 40, seed: int = 0
) -> Path:
    """Make `train/` and `test/` folders of noisy one-color images, a color per class: easy to learn."""
    colors = list(COLORS.values())
    for part, count in (("train", train), ("test", test)):
        for label, name in enumerate(classes):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                rng = np.random.default_rng([seed, label, number, part == "test"])
                pixels = np.asarray(colors[label % len(colors)]) + rng.normal(0, 25, (size, size + 6, 3))
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(folder / part / name / f"{number:03d}.png")
    return folder
