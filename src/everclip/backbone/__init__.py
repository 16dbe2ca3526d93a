"""One CLIP for every method: towers, tokens, prompts, frozen features."""

from __future__ import annotations

from everclip.backbone.clip import Backbone, Precision, resolve_device

__all__ = ["Backbone", "Precision", "resolve_device"]
