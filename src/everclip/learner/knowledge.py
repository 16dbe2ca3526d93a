"""What a learner knows: a method, a selector where the method has routes, and what each increment left behind.

Knowledge is never changed in place: `taught` and `without` return new knowledge, so a failure halfway leaves no trace.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.backbone.features import BATCH, FrozenFeatures
from everclip.data.identities import identities
from everclip.engine.answers import routed, shares
from everclip.engine.batches import TrainingSet, mix
from everclip.engine.material import Material
from everclip.engine.training import Trainer, accumulate
from everclip.errors import EverclipError, InputError
from everclip.functional.analytic import Statistics
from everclip.functional.ties import first_largest
from everclip.learner.config import LearnerConfig
from everclip.learner.lessons import Increment, Lesson
from everclip.learner.novelty import Familiarity, Known
from everclip.learner.questions import ZERO_SHOT, Question, question
from everclip.methods import ORIGINAL, Method, method_class
from everclip.selectors import Selector, selector_class
from everclip.streams import TaskInfo


class Knowledge:
    """A method, its selector, and the increments they have learned.

    Args:
        config: of the learner.
        features: frozen features of its backbone.

    Raises:
        InputError: settings under which the method, or the selector, can't work here.
    """

    def __init__(self, config: LearnerConfig, features: FrozenFeatures) -> None:
        self.config = config
        self.features = features
        self.increments: tuple[Increment, ...] = ()
        self.calibration: tuple[float, float] | None = None
        """Of `familiarity`, where these very increments were stored with it."""
        kind = method_class(config.setup.method)
        with torch.random.fork_rng():
            torch.manual_seed(config.setup.seed)
            self.method: Method = kind(features.backbone, config.settings, features).to(features.backbone.device).eval()
        if kind.routed and not self.method.routed:
            raise InputError(
                f"with these settings method '{kind.name}' has one answer for all tasks and can't take one back; leave "
                "shared_router=false."
            )
        self.selector: Selector | None = None
        if config.routing is not None and config.selector_settings is not None:  # they come together
            if getattr(config.selector_settings, "features", "clip") != "clip":  # before it reads or downloads a model
                raise InputError("a learner decides by the CLIP's own embeddings; set features=clip.")
            self.selector = selector_class(config.routing.selector)(config.selector_settings)
            if self.selector.feature_digest:
                raise InputError("a learner decides by the CLIP's own embeddings; set features=clip.")

    def restored(
        self,
        increments: Sequence[Increment],
        sealed: list[dict[str, Tensor]],
        working: dict[str, Tensor],
        selector: dict[str, Tensor],
    ) -> Knowledge:
        """Knowledge of the same configuration with these increments and the tensors that `state` gave."""
        other = Knowledge(self.config, self.features)
        other.increments = tuple(increments)
        infos = [increment.info for increment in increments]
        other.method.load_state(infos, sealed, working)
        other.method.eval()
        if other.selector is not None:
            other.selector.load_state(infos, selector)
        return other

    def state(self) -> tuple[list[dict[str, Tensor]], dict[str, Tensor], dict[str, Tensor]]:
        """Tensors: what each increment fixed for good, what may still change, what the selector fitted."""
        sealed = [self.method.sealed_state(index) for index in range(len(self.method.tasks))]
        return sealed, self.method.working_state(), self.selector.state() if self.selector is not None else {}

    # -- learning and forgetting -----------------------------------------------------------------------------------

    def taught(self, lesson: Lesson, material: Material) -> Knowledge:
        """What is known after a lesson.

        Args:
            lesson: what to learn.
            material: decodes images for a method that is trained on augmented ones, and shows the progress.

        Raises:
            InputError: images that the method can't learn from.
            EverclipError: training failed.
        """
        grown = self.restored(self.increments, *self.state())
        method, info, kept = grown.method, lesson.info, lesson.kept
        labels = torch.from_numpy(lesson.labels)
        with torch.random.fork_rng():
            torch.manual_seed(mix(self.config.setup.seed, info.index))
            method.begin_task(info)
            if method.closed_form:
                known = torch.from_numpy(identities(lesson.views))
                accumulate(method, lesson.features[kept], labels[kept], known[kept])
                with _solvable():
                    method.solve()
            elif self.config.training is not None:
                images = material.decoded(lesson.source.select(kept), f"{lesson.task}: training images")
                training = TrainingSet(info, images)
                seed, workers = self.config.setup.seed, material.workers
                trainer = Trainer(method, [training], self.config.training, seed, 1 + info.index, workers)
                with material.display.training(f"learning {lesson.task}", trainer.total) as advance:
                    trainer.run(on_progress=advance)
            method.end_task()
        method.eval()
        sample = lesson.sample
        if grown.selector is not None:
            # What is held out calibrates the selector: training images fit better than new ones will.
            held_out = torch.from_numpy(sample.embeddings) if len(sample) else None
            grown.selector.fit(info, lesson.features[kept], labels[kept], held_out)
        grown.increments = (*self.increments, Increment(info, lesson.task, len(labels), sample, lesson.statistics, {}))
        accuracy = grown._accuracy(lesson)
        grown.increments = (*self.increments, replace(grown.increments[-1], accuracy=accuracy))
        return grown

    def without(self, task: str) -> Knowledge:
        """What is known once a task is forgotten, as far as the method can (`Method.forgets`)."""
        if all(increment.task == task for increment in self.increments):
            return Knowledge(self.config, self.features)
        trimmed = self.restored(self.increments, *self.state())
        with _solvable():
            for index in reversed(range(len(self.increments))):
                if self.increments[index].task == task:
                    trimmed.method.drop(index)
                    if trimmed.selector is not None:
                        trimmed.selector.drop(index)
        left = [increment for increment in self.increments if increment.task != task]
        renumbered = [
            replace(
                increment,
                info=replace(increment.info, index=index),
                accuracy={name: value for name, value in increment.accuracy.items() if name != task},
            )
            for index, increment in enumerate(left)
        ]
        return self.restored(renumbered, *trimmed.state())

    # -- answering -------------------------------------------------------------------------------------------------

    def question(self, labels: Sequence[str], only: bool = False, closed: bool = False) -> Question:
        """What images are scored against; see `questions.question`.

        Raises:
            InputError: nothing is learned, and no label is given.
        """
        asked = question(self.increments, labels, only, closed)
        if not asked.tasks:
            raise InputError("nothing is learned yet, so there is nothing to answer with; learn a task or give labels.")
        return asked

    @torch.no_grad()
    def posterior(self, asked: Question, features: Tensor, views: Tensor | None) -> Tensor:
        """p(c|x) over the candidates, by the rule of `answers`.

        Args:
            asked: what the images are scored against.
            features: frozen features of images (B, D), un-normalized, on the CPU.
            views: the images themselves (B, 3, S, S) uint8; needed unless `answers_from_features`.

        Returns:
            (B, candidates), and of an open question one more column at the end: none of them. Rows sum to 1.
        """
        p = self._among_candidates(asked, features, views)
        if not torch.compiler.is_exporting() and not bool(torch.isfinite(p).all()):
            raise EverclipError(
                f"what method '{self.method.name}' learned gives no probability here, its numbers overflow; "
                "put the learner back from a copy or learn anew."
            )
        if not asked.open:
            return p
        known = self.familiarity.probability(F.normalize(features, dim=-1)).to(p.dtype)[:, None]
        return torch.cat([known * p, 1 - known], dim=1)

    def _among_candidates(self, asked: Question, features: Tensor, views: Tensor | None) -> Tensor:
        method, classes = self.method, asked.classes
        scale = method.backbone.logit_scale.cpu()
        embeddings = F.normalize(features, dim=-1)
        original = scale * embeddings @ self.class_embeddings(asked, ORIGINAL if method.routed else 0).T
        candidates = {"all": asked.candidates}
        if self.selector is None:
            return method.posterior(embeddings, original, lambda: original, classes.keys, candidates)["all"]
        own = self._texts(0, asked.asked)

        def logits(images: Tensor, tasks: Tensor) -> Tensor:
            assert views is not None
            return scale * classes.cosines(self._on_routes(views[images], tasks), own, tasks)

        members = classes.members[: len(self.increments)]
        share = shares(self._route_probabilities(features))
        return routed(candidates, members, share, original, logits, told=False)["all"]

    def _on_routes(self, views: Tensor, tasks: Tensor) -> Tensor:
        """Normalized embeddings (R, D) of views (R, 3, S, S), each on the route of its own task (R,)."""
        method = self.method
        if torch.compiler.is_exporting():  # how many there will be is not known
            return method.embed_each(method.backbone.pixels(views), tasks)
        parts = zip(views.split(BATCH), tasks.split(BATCH), strict=True)
        z = [method.embed_each(method.backbone.pixels(part), routes).cpu() for part, routes in parts if len(part)]
        return torch.cat([torch.empty(0, method.backbone.embed_dim), *z])

    def answering(self, features: Tensor) -> list[str]:
        """Which task answers for images (B, D) when all learned classes are candidates, by frozen features alone."""
        if self.selector is not None:
            names = [*(increment.task for increment in self.increments), ZERO_SHOT]
            return [names[route] for route in first_largest(self._route_probabilities(features)).tolist()]
        asked = question(self.increments, closed=True)
        return [asked.tasks[column] for column in first_largest(self.posterior(asked, features, None)).tolist()]

    @cached_property
    def familiarity(self) -> Familiarity:
        """How to tell an image of a learned kind, of whatever task, from others."""
        tasks: dict[str, list[Increment]] = {}
        for increment in self.increments:
            tasks.setdefault(increment.task, []).append(increment)
        return Familiarity([_known(increments) for increments in tasks.values()], self.calibration)

    @cached_property
    def answers_from_features(self) -> bool:
        """Whether frozen features are all that an answer needs: no route has an image tower of its own."""
        routes = range(len(self.increments)) if self.method.routed else (0,)
        return all(self.method.route_key(route) == "original" for route in routes)

    def _route_probabilities(self, features: Tensor) -> Tensor:
        """p(t|x) (B, T + 1) of features (B, D)."""
        assert self.selector is not None
        return self.selector.probabilities(features, features.shape[0], None).cpu()

    def _texts(self, route: int, asked: TaskInfo | None) -> list[Tensor]:
        """Class embeddings (C_t, D) of every increment, and of labels that were never learned."""
        learned = self._learned_texts if route != ORIGINAL else self._original_texts
        return [*learned, self.method.classifier(asked, route).float().cpu()] if asked else learned

    @cached_property
    def _learned_texts(self) -> list[Tensor]:
        return [self.method.classifier(increment.info, 0).float().cpu() for increment in self.increments]

    @cached_property
    def _original_texts(self) -> list[Tensor]:
        return [self.method.classifier(increment.info, ORIGINAL).float().cpu() for increment in self.increments]

    def class_embeddings(self, asked: Question, route: int) -> Tensor:
        """The classes of a question (C, D): the learned ones on their own task's route, or all by the original CLIP."""
        return asked.classes.bank(self._texts(route, asked.asked))

    # -- what it remembers -----------------------------------------------------------------------------------------

    def _accuracy(self, lesson: Lesson) -> dict[str, float | None]:
        """Percent right on what was held out of each task, all learned classes being candidates; see `Increment`."""
        asked = question(self.increments, closed=True)
        right: dict[str, list[bool]] = {increment.task: [] for increment in self.increments}
        for increment in self.increments:
            newest = increment.info is lesson.info
            if len(increment.held_out) and (newest or self.answers_from_features):
                views = torch.from_numpy(lesson.views[lesson.held_out]) if newest else None
                answer = first_largest(self.posterior(asked, torch.from_numpy(increment.held_out.embeddings), views))
                truth = asked.classes.columns[increment.info.index][torch.from_numpy(increment.held_out.labels)]
                right[increment.task] += (answer == truth).tolist()
        return {task: 100 * sum(hits) / len(hits) if hits else None for task, hits in right.items()}


@contextlib.contextmanager
def _solvable() -> Iterator[None]:
    """What was learned before may come from a file, and numbers of a file may have no solution."""
    try:
        yield
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # public, but not in its __all__
        raise EverclipError(
            "what was learned before determines no solution, so it is not what was learned; put the learner back from "
            "a copy or learn anew."
        ) from error


def _known(increments: Sequence[Increment]) -> Known:
    """What is known of a task, from all its increments."""
    parts = [increment.statistics for increment in increments]
    statistics = Statistics(
        torch.stack([part.gram for part in parts]).sum(dim=0),
        torch.cat([part.sums for part in parts]),
        torch.cat([part.counts for part in parts]),
    )
    held_out = [torch.from_numpy(increment.held_out.embeddings) for increment in increments]
    return Known(statistics, F.normalize(torch.cat(held_out), dim=-1))
