"""Adapters on the frozen image tower, with parameter retention: a matrix on the embedding, attention over tokens."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures
from everclip.errors import InputError
from everclip.layers.adapters import AttentionAdapter, LinearAdapter
from everclip.methods.retained import ImageAdapter, Retained, RetainedConfig

PAPER = "after Liu et al. 2023, arXiv 2310.20348 (a reconstruction)"


class LinearAdapterConfig(RetainedConfig):
    """Settings of the linear adapter."""

    start: Literal["identity", "random"] = Field(
        "identity", description="identity: learning starts exactly at zero-shot; random: as a fresh linear layer"
    )


class LinearAdapterMethod(ImageAdapter):
    """One matrix and one bias on the normalized image embedding, A(z) = W z + b."""

    name = "linear-adapter"
    summary = "a matrix on the frozen image embedding, with parameter retention and replay"
    paper = PAPER
    Config = LinearAdapterConfig
    defaults: ClassVar[dict[str, Any]] = Retained.defaults | {"epochs": 60}

    def __init__(self, backbone: Backbone, config: LinearAdapterConfig, features: FrozenFeatures | None = None) -> None:
        super().__init__(backbone, config, features)
        self.adapter = LinearAdapter(backbone.embed_dim, config.start)

    def image_side(self, inputs: Tensor) -> Tensor:
        """Embeddings (B, D) → adapted (B, D)."""
        adapted: Tensor = self.adapter(self.original(inputs))
        return adapted


class AttentionAdapterConfig(RetainedConfig):
    """Settings of the attention adapter."""

    replay: Literal["gaussian", "exemplars", "none"] = Field(
        "exemplars",
        description="what stands for the classes of earlier tasks: real examples, nothing, or (tokens=pooled only) a "
        "Gaussian per class",
    )
    tokens: Literal["all", "pooled"] = Field(
        "all",
        description="what the embedding attends to: all output tokens of the tower, or itself alone (the degenerate "
        "reading, in which only the value matrix is left)",
    )


class AttentionAdapterMethod(ImageAdapter):
    """Self-attention of the embedding over the output tokens of its image, beside a residual connection.

    With `tokens: pooled` it is fed with embeddings alone.

    Raises:
        InputError: Gaussians of tokens, which nothing estimates.
    """

    name = "attention-adapter"
    summary = "attention over the frozen image tower's output tokens, with parameter retention and replay"
    paper = PAPER
    Config = AttentionAdapterConfig
    reads: ClassVar[frozenset[str]] = frozenset({"images"})

    def __init__(
        self, backbone: Backbone, config: AttentionAdapterConfig, features: FrozenFeatures | None = None
    ) -> None:
        super().__init__(backbone, config, features)
        if config.tokens == "all":
            if config.replay == "gaussian":
                raise InputError("replay=gaussian cannot draw tokens; choose replay=exemplars or tokens=pooled.")
            self.feed = "tokens"
        self.adapter = AttentionAdapter(backbone.embed_dim)

    def image_side(self, inputs: Tensor) -> Tensor:
        """Tokens (B, T, D), or embeddings (B, D), → adapted embeddings (B, D)."""
        adapted: Tensor = self.adapter(inputs if inputs.dim() == 3 else inputs[:, None])
        return adapted
