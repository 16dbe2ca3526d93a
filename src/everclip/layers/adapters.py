"""Small modules on the output of the frozen image tower: a matrix on the embedding, attention over tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class LinearAdapter(nn.Module):
    """A(z) = W z + b on embeddings of width D.

    Args:
        width: D.
        start: `identity`, so that learning starts exactly at zero-shot, or `random` (torch's default for a linear
            layer, as in the third-party re-implementation).
    """

    def __init__(self, width: int, start: Literal["identity", "random"] = "identity") -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        if start == "identity":
            nn.init.eye_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, z: Tensor) -> Tensor:
        """Embeddings (B, D) → (B, D)."""
        adapted: Tensor = self.linear(z)
        return adapted


class AttentionAdapter(nn.Module):
    """The embedding's row of softmax(QKᵀ/√D)V over the tokens of one image, added to the embedding.

    Tokens enter with unit mean square, so that QKᵀ/√D has the scale it has in a transformer. W_v starts at zero, W_q
    and W_k at the identity: a fresh adapter answers as zero-shot does, and attends to tokens that resemble the
    embedding. With a single token the softmax is 1, and what is left is z + W_v z.

    Only the first row is needed, so no keys and no values are computed: q·(W_k x_t) = (W_kᵀ q)·x_t, and the weighted
    mean of the values is W_v times that of the tokens. This leaves three D × D products per image, whatever the number
    of tokens.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        nn.init.eye_(self.query.weight)
        nn.init.eye_(self.key.weight)
        nn.init.zeros_(self.value.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T, D), the embedding first → (B, D); images of a batch never mix."""
        x = nn.functional.normalize(tokens, dim=-1) * tokens.shape[-1] ** 0.5
        asked = self.query(x[:, 0]) @ self.key.weight  # W_kᵀ q
        weights = torch.softmax(torch.einsum("btd,bd->bt", x, asked) / x.shape[-1] ** 0.5, dim=1)
        adapted: Tensor = x[:, 0] + self.value(torch.einsum("bt,btd->bd", weights, x))
        return adapted
