"""Adapters on what the frozen image tower says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.layers.adapters import AttentionAdapter, LinearAdapter


@pytest.fixture
def tokens() -> Tensor:
    return 7 * torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def attention() -> AttentionAdapter:
    """As if it had learned something."""
    adapter = AttentionAdapter(8)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for matrix in adapter.parameters():
            torch.nn.init.normal_(matrix)
    return adapter


def test_linear_starts_as_the_identity():
    z = torch.randn(4, 8)
    assert torch.equal(LinearAdapter(8)(z), z)
    assert not torch.allclose(LinearAdapter(8, "random")(z), z)
    assert sum(p.numel() for p in LinearAdapter(8).parameters()) == 8 * 8 + 8


def test_attention_starts_at_zero_shot(tokens: Tensor):
    adapted = F.normalize(AttentionAdapter(8)(tokens), dim=-1)
    torch.testing.assert_close(adapted, F.normalize(tokens[:, 0], dim=-1), rtol=0, atol=1e-6)


def test_attention_is_the_textbook_formula(attention: AttentionAdapter, tokens: Tensor):
    x = tokens / tokens.square().mean(dim=-1, keepdim=True).sqrt()
    q, k, v = attention.query(x), attention.key(x), attention.value(x)
    whole = x + torch.softmax(q @ k.transpose(1, 2) / 8**0.5, dim=-1) @ v
    torch.testing.assert_close(attention(tokens), whole[:, 0], rtol=1e-5, atol=1e-5)
    expected = F.scaled_dot_product_attention(q, k, v)[:, 0] + x[:, 0]
    torch.testing.assert_close(attention(tokens), expected, rtol=1e-5, atol=1e-5)


def test_over_one_token_only_the_values_are_left(attention: AttentionAdapter, tokens: Tensor):
    """The degenerate reading: z + W_v z, whatever queries and keys say."""
    alone = tokens[:, :1]
    x = F.normalize(alone[:, 0], dim=-1) * 8**0.5
    torch.testing.assert_close(attention(alone), x + attention.value(x), rtol=1e-5, atol=1e-5)


def test_images_never_mix(attention: AttentionAdapter, tokens: Tensor):
    changed = tokens.clone()
    changed[1:] = 100 * torch.randn_like(changed[1:])
    torch.testing.assert_close(attention(changed)[0], attention(tokens)[0])
    gradient = torch.autograd.grad(attention(tokens.requires_grad_())[0].sum(), tokens)[0]
    assert gradient[0].abs().min() > 0
    assert gradient[1:].abs().max() == 0


def test_the_order_of_patches_does_not_matter(attention: AttentionAdapter, tokens: Tensor):
    turned = torch.cat([tokens[:, :1], tokens[:, 1:].flip(1)], dim=1)
    torch.testing.assert_close(attention(turned), attention(tokens), rtol=1e-5, atol=1e-5)


def test_everything_learns(attention: AttentionAdapter, tokens: Tensor):
    attention(tokens).sum().backward()
    for matrix in attention.parameters():
        assert matrix.grad.abs().max() > 0
