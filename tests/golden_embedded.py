"""What the embedded CLIP says of a few drawings. After its weights change: `python -m tests.golden_embedded`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from everclip.backbone import Backbone
from everclip.backbone.prompts import class_tokens, encode_classes
from everclip.data.drawn import DOMAINS, DrawnImages

RECORD = Path(__file__).with_name("golden_embedded.safetensors")


def drawings() -> Tensor:
    """One drawing per domain, (11, 3, 64, 64) uint8; recorded too, as another Pillow may draw a pixel differently."""
    images = [DrawnImages(domain, 1, "test", seed=0).decode(3) for domain in DOMAINS.values()]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def logits(backbone: Backbone, images: Tensor) -> Tensor:
    """Every drawing against the first class of every domain, (11, 11)."""
    tokens = torch.cat([class_tokens(backbone, d.class_names[:1], d.templates[:1]) for d in DOMAINS.values()])
    classifier = encode_classes(backbone.encode_text, tokens)
    features = F.normalize(backbone.encode_image(backbone.pixels(images)), dim=-1)
    return backbone.logit_scale * features @ classifier.T


def recorded() -> dict[str, Tensor]:
    """`images` (11, 3, 64, 64) uint8 and `logits` (11, 11) float32."""
    return load_file(RECORD)


if __name__ == "__main__":
    images = drawings()
    save_file({"images": images, "logits": logits(Backbone.load("embedded"), images)}, RECORD)
