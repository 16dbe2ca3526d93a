"""Prompt tuning: learned context vectors before the class name, with parameter retention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures
from everclip.backbone.prompts import encode_classes
from everclip.layers.context import PromptContext
from everclip.methods.joint import joint_keys
from everclip.methods.method import ORIGINAL
from everclip.methods.retained import Retained, RetainedConfig
from everclip.streams.stream import TaskInfo


class PromptTuningConfig(RetainedConfig):
    """Settings of prompt tuning."""

    context: int = Field(16, ge=1, description="learned vectors before the class name")
    context_words: str = Field(
        "a photo of a", description="words that the last of them start from; the others start at random"
    )


class PromptTuning(Retained):
    """Context vectors shared by all classes learned; the image side stays the original CLIP.

    Classes that are not learned keep the original CLIP's prompts.
    """

    name = "prompt-tuning"
    summary = "learned context vectors before the class name, with parameter retention and replay"
    paper = "after Liu et al. 2023, arXiv 2310.20348 (a reconstruction); context vectors as Zhou et al. 2022"
    Config = PromptTuningConfig
    defaults: ClassVar[dict[str, Any]] = Retained.defaults | {"lr": 1e-2}

    adapter: PromptContext

    def __init__(self, backbone: Backbone, config: PromptTuningConfig, features: FrozenFeatures | None = None) -> None:
        super().__init__(backbone, config, features)
        self.adapter = PromptContext(backbone, config.context, config.context_words)

    def check_stream(self, tasks: Sequence[TaskInfo], images: Sequence[int]) -> None:
        """Class names must fit beside the context too."""
        super().check_stream(tasks, images)
        for task in tasks:
            self.adapter.tokens(task.class_names)

    def begin_texts(self) -> None:
        """Token ids of all classes."""
        names: dict[tuple[int, int], str] = {}
        for task in self.tasks:
            for key, name in zip(task.keys, task.class_names, strict=True):
                names.setdefault(key, name)
        self._tokens = self.adapter.tokens(list(names.values()))

    def text_side(self) -> Tensor:
        """Text features of all classes under the learned context (C, D)."""
        return self.adapter.encode(self._tokens)

    def image_side(self, inputs: Tensor) -> Tensor:
        """Embeddings (B, D) as they are."""
        return inputs

    def embed(self, pixels: Tensor, route: int) -> Tensor:
        """The frozen embeddings (B, D), normalized, on every route."""
        return F.normalize(pixels, dim=-1)

    def classifier(self, task: TaskInfo, route: int) -> Tensor:
        """Class embeddings (C, D): learned classes under the learned context, others as the original CLIP has them."""
        original = super().classifier(task, route)
        learned = set(joint_keys(self.tasks))
        known = torch.tensor([key in learned for key in task.keys], device=original.device)
        if route == ORIGINAL or not known.any():
            return original
        tokens = self.adapter.tokens(task.class_names)
        return torch.where(known[:, None], encode_classes(self.adapter.encode, tokens[:, None]), original)
