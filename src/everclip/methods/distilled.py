"""Methods that distill: on reference images, the model in training is held to what a teacher says.

What a teacher says of a fixed set of images and texts is a constant, so it is computed only once: when a task begins,
or, if the teacher is the pretrained CLIP, once for all (cached on disk). No second model is kept, and a step pays for
the student alone.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from everclip.backbone.features import embed_images
from everclip.backbone.prompts import class_tokens, encode_texts, random_sentences
from everclip.data import ViewedImages
from everclip.functional.distillation import distillation
from everclip.methods.full_model import FullModel
from everclip.methods.method import Batch, PromptedConfig
from everclip.streams.stream import TaskInfo
from everclip.system.processes import by_main, gathered, share

Teacher = Literal["pretrained", "previous"]


class DistilledConfig(PromptedConfig):
    """Settings of methods that distill."""

    kd_temperature: float = Field(2.0, gt=0, allow_inf_nan=False, description="temperature T of the distillation")
    kd_image_weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="weight of L_img: each reference image over all reference texts"
    )
    kd_text_weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="weight of L_txt: each reference text over the images of a step"
    )
    distill_text: bool = Field(
        False,
        description="L_txt with the text features of the model in training, on as many texts per step as images; the "
        "published loss takes the teacher's text features on both sides and never reaches the text tower",
    )


class Distilled(FullModel):
    """Base of methods that distill.

    With reference images x and texts t, teacher (f0, g0) and student f: R0 = s f̄0(x) ḡ0(t)ᵀ, R = s f̄(x) ḡ0(t)ᵀ and
    L_img = KD(R0, R), L_txt = KD(R0ᵀ, Rᵀ). Subclasses say which images, which texts and which teacher.
    """

    config: DistilledConfig
    needs_start = True

    def reference_images(self, task: TaskInfo) -> ViewedImages | None:
        """Images to distill on while a task trains; None where there are none."""
        raise NotImplementedError

    def reference_tokens(self, task: TaskInfo) -> Tensor:
        """Token ids (P, context) of the texts that the teacher compares them with."""
        raise NotImplementedError

    @property
    def teacher(self) -> Teacher:
        """Who is imitated: the pretrained CLIP, or the model as it was when the task began."""
        return "previous"

    def begin_task(self, task: TaskInfo) -> None:
        """Write down what the teacher says."""
        super().begin_task(task)
        self.reference = self.reference_images(task)
        if self.reference is None:
            return
        self._tokens = self.reference_tokens(task)
        if self.teacher == "pretrained":
            images, texts = self.features.images(self.reference), self.features.texts(self._tokens)
        else:
            self.student.eval()  # the student is still what it was at the end of the last task
            images = embed_images(self.reference, self.student.encode_image, self.backbone)
            texts = encode_texts(self.student.encode_text, self._tokens)
        self._taught_images = F.normalize(images, dim=-1)  # (N, D), on the host: only a step's rows are needed
        self._taught_texts = F.normalize(texts, dim=-1).to(self.student.device)  # (P, D)

    def end_task(self) -> None:
        """The reference of this task is over."""
        super().end_task()
        self.reference = None

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The distillation in both directions, where there are reference images, beside what is inherited."""
        terms = super().terms(batch)
        if batch.reference is None:
            return terms
        config, scale = self.config, self.student.logit_scale
        # A text is compared with all images of the step: processes encode their share of them and see the others'.
        images = gathered(F.normalize(self.student.encode_image(batch.reference.images), dim=-1))
        taught_images = self._taught_images[gathered(batch.reference.rows)].to(images.device)
        taught = scale * taught_images @ self._taught_texts.T
        said = scale * images @ self._taught_texts.T
        terms["kd_image"] = config.kd_image_weight * distillation(taught, said, config.kd_temperature)
        if config.distill_text:
            # All texts at every step would cost far more than the rest; some of them estimate the mean over all.
            some = by_main(lambda: torch.randint(len(self._tokens), (len(images),)))
            own = self._tokens[some[share(len(some))]]
            texts = gathered(F.normalize(self.student.encode_text(own), dim=-1))
            taught, said = taught[:, some], scale * images @ texts.T
        terms["kd_text"] = config.kd_text_weight * distillation(taught.T, said.T, config.kd_temperature)
        return terms


def prompts_of(method: FullModel, *tasks: TaskInfo) -> Tensor:
    """Token ids (C, context) of all classes of some tasks under each task's first template."""
    return torch.cat([class_tokens(method.backbone, t.class_names, t.templates[:1])[:, 0] for t in tasks])


class LwF(Distilled):
    """Learning without forgetting: the task's own images and class prompts are to be answered as before the task."""

    name = "lwf"
    summary = "distills on the task's own images and class prompts from the model before the task"
    paper = "Li and Hoiem 2016, arXiv 1606.09282; as baseline of ZSCL, arXiv 2303.06628"
    Config = DistilledConfig

    def reference_images(self, task: TaskInfo) -> ViewedImages:
        """The task's training images under the evaluation view."""
        return self.sources.views({task: None})

    def reference_tokens(self, task: TaskInfo) -> Tensor:
        """The task's class prompts."""
        return prompts_of(self, task)


class LwFVRConfig(DistilledConfig):
    """Settings of LwF-VR."""

    random_texts: int = Field(1000, ge=1, description="sentences of 10 random tokens, drawn anew for each task")


class LwFVR(LwF):
    """LwF with a replayed vocabulary: random sentences take the place of the class prompts."""

    name = "lwf-vr"
    summary = "distills on the task's own images and random sentences from the model before the task"
    paper = "Ding et al. 2022, arXiv 2207.09248; as baseline of ZSCL, arXiv 2303.06628"
    Config = LwFVRConfig
    config: LwFVRConfig

    def reference_tokens(self, task: TaskInfo) -> Tensor:
        """Random sentences."""
        return random_sentences(self.backbone, self.config.random_texts)
