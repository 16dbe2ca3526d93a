"""The CLIP of the golden numbers: built to the recorded sizes, whatever they are, with the recorded weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from everclip.backbone import Backbone


def golden_backbone(sizes: dict[str, Any], weights: dict[str, torch.Tensor], folder: Path) -> Backbone:
    """Write the golden CLIP as an open_clip model folder and load it as a user would.

    Its vocabulary is not the tokenizer's, so token ids always come from the golden files.
    """
    norm = {"eps": sizes["layer_norm_eps"]}
    config = {
        "embed_dim": sizes["embed_dim"],
        "quick_gelu": sizes["activation"] == "quick_gelu",
        "vision_cfg": {
            "image_size": sizes["image_size"],
            "patch_size": sizes["patch_size"],
            "width": sizes["image_width"],
            "head_width": sizes["image_width"] // sizes["image_heads"],
            "layers": sizes["image_layers"],
            "norm_kwargs": norm,
        },
        "text_cfg": {
            "context_length": sizes["context_length"],
            "vocab_size": sizes["vocab_size"],
            "width": sizes["text_width"],
            "heads": sizes["text_heads"],
            "layers": sizes["text_layers"],
            "norm_kwargs": norm,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(weights, folder / "open_clip_model.safetensors")
    return Backbone.load(str(folder))
