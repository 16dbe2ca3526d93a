"""The practitioner's API: folders of photos arrive one at a time and may be deleted once they are learned.

    learner = Learner.create("embedded")
    learner.learn("birds", "photos/birds")
    learner.predict("new.jpg").label
    learner.save("model")

An answer is p(c|x) over all learned classes and any labels that are asked for, by the rule of `engine/answers.py`: a
label that nobody taught keeps the probability that the original CLIP gives it, and the learned classes share the rest.
Without such labels the answer may be None: an image that shows nothing learned (`learner/novelty.py`) is not forced
into a learned class.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from everclip.backbone import Backbone, Precision, resolve_device
from everclip.backbone.features import BATCH, FrozenFeatures
from everclip.data import (
    BadImage,
    Found,
    GivenImage,
    GivenImages,
    ImageSource,
    LabeledDataset,
    check_templates,
    plain_name,
    read,
    view_pixels,
    views,
)
from everclip.engine.material import Material
from everclip.errors import InputError
from everclip.functional.metrics import wilson_interval
from everclip.learner.card import summary
from everclip.learner.config import DEFAULT_METHOD, LearnerConfig
from everclip.learner.directory import LearnerDirectory
from everclip.learner.knowledge import Knowledge
from everclip.learner.lessons import lesson
from everclip.learner.questions import Asked, Question, checked_labels, checked_task_name, predictions
from everclip.learner.reports import Evaluation, ExportReport, ForgetReport, LearnedTask, LearnReport, Prediction
from everclip.learner.storing import about, write
from everclip.learner.storing import read as stored
from everclip.system.display import Display
from everclip.system.paths import expanded, temporary_folder

WORKERS = min(8, os.cpu_count() or 1)
"""Threads that decode images; no result depends on it."""

LearnableImages = str | Path | Sequence[tuple[GivenImage, str]] | LabeledDataset | Found
"""A folder, (image, class name) pairs, a data set in the manner of torchvision, or what `read` made of one."""


class Learner:
    """A CLIP model that learns task after task, answers without being told the task, and forgets on demand.

    Made by `create`, `load` or `from_pretrained`. One thread may answer while another one learns or forgets: until that
    is done, answers are those from before.
    """

    def __init__(self, knowledge: Knowledge, display: Display | None = None) -> None:
        self.display = display or Display(quiet=True)
        self._knowledge = knowledge
        self._backbone = knowledge.features.backbone
        self._material = Material(self._backbone.view, WORKERS, self.display)

    @classmethod
    def create(
        cls,
        backbone: str = "embedded",
        method: str = DEFAULT_METHOD,
        settings: Mapping[str, Any] | None = None,
        device: str = "auto",
        precision: Precision = "float32",
        display: Display | None = None,
    ) -> Learner:
        """A learner that has learned nothing yet.

        Args:
            backbone: `embedded`, any open_clip name with its weights (`ViT-B-16/openai`), or a folder.
            method: one that can forget: `rail`, `rail-dual`, `ranpac`, `lda`, `ncm`, `moe-adapters`, `zero-shot`.
            settings: of the method, its training, `selector` and the selector's; and `seed`.
            device: `auto`, `cpu`, `cuda`, …
            precision: `float32` or `bf16`.
            display: where progress is shown; nowhere by default.

        Raises:
            InputError: no such backbone, method, setting or device, or a method that can't be used here.
            EverclipError: the weights of the backbone can't be had.
        """
        values = {"backbone": backbone, "method": method, "precision": precision}
        if given_twice := sorted(values.keys() & (settings or {}).keys()):
            raise InputError(f"'{given_twice[0]}' is given by the settings and beside them; give it once.")
        config = LearnerConfig.of(values | dict(settings or {}))
        model = Backbone.load(backbone, resolve_device(device), config.setup.precision)
        return cls(Knowledge(config, FrozenFeatures(model)), display)

    @property
    def config(self) -> LearnerConfig:
        """Every setting."""
        return self._knowledge.config

    # -- learning --------------------------------------------------------------------------------------------------

    @property
    def tasks(self) -> list[LearnedTask]:
        """What it learned, in the order in which the tasks came."""
        known = summary(about(self._knowledge))["tasks"]
        return [LearnedTask(t["name"], tuple(t["classes"]), t["images"], t["increments"]) for t in known]

    @property
    def increments(self) -> list[dict[str, Any]]:
        """What `learner.json` says of each lesson that it keeps, in their order."""
        kept: list[dict[str, Any]] = about(self._knowledge)["increments"]
        return kept

    @contextlib.contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """A block after whose failure the learner knows what it knew before: it was changed and could not be saved."""
        before = self._knowledge
        try:
            yield
        except BaseException:
            self._knowledge = before
            raise

    def learn(
        self,
        name: str,
        images: LearnableImages,
        templates: Sequence[str] | None = None,
        *,
        max_megapixels: float | None = None,
    ) -> LearnReport:
        """Learn images of a task: a new task, or more images or classes of a known one.

        All or nothing: after an error the learner is what it was before. Once learned, the images are not needed any
        more. One image in ten is not learned from (`learner/lessons.py`): the embeddings of this sample stay with the
        learner, to see what later lessons do to the task, and to calibrate the selector of a method with routes.

        Args:
            name: of the task.
            images: a folder (if it is divided into train and test, its training part is learned), a list of (image,
                class name) pairs where an image is a path, a PIL image or an array (H, W, 3) uint8, or a data set in
                the manner of torchvision. Class names that differ only in case, spaces and underscores are one class.
            templates: prompts with one `{}` each; by default those of the folder's `dataset.json`, else the task's.
            max_megapixels: of one image, by default 100; a larger one is skipped (JPEGs may have four times as many).

        Raises:
            InputError: no usable image, or a name, class or template that can't be used.
            EverclipError: training failed.
        """
        start = time.perf_counter()
        name = checked_task_name(name)
        found = read(images)
        given = found.to_learn()
        _limit(given.source, max_megapixels)
        if templates is not None:
            check_templates(templates, f"task '{name}'")
        before = self._knowledge
        seed = self.config.setup.seed
        taught = lesson(before.increments, name, given, templates, before.features, self._material, seed)
        after = before.taught(taught, self._material)
        moved, watched = _moved(before, after)
        info = taught.info
        learned = {key for each in before.increments for key in each.info.keys}
        new = [class_name for key, class_name in zip(info.keys, info.class_names, strict=True) if key not in learned]
        self._knowledge = after
        return LearnReport(
            task=name,
            images=len(taught.labels),
            held_out=len(taught.held_out),
            skipped=[*found.broken, *taught.views.skipped],
            new_classes=tuple(new),
            known_classes=tuple(class_name for class_name in info.class_names if class_name not in new),
            moved=moved,
            watched=watched,
            accuracy=after.increments[-1].accuracy,
            seconds=time.perf_counter() - start,
            left_out=dict(found.left_out),
            said=found.said,
        )

    def forget(self, name: str) -> ForgetReport:
        """Forget a task, all its increments.

        For closed-form methods this is exact: the answers are those of a learner that never learned the task.
        `moe-adapters` loses the route and the classes of the task, so it never answers with them again. But what its
        experts learned from the task stays, because later tasks build on it; only learning anew without the task would
        take that back.

        Raises:
            InputError: there is no such task.
        """
        task = next((task for task in self.tasks if task.name in (name, name.strip())), None)
        if task is None:
            known = ", ".join(task.name for task in self.tasks) or "nothing"
            raise InputError(f"there is no task '{name}' to forget; learned so far: {known}.")
        exact = self._knowledge.method.forgets == "exactly" or len(self.tasks) == 1
        self._knowledge = self._knowledge.without(task.name)
        note = (
            "the answers are those of a learner that never learned it"
            if exact
            else "its route and its classes are gone, but the experts keep what they learned from it"
        )
        return ForgetReport(task.name, task.class_names, exact, note)

    # -- answering -------------------------------------------------------------------------------------------------

    def predict(
        self,
        images: GivenImage | Sequence[GivenImage],
        labels: Sequence[str] | None = None,
        *,
        only: bool = False,
        closed: bool = False,
        top_k: int = 5,
        max_megapixels: float | None = None,
    ) -> Prediction | list[Prediction]:
        """Say what is on an image, or on each image of a list.

        Args:
            images: a path, a PIL image, an array (H, W, 3) uint8, or a list of these.
            labels: what else it may be, in addition to all learned classes. A label that equals the name of a learned
                class, whatever its case, spaces and underscores, is that class; if several tasks have it, that of each.
            only: the answer is one of `labels`.
            closed: the answer is one of the candidates, even if no `labels` are given and the image shows nothing that
                was learned.
            top_k: how many candidates to name.
            max_megapixels: of one image; as for `learn`.

        Returns:
            One answer, or a list of them in the order of the images.

        Raises:
            InputError: an image that can't be used (`BadImage`), or nothing that the answer could be.
        """
        single = not isinstance(images, list | tuple)
        source = GivenImages(cast(list[GivenImage], [images] if single else images))
        _limit(source, max_megapixels)
        answers = []
        for answer in self._answers(source, self._question(labels, only, closed), top_k):
            if isinstance(answer, BadImage):
                raise answer
            answers.append(answer)
        return answers[0] if single else answers

    def predict_files(
        self,
        paths: Sequence[str | Path] | ImageSource,
        labels: Sequence[str] | None = None,
        *,
        only: bool = False,
        closed: bool = False,
        top_k: int = 5,
        max_megapixels: float | None = None,
    ) -> Iterator[tuple[str, Prediction | BadImage]]:
        """Say what is on each of many files, one after the other. For a bad file the answer says why; the others go on.

        Args:
            paths: the files, or the images of a source (`everclip.data.read_images`).
            labels, only, closed, top_k, max_megapixels: as for `predict`.

        Returns:
            (path or what else the image is called, answer) one after the other, in their order.

        Raises:
            InputError: nothing that the answer could be.
        """
        source = paths if isinstance(paths, ImageSource) else GivenImages(paths)
        _limit(source, max_megapixels)
        answers = self._answers(source, self._question(labels, only, closed), top_k)
        return zip(map(source.name, range(len(source))), answers, strict=True)

    def evaluate(self, images: LearnableImages, *, max_megapixels: float | None = None) -> Evaluation:
        """How well labeled images are answered. Candidates are all learned classes and those of the images.

        Args:
            images: as for `learn`; if a folder is divided into parts, its test part, else its validation part.
            max_megapixels: as for `learn`.

        Raises:
            InputError: no usable image.
        """
        found = read(images)
        given = found.to_judge()
        _limit(given.source, max_megapixels)
        asked = self._question(given.class_names, only=False, closed=True)
        right, skipped = {name: [0, 0] for name in given.class_names}, list(found.broken)
        with self.display.bar("evaluating") as bar:
            for position, answer in enumerate(self._answers(given.source, asked, top_k=1)):
                bar(position + 1, len(given.source))
                if isinstance(answer, BadImage):
                    skipped.append((answer.name, answer.reason))
                    continue
                truth = given.class_names[given.source.labels[position]]
                right[truth][0] += plain_name(str(answer.label)) == plain_name(truth)
                right[truth][1] += 1
        correct, count = (sum(counts) for counts in zip(*right.values(), strict=True))
        if not count:
            first = ": ".join(skipped[0])
            raise InputError(f"none of the {len(skipped)} images can be used (the first, {first}); repair them.")
        low, high = (100 * end for end in wilson_interval(correct, count))
        per_class = {name: (hits, total) for name, (hits, total) in right.items() if total}
        accuracy, left_out = 100 * correct / count, dict(found.left_out)
        return Evaluation(count, accuracy, (low, high), per_class, skipped, left_out, found.said)

    def _question(self, labels: Sequence[str] | None, only: bool, closed: bool) -> Question:
        return self._knowledge.question(checked_labels(labels, only), only, closed)

    def _answers(self, source: ImageSource, asked: Question, top_k: int) -> Iterator[Prediction | BadImage]:
        if top_k < 1:
            raise InputError(f"top_k is {top_k}, but it must be at least 1.")
        return self._streamed(source, asked, top_k)

    def _streamed(self, source: ImageSource, asked: Question, top_k: int) -> Iterator[Prediction | BadImage]:
        """In batches; nothing is kept on disk."""
        batch: list[np.ndarray | BadImage] = []
        for position, view in enumerate(views(source, self._backbone.view, WORKERS), 1):
            batch.append(view)
            if len(batch) == BATCH or position == len(source):
                good = [each for each in batch if not isinstance(each, BadImage)]
                answers = iter(self._predictions(torch.from_numpy(np.stack(good)), asked, top_k) if good else ())
                for each in batch:
                    yield each if isinstance(each, BadImage) else next(answers)
                batch = []

    def _predictions(self, views: Tensor, asked: Question, top_k: int) -> list[Prediction]:
        return predictions(self._knowledge.posterior(asked, self._features(views), views), asked, top_k)

    @property
    def side(self) -> int:
        """S, in pixels, of what `view` gives."""
        return self._backbone.view.size

    def view(self, image: Image.Image) -> np.ndarray:
        """What the image tower sees of an image (mode RGB): (3, S, S) uint8."""
        return view_pixels(image, self._backbone.view)

    def check(self, labels: Sequence[str] | None, *, only: bool = False, closed: bool = False, top_k: int = 5) -> None:
        """Refuse now what `predict` would refuse.

        Raises:
            InputError: as for `predict`, except what concerns the images.
        """
        self._answers(GivenImages([]), self._question(labels, only, closed), top_k)

    def answer_each(self, asked: Sequence[Asked]) -> list[Prediction | InputError]:
        """Answer several images in one forward pass, each with a question of its own.

        Returns:
            In their order, for each an answer, or what is wrong with the question.
        """
        knowledge = self._knowledge  # one and the same for all, whatever is learned meanwhile
        views = torch.from_numpy(np.stack([each.view for each in asked]))
        features = self._features(views)
        ways: dict[tuple[tuple[str, ...], bool, bool, int], list[int]] = {}
        for row, each in enumerate(asked):
            ways.setdefault((each.labels, each.only, each.closed, each.top_k), []).append(row)
        answers: dict[int, Prediction | InputError] = {}
        for (labels, only, closed, top_k), rows in ways.items():
            try:
                said = knowledge.question(checked_labels(labels, only), only, closed)
                p = knowledge.posterior(said, features[rows], views[rows])
                answers |= zip(rows, predictions(p, said, top_k), strict=True)
            except InputError as error:
                answers |= dict.fromkeys(rows, error)
        return [answers[row] for row in range(len(asked))]

    @torch.no_grad()
    def _features(self, views: Tensor) -> Tensor:
        """Frozen features (B, D) of views (B, 3, S, S) uint8."""
        return self._backbone.encode_image(self._backbone.pixels(views)).cpu()

    def export(
        self,
        path: str | Path,
        labels: Sequence[str] | None = None,
        *,
        only: bool = False,
        closed: bool = False,
        compare_on: Sequence[GivenImage] | ImageSource = (),
    ) -> ExportReport:
        """Write the answer to one question as an ONNX graph, for programs without Python or without EverCLIP.

        Input `images` (B, 3, S, S) uint8, resized and cropped as the metadata `everclip.preprocessing` says; output
        `probabilities` (B, K), whose columns the metadata `everclip.columns` names. `embeddings` (B, D) and
        `class_embeddings` (K, D) are the original CLIP's, for comparisons of your own.

        Args:
            path: of the file, which ends in .onnx; what is there is replaced.
            labels, only, closed: what is asked, as for `predict`.
            compare_on: images on which graph and learner must agree, in addition to a few drawings. Give images of the
                learned kinds: they take routes that drawings do not take.

        Raises:
            InputError: a question that makes no sense, a path or an image that can't be used, or onnxruntime missing.
            EverclipError: the model can't be exported, or its graph answers otherwise.
        """
        from everclip.learner.export import export  # only here: it needs packages that the rest does not

        asked = self._question(labels, only, closed)
        shown = []
        compared = compare_on if isinstance(compare_on, ImageSource) else GivenImages(compare_on)
        for view in views(compared, self._backbone.view, WORKERS):
            if isinstance(view, BadImage):
                raise view
            shown.append(view)
        side = self._backbone.view.size
        images = np.stack(shown) if shown else np.empty((0, 3, side, side), dtype=np.uint8)
        return export(self._knowledge, asked, expanded(path), images)

    # -- on disk and on the Hub ------------------------------------------------------------------------------------

    def save(self, path: str | Path, replace: bool = True) -> None:
        """Save to a directory: a kill at any moment leaves what was there or this learner, never half of it.

        Args:
            path: made if it is absent; a learner that it holds is replaced.
            replace: False refuses a directory that holds a learner.

        Raises:
            InputError: the directory holds something else, or can't be made.
            EverclipError: another process is writing there, or the disk is full.
        """
        directory = LearnerDirectory(path)
        directory.refuse_foreign_files()
        with directory:
            if directory.exists() and not replace:
                raise InputError(f"{directory.path} holds a learner already; load it, or {directory.elsewhere}.")
            self.save_in(directory)

    def save_in(self, directory: LearnerDirectory) -> None:
        """`save` to a directory whose lock the caller holds."""
        write(self._knowledge, directory)

    @classmethod
    def load(
        cls,
        path: str | Path,
        backbone: str | None = None,
        device: str = "auto",
        display: Display | None = None,
    ) -> Learner:
        """A saved learner; no training data is needed.

        Args:
            path: the directory.
            backbone: where to find the backbone's weights now, if not under the name that the learner was made with.
            device: `auto`, `cpu`, `cuda`, …
            display: where progress is shown; nowhere by default.

        Raises:
            InputError: no learner there, or no such backbone or device.
            EverclipError: a file is damaged, missing or of another version, or the backbone has other weights.
        """
        return cls(stored(LearnerDirectory(path), backbone, device), display)

    @classmethod
    @contextlib.contextmanager
    def edit(cls, path: str | Path, device: str = "auto", display: Display | None = None) -> Iterator[Learner]:
        """A saved learner to be changed: locked for others inside the block, and saved when it ends without an error.

        Raises:
            InputError: no learner there.
            EverclipError: as for `load` and `save`.
        """
        directory = LearnerDirectory(path)
        directory.require()
        with directory:
            learner = cls(stored(directory, None, device), display)
            yield learner
            learner.save_in(directory)

    def push_to_hub(self, repo_id: str, token: str | None = None) -> None:
        """Upload to a repository of the Hugging Face Hub, with its model card.

        Args:
            repo_id: `OWNER/NAME`; made if it is absent.
            token: of an account that may write there; by default the one that is logged in.

        Raises:
            EverclipError: the Hub refused, or can't be reached, or there is no room for temporary files.
        """
        from everclip.learner import hub  # the Hub's client loads slowly: only where it is needed

        folder = temporary_folder("everclip-upload-")
        try:
            self.save(folder)
            hub.upload(folder, repo_id, token)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @classmethod
    def from_pretrained(
        cls,
        repo_id_or_dir: str | Path,
        backbone: str | None = None,
        device: str = "auto",
        token: str | None = None,
        display: Display | None = None,
    ) -> Learner:
        """A learner from a repository of the Hugging Face Hub, or from a directory; see `load`.

        Args:
            repo_id_or_dir: `OWNER/NAME`, or a directory that is there.
            backbone, device, display: as for `load`.
            token: for a private repository.

        Raises:
            InputError, EverclipError: as for `load`, or the Hub has no such repository.
        """
        path = expanded(repo_id_or_dir)
        if not path.is_dir():
            from everclip.learner import hub

            path = hub.download(str(repo_id_or_dir), token)
        return cls.load(path, backbone, device, display)


def _limit(source: ImageSource, megapixels: float | None) -> None:
    if megapixels is None:
        return
    if not (math.isfinite(megapixels) and megapixels > 0):
        raise InputError(f"max_megapixels is {megapixels}, but it must be a number above 0.")
    source.most_pixels = round(megapixels * 1e6)


def _moved(before: Knowledge, after: Knowledge) -> tuple[int, int]:
    """How many held-out images of what was known before another task answers for now, and how many there are."""
    moved, watched = 0, 0
    for increment in before.increments:
        features = torch.from_numpy(increment.held_out.embeddings)
        if len(features):
            pairs = zip(before.answering(features), after.answering(features), strict=True)
            moved += sum(one != other for one, other in pairs)
            watched += len(features)
    return moved, watched
