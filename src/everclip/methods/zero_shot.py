"""The original CLIP, untouched: the level that continual learning must not fall below."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from everclip.methods.method import Method
from everclip.storage.tensors import require
from everclip.streams.stream import TaskInfo


class ZeroShot(Method):
    """Learns nothing; answers as the pretrained CLIP does."""

    name = "zero-shot"
    summary = "the original CLIP, never trained"
    paper = "Radford et al. 2021, arXiv 2103.00020"
    trains = False
    reads: ClassVar[frozenset[str]] = frozenset({"images", "embeddings"})
    promises = frozenset({"zero_shot_kept", "finished_tasks_constant", "order_free"})
    forgets = "exactly"

    def check_state(self, tasks: list[TaskInfo], sealed: list[dict[str, Tensor]], working: dict[str, Tensor]) -> None:
        """Nothing is kept."""
        for number, part in enumerate(sealed):
            require(number, part, {})
        require("working", working, {})

    def drop(self, index: int) -> None:
        """There is nothing to forget but the name."""
        del self.tasks[index]
