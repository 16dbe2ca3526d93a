"""Class names and templates → prompts → text features → a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.backbone import Backbone


def fill(class_names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """All prompts, class by class: C·K strings for C classes and K templates with one `{}` each."""
    return [template.replace("{}", name) for name in class_names for template in templates]


def class_tokens(backbone: Backbone, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Token ids (C, K, context) of every class under every template."""
    tokens = backbone.tokenize(fill(class_names, templates))
    return tokens.view(len(class_names), len(templates), -1)


def ensemble(features: Tensor) -> Tensor:
    """Text features (C, K, D) → classifier (C, D): mean of the normalized features, normalized (METHODS §5)."""
    return F.normalize(F.normalize(features, dim=-1).mean(dim=1), dim=-1)


@torch.no_grad()
def encode_classes(encode: Callable[[Tensor], Tensor], tokens: Tensor, batch: int = 256) -> Tensor:
    """Classifier (C, D) of token ids (C, K, context) under a text encoder (P, context) → (P, D).

    Prompts are encoded in order of length, so that a tower that cuts its context pays for few long prompts only once.
    """
    classes, templates, context = tokens.shape
    flat = tokens.reshape(-1, context)
    order = (flat != 0).sum(dim=1).argsort(stable=True)
    features = torch.cat([encode(flat[rows]) for rows in order.split(batch)])
    return ensemble(features[order.argsort()].view(classes, templates, -1))
