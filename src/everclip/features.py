"""Features of the frozen CLIP, computed once: images on disk, class embeddings in memory.

The original CLIP never changes, so what it says of an image is a constant. Every reader of frozen features (zero-shot,
selectors, methods on embeddings, the route to the original CLIP) takes them from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from everclip.backbone import Backbone
from everclip.data import Images, LabeledEmbeddings, cache_key, embedding_cache
from everclip.errors import InputError
from everclip.prompts import class_tokens, encode_classes, encode_texts

BATCH = 256
"""Images per forward pass without gradient."""


@torch.no_grad()
def embed_images(images: Images, encode: Callable[[Tensor], Tensor], backbone: Backbone, rows=None) -> Tensor:
    """Encode evaluation views in batches: Images (N, 3, S, S) → (N, D) on the CPU; `rows` picks some of them."""
    rows = np.arange(len(images)) if rows is None else rows
    parts = []
    for start in range(0, len(rows), BATCH):
        pixels = torch.from_numpy(np.ascontiguousarray(images[rows[start : start + BATCH]]))
        parts.append(encode(backbone.pixels(pixels)).cpu())
    return torch.cat(parts) if parts else torch.empty(0, backbone.embed_dim)


class FrozenFeatures:
    """Frozen features of one backbone, under the evaluation view."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._classes: dict[tuple, Tensor] = {}

    def images(self, data: Images | LabeledEmbeddings) -> Tensor:
        """Un-normalized image features (N, D), float32 on the CPU; read from the cache where it has them.

        Raises:
            InputError: precomputed embeddings of another width than the backbone's.
        """
        width = self.backbone.embed_dim
        if isinstance(data, LabeledEmbeddings):
            if data.embeddings.shape[1] != width:
                raise InputError(
                    f"the embeddings have {data.embeddings.shape[1]} numbers each, but backbone "
                    f"'{self.backbone.name}' works with {width}; name the backbone they come from with --backbone."
                )
            return torch.from_numpy(np.ascontiguousarray(data.embeddings))
        backbone = self.backbone
        key = cache_key(backbone.digest, backbone.view.key, backbone.precision, backbone.device.type, data.key)
        array = embedding_cache(key, lambda: embed_images(data, backbone.encode_image, backbone).numpy())
        return torch.from_numpy(np.array(array))

    def texts(self, tokens: Tensor) -> Tensor:
        """Un-normalized text features (P, D) of token ids (P, context), float32 on the CPU; cached as images are."""
        backbone = self.backbone
        key = cache_key(backbone.digest, backbone.precision, backbone.device.type, "texts", str(tokens.tolist()))
        array = embedding_cache(key, lambda: encode_texts(backbone.encode_text, tokens).cpu().numpy())
        return torch.from_numpy(np.array(array))

    def classes(self, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Classifier (C, D) of the original CLIP for these classes, on its device."""
        key = (tuple(class_names), tuple(templates))
        if key not in self._classes:
            tokens = class_tokens(self.backbone, class_names, templates)
            self._classes[key] = encode_classes(self.backbone.encode_text, tokens)
        return self._classes[key]
