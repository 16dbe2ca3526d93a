"""A learner's answers as one graph in the ONNX format: pixels in, probabilities out.

What is traced is the very code that answers (`Knowledge.posterior`), with experts, routes and novelty, so there is no
second set of formulas. Before the file gets its name, onnxruntime runs it and its answers are compared with that code.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everclip._version import __version__
from everclip.backbone.clip import Backbone, quiet_libraries
from everclip.backbone.features import FrozenFeatures
from everclip.data import view_pixels
from everclip.data.drawn import DOMAINS, DrawnImages
from everclip.errors import EverclipError, InputError
from everclip.learner.knowledge import Knowledge
from everclip.learner.questions import Question
from everclip.learner.reports import ExportReport
from everclip.methods import ORIGINAL
from everclip.methods.method import as_cpu

TOLERANCE = 1e-4
"""Largest difference of a probability, or of a number of an embedding, between graph and library."""
LARGEST = 2_000_000_000
"""Bytes of weights that fit in one file: the format's own messages end at 2 GiB. Larger ones get a file beside it."""
OUTPUTS = ("probabilities", "embeddings", "class_embeddings")


class Answers(nn.Module):
    """What a learner says of images, to one question.

    Args:
        knowledge: of the learner.
        asked: the question.
    """

    class_embeddings: Tensor

    def __init__(self, knowledge: Knowledge, asked: Question) -> None:
        super().__init__()
        self.backbone = knowledge.features.backbone
        self.method = knowledge.method
        self._of = (knowledge, asked)
        self.register_buffer("class_embeddings", knowledge.class_embeddings(asked, ORIGINAL)[asked.candidates])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Answer one batch.

        Args:
            images: what the image tower sees (B, 3, S, S), uint8.

        Returns:
            p(c|x) (B, K) of the candidates, of an open question with one more column: nothing that was learned; the
            original CLIP's normalized embeddings (B, D); and its embeddings of the candidates (K, D).
        """
        knowledge, asked = self._of
        features = self.backbone.encode_image(self.backbone.pixels(images))
        return knowledge.posterior(asked, features, images), F.normalize(features, dim=-1), self.class_embeddings


def export(knowledge: Knowledge, asked: Question, path: Path, views: np.ndarray) -> ExportReport:
    """Write the graph that answers a question, in float32.

    Args:
        knowledge: of the learner.
        asked: the question.
        path: of the file. A file that is there is replaced as soon as the new one is found to answer alike.
        views: images (N, 3, S, S) uint8 to compare on, beside a few that are drawn here.

    Raises:
        InputError: no such folder, a name that does not end in .onnx, or onnxruntime is not installed.
        EverclipError: the model can't be exported, or its graph answers otherwise.
    """
    if path.suffix != ".onnx":
        raise InputError(f"{path} does not end in .onnx; name the file so, for readers of the format go by it.")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}; make it first.")
    try:
        import onnx_ir
        import onnxruntime
        import onnxscript  # noqa: F401, torch's exporter is written in it
    except ModuleNotFoundError as error:
        raise InputError(
            f"export needs {error.name}, which is not installed; get it by pip install 'everclip[export]'."
        ) from error
    answers = Answers(on_cpu(knowledge), asked).eval()
    images = torch.from_numpy(np.concatenate([views, drawn_views(answers.backbone)]))
    expected = _said(answers, images)  # before the trace: what is a constant is computed here, and kept
    program = _traced(answers, images[-3:])
    labels = [(asked.classes.names[c], asked.tasks[c]) for c in asked.candidates]
    program.model.metadata_props.update(_described(knowledge, labels, asked.open))
    with _replacing(path) as (graph, data):
        weights = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
        onnx_ir.save(program.model, graph, external_data=data.name if weights > LARGEST else None)
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        difference = 0.0
        for part, said in ((images, expected), (images[:1], [expected[0][:1], expected[1][:1], expected[2]])):
            for got, wanted in zip(session.run(OUTPUTS, {"images": part.numpy()}), said, strict=True):
                difference = max(difference, float(np.abs(got - wanted.numpy()).max(initial=0.0)))
        if not difference <= TOLERANCE:
            raise EverclipError(
                f"onnxruntime answers otherwise than the learner, by {difference:.2g}; nothing was written. Please "
                "report this with the versions of torch, onnxscript and onnxruntime."
            )
        size = sum(file.stat().st_size for file in (graph, data) if file.exists())
    return ExportReport(str(path), size, labels, asked.open, len(images), difference)


def on_cpu(knowledge: Knowledge) -> Knowledge:
    """The same knowledge on the CPU in float32, with a backbone of its own."""
    backbone = knowledge.features.backbone
    model = Backbone(backbone.clone().model, backbone.tokenizer, backbone.name).to("cpu").requires_grad_(False).eval()
    sealed, working, selector = knowledge.state()
    fresh = Knowledge(knowledge.config, FrozenFeatures(model))
    return fresh.restored(knowledge.increments, [as_cpu(part) for part in sealed], as_cpu(working), as_cpu(selector))


def drawn_views(backbone: Backbone) -> np.ndarray:
    """Four drawings (4, 3, S, S) uint8, so that there is always something to compare on."""
    drawings = (DrawnImages(DOMAINS[name], 1, "test", seed=0) for name in ("aerial", "faces", "shapes", "textures"))
    return np.stack([view_pixels(each.decode(0), backbone.view) for each in drawings])


@torch.no_grad()
def _said(answers: Answers, images: Tensor) -> list[Tensor]:
    return list(answers(images))


@torch.no_grad()
def _traced(answers: Answers, images: Tensor) -> Any:
    """The graph of any number of images, as torch's `ONNXProgram`."""
    from onnx_ir.passes.common import DeduplicateInitializersPass

    try:
        with warnings.catch_warnings(), quiet_libraries():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                answers,
                (images,),
                dynamo=True,
                input_names=["images"],
                output_names=OUTPUTS,
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                verbose=False,
            )
            # A tower with experts has the same weights as the one without.
            DeduplicateInitializersPass(size_limit=LARGEST)(program.model)
            return program
    except Exception as error:  # the tracer raises whatever an architecture that it does not know makes of it
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise EverclipError(
            f"backbone '{answers.backbone.name}' can't be exported by torch {torch.__version__} ({reason}…); a newer "
            "torch and onnxscript may do better."
        ) from error


def _described(knowledge: Knowledge, labels: list[tuple[str, str]], open_question: bool) -> dict[str, str]:
    """What a reader needs besides the graph, as its metadata."""
    backbone = knowledge.features.backbone
    view = backbone.view
    columns: list[dict[str, str | None]] = [{"label": label, "task": task} for label, task in labels]
    if open_question:
        columns.append({"label": None, "task": None})
    about = {
        "version": __version__,
        "method": knowledge.method.name,
        "backbone": backbone.name,
        "columns": columns,
        "preprocessing": {
            "size": view.size,
            "resize_mode": view.resize_mode,
            "interpolation": view.interpolation,
            "fill_color": view.fill_color,
            "layout": "uint8 RGB (B, 3, size, size); normalization is in the graph",
        },
        "logit_scale": float(backbone.logit_scale),
    }
    return {f"everclip.{name}": v if isinstance(v, str) else json.dumps(v) for name, v in about.items()}


@contextmanager
def _replacing(path: Path) -> Iterator[tuple[Path, Path]]:
    """Paths for a graph and, if it needs one, its weights; at the end the graph takes the place of what is at `path`.

    A graph names its file of weights, so each gets one of its own: whatever graph is there finds the right one.
    """
    mark = uuid4().hex[:8]
    graph, data = path.with_name(f".{path.name}.{mark}.tmp"), path.with_name(f"{path.name}.{mark}.data")
    try:
        yield graph, data
        graph.replace(path)
    except BaseException:
        graph.unlink(missing_ok=True)
        data.unlink(missing_ok=True)
        raise
    for other in path.parent.glob(f"{path.name}.????????.data"):
        if other != data:
            other.unlink(missing_ok=True)
