"""Class names and templates → prompts → text features → a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.backbone.clip import Backbone


def fill(class_names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """All prompts, class by class: C·K strings for C classes and K templates with one `{}` each."""
    return [template.replace("{}", name) for name in class_names for template in templates]


def class_tokens(backbone: Backbone, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Token ids (C, K, context) of every class under every template."""
    tokens = backbone.tokenize(fill(class_names, templates))
    return tokens.view(len(class_names), len(templates), -1)


def ensemble(features: Tensor) -> Tensor:
    """Text features (C, K, D) → classifier (C, D): mean of the normalized features, normalized."""
    return F.normalize(F.normalize(features, dim=-1).mean(dim=1), dim=-1)


@torch.no_grad()
def encode_classes(encode: Callable[[Tensor], Tensor], tokens: Tensor, batch: int = 256) -> Tensor:
    """Classifier (C, D) of token ids (C, K, context) under a text encoder (P, context) → (P, D)."""
    classes, templates, context = tokens.shape
    features = encode_texts(encode, tokens.reshape(-1, context), batch)
    return ensemble(features.view(classes, templates, -1))


@torch.no_grad()
def encode_texts(encode: Callable[[Tensor], Tensor], tokens: Tensor, batch: int = 256) -> Tensor:
    """Text features (P, D) of token ids (P, context), in batches.

    Texts are encoded in order of length, so that a tower that cuts its context pays for few long texts only once.
    """
    order = (tokens != 0).sum(dim=1).argsort(stable=True)
    return torch.cat([encode(tokens[rows]) for rows in order.split(batch)])[order.argsort()]


def random_sentences(
    backbone: Backbone, count: int, words: int = 10, generator: torch.Generator | None = None
) -> Tensor:
    """Sentences of random tokens: texts that belong to no task (the reference texts of LwF-VR).

    Args:
        backbone: whose vocabulary they are drawn from, without the tokens that mark begin, end and padding.
        count: P, how many.
        words: tokens of each; fewer where the context has no room for them.
        generator: of the draw; torch's own by default.

    Returns:
        Token ids (P, context) on the model's device.
    """
    empty, word = backbone.tokenizer(["", "a"])
    begin = int((empty != word).nonzero()[0])  # where the text goes: behind the mark of the begin, if there is one
    frame = empty.unique()
    vocabulary = torch.arange(backbone.text_tower.token_embedding.num_embeddings)
    vocabulary = vocabulary[~torch.isin(vocabulary, frame)]
    words = min(words, len(empty) - begin - 1)
    drawn = vocabulary[torch.randint(len(vocabulary), (count, words), generator=generator)]
    around = empty.expand(count, -1)
    return torch.cat([around[:, :begin], drawn, around[:, begin : len(empty) - words]], dim=1).to(backbone.device)
