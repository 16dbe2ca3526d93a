"""Tiny models and tiny image folders, made on the spot."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models import alexnet

from everclip.testing.tiny import COLORS, VIT, clip_folder, image_folder

__all__ = ["COLORS", "SIGLIP", "VIT", "alexnet_weights", "clip_folder", "image_folder"]

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
