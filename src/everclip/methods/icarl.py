"""iCaRL on CLIP: on exemplars of earlier classes, the model is held to what it said before the task.

Rebuffi et al., CVPR 2017, arXiv 1611.07725, as a baseline of ZSCL: all classes together have a fixed number of
exemplars, chosen by herding. Exemplars are not copies of images but rows of a task's training split, so the files must
stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures, embed_images
from everclip.data import ViewedImages
from everclip.errors import InputError
from everclip.functional.herding import herd, quota
from everclip.methods.distilled import Distilled, DistilledConfig, Teacher, prompts_of
from everclip.storage.tensors import Wanted
from everclip.streams.stream import TaskInfo

MEMORY = "memory."
"""What the names of the exemplars begin with in the state."""


class ICaRLConfig(DistilledConfig):
    """Settings of iCaRL."""

    exemplars: int = Field(10_000, ge=1, description="images kept of all classes of all tasks together")
    teacher: Teacher = Field(
        "previous",
        description="who is imitated on them: the model before the task, on the classes the exemplars are of; or the "
        "pretrained CLIP, on the classes of the current task, as published code does",
    )


class ICaRL(Distilled):
    """Finetuning with distillation on exemplars of the earlier tasks; the first task is plain finetuning.

    Attributes:
        memory: per finished task its exemplars (n, 2), int64: row in the training split, and class. They are sorted by
            class, and each class is in the order of herding, so that a smaller memory is the beginning of a larger one.
    """

    name = "icarl"
    summary = "keeps exemplars of earlier tasks and distills on them from the model before the task"
    paper = "Rebuffi et al. 2017, arXiv 1611.07725; as baseline of ZSCL, arXiv 2303.06628"
    Config = ICaRLConfig
    config: ICaRLConfig

    def __init__(self, backbone: Backbone, config: ICaRLConfig, features: FrozenFeatures | None = None) -> None:
        super().__init__(backbone, config, features)
        self.memory: list[Tensor] = []

    @property
    def teacher(self) -> Teacher:
        """As configured."""
        return self.config.teacher

    def reference_images(self, task: TaskInfo) -> ViewedImages | None:
        """The exemplars; the first task has none."""
        if not self.memory:
            return None
        return self.sources.views({t: m[:, 0].tolist() for t, m in zip(self.tasks, self.memory, strict=False)})

    def reference_tokens(self, task: TaskInfo) -> Tensor:
        """Class prompts of the earlier tasks for the previous model, of the current task for the pretrained CLIP."""
        return prompts_of(self, *(self.tasks[:-1] if self.teacher == "previous" else [task]))

    def check_stream(self, tasks: Sequence[TaskInfo], images: Sequence[int]) -> None:
        """Every class needs an exemplar."""
        super().check_stream(tasks, images)
        self._check_room(tasks)

    def _check_room(self, tasks: Sequence[TaskInfo]) -> None:
        classes = sum(len(task.class_names) for task in tasks)
        if classes > self.config.exemplars:
            raise InputError(
                f"exemplars={self.config.exemplars} leaves none for each of the {classes} classes up to task "
                f"'{tasks[-1].name}'; set exemplars={10 * classes}, say."
            )

    def begin_task(self, task: TaskInfo) -> None:
        """Write down what the teacher says of the exemplars.

        Raises:
            InputError: after this task there would be more classes than exemplars.
        """
        self._check_room([*self.tasks, task])
        super().begin_task(task)

    @torch.no_grad()
    def end_task(self) -> None:
        """Choose this task's exemplars by the features of the model it ends with; keep fewer of the earlier ones."""
        super().end_task()
        task = self.tasks[-1]
        share = quota(self.config.exemplars, sum(len(each.class_names) for each in self.tasks))
        views = self.sources.views({task: None})
        self.student.eval()
        features = embed_images(views, self.student.encode_image, self.backbone)
        rows, labels = torch.from_numpy(views.positions), torch.from_numpy(views.labels)
        chosen = []
        for label in labels.unique():
            of_class = (labels == label).nonzero().flatten()
            chosen.append(of_class[herd(features[of_class], share)])
        kept = torch.cat(chosen)
        self.memory = [*(first_of_each_class(m, share) for m in self.memory), torch.stack([rows, labels], 1)[kept]]

    def working_state(self) -> dict[str, Tensor]:
        """The student and the exemplars, which become fewer with every task."""
        exemplars = {f"{MEMORY}{index}": rows for index, rows in enumerate(self.memory)}
        return {**super().working_state(), **exemplars}

    def beside(self, working: Mapping[str, Tensor]) -> dict[str, Wanted]:
        """Exemplars of each finished task: rows and classes."""
        kept = sum(name.startswith(MEMORY) for name in working)
        return {f"{MEMORY}{index}": Wanted(torch.int64, (f"n{index}", 2), low=0) for index in range(kept)}

    def load_state(self, tasks: list[TaskInfo], sealed: list[dict[str, Tensor]], working: dict[str, Tensor]) -> None:
        """Restore the student and the exemplars."""
        student = {name: value for name, value in working.items() if not name.startswith(MEMORY)}
        super().load_state(tasks, sealed, student)
        self.memory = [working[f"{MEMORY}{index}"] for index in range(len(working) - len(student))]


def first_of_each_class(exemplars: Tensor, count: int) -> Tensor:
    """The first `count` exemplars of each class, of (n, 2) rows and classes sorted by class."""
    labels = exemplars[:, 1].contiguous()
    place = torch.arange(len(labels)) - torch.searchsorted(labels, labels)
    return exemplars[place < count]
