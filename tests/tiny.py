"""Tiny models and tiny image folders, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_model
from torch import Tensor
from torchvision.models import alexnet

COLORS = {"red": (200, 40, 40), "green": (40, 190, 60), "blue": (50, 60, 210), "gray": (120, 120, 120)}

VIT = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
SIGLIP = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}


def clip_folder(folder: Path, config: dict, preprocess: dict | None = None, seed: int = 0) -> Path:
    """An open_clip model folder with seeded random weights."""
    folder.mkdir(parents=True)
    content = {"model_cfg": config, "preprocess_cfg": preprocess or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.create_model(f"local-dir:{folder}")
    save_model(model, str(folder / "open_clip_model.safetensors"))
    return folder


def image_folder(
    folder: Path, classes: list[str], train: int = 6, test: int = 3, size: int = 40, seed: int = 0
) -> Path:
    """`train/` and `test/` folders of noisy one-color images, a color per class: easy to learn."""
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


def alexnet_weights(seed: int = 0) -> dict[str, Tensor]:
    """Torchvision's layout with random convolutions; the classifier, which nothing reads, takes no space."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in alexnet().state_dict().items()}
    draw = torch.Generator().manual_seed(seed)
    return {
        name: 0.05 * torch.randn(shape, generator=draw)
        if name.startswith("features.")
        else torch.zeros(1).expand(shape)
        for name, shape in shapes.items()
    }
