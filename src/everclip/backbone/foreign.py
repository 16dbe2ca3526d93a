"""What EverCLIP uses of open_clip's and timm's models, written down as types.

Neither library says what its modules hold. These classes say it for the type checker alone: what is loaded is of the
library's own classes, and nothing is ever an instance of those here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn


class Tokenizer(Protocol):
    """An open_clip tokenizer."""

    def __call__(self, texts: str | list[str], context_length: int | None = None) -> Tensor:
        """Texts → token ids (P, context), cut to the context."""


class OpenClip(nn.Module):
    """An open_clip `CLIP` or `CustomTextCLIP`."""

    visual: nn.Module
    logit_scale: Tensor
    encode_image: Callable[[Tensor], Tensor]
    encode_text: Callable[[Tensor], Tensor]


class TextTower(nn.Module):
    """What holds the text side of an open_clip model: the model itself, or its `.text`."""

    token_embedding: nn.Embedding
    positional_embedding: Tensor
    attn_mask: Tensor
    """Of a tower that is causal; others have none."""
    transformer: nn.Module
    ln_final: nn.Module
    text_projection: nn.Linear | Tensor | None


class VisionTransformer(Protocol):
    """open_clip's own image tower."""

    attn_pool: nn.Module | None
    transformer: nn.Module
    ln_post: nn.Module
    proj: Tensor | None


class Trunk(Protocol):
    """timm's vision transformer."""

    num_prefix_tokens: int
    norm: nn.Module
    attn_pool: nn.Module | None
    fc_norm: nn.Module
    head: nn.Module


class TimmTower(Protocol):
    """open_clip's image tower around a model of timm."""

    trunk: Trunk
    head: nn.Module
