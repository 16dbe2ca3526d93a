"""The output tokens of a vision transformer, one per place of an image, projected to the embedding space."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from everclip.backbone.foreign import TimmTower, VisionTransformer
from everclip.errors import InputError


def output_tokens(visual: nn.Module, encode: Callable[[Tensor], Tensor], pixels: Tensor, name: str) -> Tensor:
    """The embedding and the patch tokens of the last block, each projected as if it were the token that is pooled.

    Towers that pool a class token project it; there this is the class token among the patch tokens. Towers without one
    (SigLIP) pool by attention or mean: each patch token is pooled as if it were the only one.

    Args:
        visual: the image tower of an open_clip model.
        encode: the model's own way from pixels to embeddings; it runs `visual` once.
        pixels: (B, 3, S, S), normalized.
        name: of the backbone, for the error.

    Returns:
        (B, 1 + P, D): the embedding exactly as `encode` gives it, then the P patch tokens.

    Raises:
        InputError: the tower is not a vision transformer.
    """
    trunk = getattr(visual, "trunk", None)
    if hasattr(visual, "ln_post"):  # open_clip's own
        own = cast(VisionTransformer, visual)
        last, project = own.attn_pool or own.transformer, _projection(own)
    elif hasattr(trunk, "num_prefix_tokens") and hasattr(trunk, "fc_norm"):  # timm's
        timm = cast(TimmTower, visual)
        last, project = timm.trunk.norm, _pooling(timm)
    else:
        raise InputError(
            f"the image tower of '{name}' is no vision transformer and has no output tokens; take another backbone."
        )
    seen: list[Tensor] = []
    hook = last.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        embedding = encode(pixels)
    finally:
        hook.remove()
    return torch.cat([embedding[:, None], project(seen[0])], dim=1)


def _projection(visual: VisionTransformer) -> Callable[[Tensor], Tensor]:
    def project(tokens: Tensor) -> Tensor:
        patches: Tensor = visual.ln_post(tokens[:, 1:])
        return patches if visual.proj is None else patches @ visual.proj

    return project


def _pooling(visual: TimmTower) -> Callable[[Tensor], Tensor]:
    trunk = visual.trunk

    def project(tokens: Tensor) -> Tensor:
        patches = tokens[:, trunk.num_prefix_tokens :]
        alone = patches.flatten(0, 1)
        if trunk.attn_pool is not None:
            alone = trunk.attn_pool(alone[:, None])
        pooled: Tensor = visual.head(trunk.head(trunk.fc_norm(alone))).unflatten(0, patches.shape[:2])
        return pooled

    return project
