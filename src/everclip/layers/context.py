"""Prompts that begin alike, and learned vectors as their beginning (prompt tuning)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everclip.backbone import Backbone
from everclip.errors import InputError
from everclip.system.openclip import ResidualAttentionBlock

SPREAD = 0.02
"""Standard deviation of vectors that start from no word; that of the token embeddings of a fresh CLIP."""
WORTHWHILE = 500
"""Tokens that must be saved to pay for a second, small pass through every block; where fewer are, times are level."""


class PromptContext(nn.Module):
    """`length` vectors between the start token and the class name, the same for all classes.

    The tower is frozen, but gradients pass through it to the vectors. A causal tower reads them once for all classes
    (`encode_after`). For other towers there is a twin: other modules around the very same weights. In the prompt, dummy
    tokens hold the places of the vectors, and a hook on the twin's token embedding puts the vectors there.

    Args:
        backbone: whose text tower reads.
        length: how many vectors.
        words: the last vectors, next to the class name, start as the embedding of these words. The others start as N(0,
            0.02²), and so do all if there are no words.

    Raises:
        InputError: more words than vectors.
    """

    def __init__(self, backbone: Backbone, length: int, words: str) -> None:
        super().__init__()
        twin = backbone.clone(share_weights=True).requires_grad_(False)
        embedding = twin.text_tower.token_embedding
        self._frozen = (backbone, twin)  # in a tuple: no submodules, not in the state
        # Two texts that differ in their one word agree in what stands before it: the start token, where there is one.
        one, other = backbone.tokenize(["cat", "dog"])
        self.first = int((one != other).nonzero()[0])
        self._padding = int(backbone.tokenize([""])[0, -1])
        start = SPREAD * torch.randn(length, embedding.weight.shape[1])
        known = self._words(backbone, words) if words.strip() else one[:0]
        if len(known) > length:
            raise InputError(f"context_words are {len(known)} tokens, but context={length}; raise it or shorten them.")
        with torch.no_grad():
            start[length - len(known) :] = embedding(known).cpu().float()
        self.vectors = nn.Parameter(start)
        embedding.register_forward_hook(self._put)

    def tokens(self, class_names: Sequence[str]) -> Tensor:
        """Token ids (C, context) of `NAME.` with room for the vectors in front.

        Raises:
            InputError: a class name that does not fit beside them.
        """
        backbone, length = self._frozen[0], len(self.vectors)
        plain = backbone.tokenize([f"{name}." for name in class_names])
        if bool((plain[:, -length:] != self._padding).any()):
            longest = max(class_names, key=len)
            raise InputError(
                f"'{longest}' leaves no room for context={length} among the {plain.shape[1]} tokens that backbone "
                f"'{backbone.name}' reads; lower context or shorten the class name."
            )
        room = plain[:, self.first, None].expand(-1, length)  # any ordinary token: the vectors take its place
        return torch.cat([plain[:, : self.first], room, plain[:, self.first : -length]], dim=1)

    def encode(self, tokens: Tensor) -> Tensor:
        """What `tokens` gave (P, context) → un-normalized text features (P, D)."""
        backbone, twin = self._frozen
        if not reads_beginnings_once(backbone):
            return twin.encode_text(tokens)
        start = backbone.text_tower.token_embedding(tokens[0, : self.first])
        return encode_after(backbone, torch.cat([start, self.vectors]), tokens)

    def _words(self, backbone: Backbone, words: str) -> Tensor:
        """Token ids of words, without what stands before and after every text."""
        tokens, empty = backbone.tokenize([words, ""])
        length = int((tokens != self._padding).sum() - (empty != self._padding).sum())
        plain: Tensor = tokens[self.first : self.first + length]
        return plain

    def _put(self, module: nn.Module, inputs: tuple[Tensor, ...], embedded: Tensor) -> Tensor:
        vectors = self.vectors.to(embedded.dtype).expand(len(embedded), -1, -1)
        end = self.first + len(self.vectors)
        return torch.cat([embedded[:, : self.first], vectors, embedded[:, end:]], dim=1)


def reads_beginnings_once(backbone: Backbone) -> bool:
    """Whether `encode_after` fits the text tower: causal, and built of open_clip's plain blocks."""
    return backbone.text_can_be_cut and all(type(block) is ResidualAttentionBlock for block in backbone.text_blocks)


def encode_alike(backbone: Backbone, tokens: Tensor) -> Tensor:
    """`encode_text` of prompts (P, context) that begin alike, as those of one template do; the beginning is found here.

    Falls back to `encode_text` where the tower does not fit, or where less is saved than reading in two parts costs.
    """
    if not reads_beginnings_once(backbone):
        return backbone.encode_text(tokens)
    alike = (tokens == tokens[0]).all(dim=0).cumprod(0).sum()
    lengths = backbone.eot_position(tokens) + 1
    first, shortest, longest, read = torch.stack([alike, lengths.min() - 1, lengths.max(), lengths.sum()]).tolist()
    first = min(first, shortest)  # what stands at the end is pooled, so it is each prompt's own
    if len(tokens) * (longest + first) - read < WORTHWHILE:
        return backbone.encode_text(tokens)
    return encode_after(backbone, backbone.text_tower.token_embedding(tokens[0, :first]), tokens)


def encode_after(backbone: Backbone, beginning: Tensor, tokens: Tensor) -> Tensor:
    """`encode_text` of prompts that all begin with the same L vectors.

    Under a causal mask nothing reaches the beginning that comes after it: its keys and values are computed once and
    serve every prompt. Nor does anything reach the pooled token from behind it: only the tokens up to there are read,
    of short prompts fewer than of long ones. Exact; where names are short, most of the cost is gone.

    Args:
        backbone: one that `reads_beginnings_once`.
        beginning: in place of the embeddings of the first L tokens (L, W).
        tokens: token ids (P, context), of which the first L are not looked at.

    Returns:
        Un-normalized text features (P, D), float32.
    """
    text, first = backbone.text_tower, len(beginning)
    end = backbone.eot_position(tokens) - first
    length = first + int(end.max()) + 1
    prompt, place = (torch.arange(length - first, device=end.device) <= end[:, None]).nonzero(as_tuple=True)
    with backbone.autocast():
        start = (beginning + text.positional_embedding[:first])[None]
        x = text.token_embedding(tokens[prompt, first + place]) + text.positional_embedding[first + place]
        read = (len(tokens), length - first, prompt * (length - first) + place)
        for block in backbone.text_blocks:
            start, x = _both(block, start, x, read, text.attn_mask[:length, :length])
        last = (end + 1).cumsum(0) - 1
        return backbone.pooled_text(x[last, None], torch.zeros_like(end))


def _both(
    block: ResidualAttentionBlock, start: Tensor, x: Tensor, read: tuple[int, int, Tensor], mask: Tensor
) -> tuple[Tensor, Tensor]:
    """A block on the beginning and on what follows it.

    Args:
        block: a plain block of a causal text tower.
        start: the beginning (1, L, W).
        x: the tokens read of all prompts, one after the other (N, W).
        read: P and T, and which of the P·T places behind the beginning the N tokens stand at. Attention alone needs the
            others, which hold zeros and which no token looks at.
        mask: the tower's (L + T, L + T), added to the attention scores.
    """
    attention, first = block.attn, start.shape[1]
    prompts, length, where = read

    def projected(part: Tensor) -> Tensor:
        return F.linear(block.ln_1(part), attention.in_proj_weight, attention.in_proj_bias)

    def by_head(mixed: Tensor) -> list[Tensor]:
        return [each.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for each in mixed.chunk(3, dim=-1)]

    def attended(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed.to(query.dtype))
        return seen.transpose(1, 2).flatten(2)

    def finished(part: Tensor, seen: Tensor) -> Tensor:
        part = part + block.ls_1(attention.out_proj(seen))
        part = part + block.ls_2(block.mlp(block.ln_2(part)))
        return part

    query, key, value = by_head(projected(start))
    mixed = projected(x)
    placed = mixed.new_zeros(prompts * length, mixed.shape[-1]).index_copy(0, where, mixed)
    own_query, *own = by_head(placed.unflatten(0, (prompts, length)))
    keys, values = (
        torch.cat([a.expand(prompts, -1, -1, -1), b], dim=2) for a, b in zip((key, value), own, strict=True)
    )
    return (
        finished(start, attended(query, key, value, mask[:first, :first])),
        finished(x, attended(own_query, keys, values, mask[first:]).flatten(0, 1)[where]),
    )
