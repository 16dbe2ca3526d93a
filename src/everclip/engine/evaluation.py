"""From a learner and test images to correct or wrong, for every candidate set in one pass.

Candidates are classes, each once (`TaskInfo.keys`). `engine/answers.py` turns what the routes say into p(c|x). A method
that answers for all tasks alike has one route and no selector, and says p(c|x) itself (`Method.posterior`: the softmax
over all candidates, unless it has a joint classifier). An image is embedded once for each route it takes, and not again
as long as that route stays the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.data import LabeledEmbeddings, ViewedImages, plain_name
from everclip.engine.answers import Classes, routed, shares
from everclip.functional.ties import first_largest
from everclip.methods import ORIGINAL, Method
from everclip.selectors import Selector
from everclip.storage.faults import fault_point
from everclip.streams import CANDIDATES, Protocol, TaskInfo
from everclip.system.processes import by_main

VOTE_BATCH = 128
"""Images per vote under batch routing (the published code's test batch)."""

Texts = tuple[Tensor, list[Tensor]]
"""Class embeddings: every class once, as the first task that has it says it (C, D), and every task's own."""


@dataclass(frozen=True)
class TestSet:
    """A task's test images: what evaluation looks at."""

    __test__ = False  # not a test class, whatever its name says to pytest

    info: TaskInfo
    data: ViewedImages | LabeledEmbeddings


@dataclass(frozen=True)
class Outcome:
    """Answers on one test set of N images.

    Attributes:
        correct: per candidate set (N,) bool; right means the right class of the right task (`TaskInfo.keys`).
        by_name: the same, but a class of another task with the right name counts as right.
        routes: (T + 1,) int64, images per learned task by largest p(t|x), zero-shot last; None without routes.
    """

    correct: dict[str, np.ndarray]
    by_name: dict[str, np.ndarray]
    routes: np.ndarray | None


class Evaluator:
    """Judges a method on all test sets of a stream.

    Args:
        tests: the test sets, stream order; their classes together are the candidate set `all`.
        method: the learner.
        selector: used where the method has routes.
        protocol: decides routing.
    """

    def __init__(self, tests: list[TestSet], method: Method, selector: Selector, protocol: Protocol) -> None:
        self.tests = tests
        self.method = method
        self.selector = selector
        self.protocol = protocol
        self._classes = Classes([test.info for test in tests])
        numbers: dict[str, int] = {}
        called = [numbers.setdefault(plain_name(name), len(numbers)) for name in self._classes.names]
        self._name_of = torch.tensor(called)
        self._embeddings: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def row(self, learned: int, advance: Callable[[int], None] = lambda images: None) -> list[Outcome]:
        """Judge the current state on every test set.

        Args:
            learned: how many tasks of the stream are learned; decides the candidate set `seen`.
            advance: told the number of images after each test set.
        """
        self.method.eval()
        routes = range(learned) if self.method.routed else (0,)
        current = {self.method.route_key(route) for route in routes}
        self._embeddings = {key: value for key, value in self._embeddings.items() if key[1] in current}
        texts: dict[int, Texts] = {}
        outcomes = []
        for index, test in enumerate(self.tests):
            fault_point("evaluate test set")
            outcomes.append(self._judge(index, test, learned, texts))
            advance(len(test.data.labels))
        return outcomes

    def _judge(self, index: int, test: TestSet, learned: int, texts: dict[int, Texts]) -> Outcome:
        candidates = self._candidates(index, learned)
        routes = None
        if self.method.routed:
            answers, routes = self._routed(index, test, candidates, texts)
        else:
            rows = np.arange(len(test.data.labels))
            embeddings, logits = self._logits(index, test, 0, rows, texts)

            def original() -> Tensor:
                return self._logits(index, test, ORIGINAL, rows, texts)[1]

            answers = self.method.posterior(embeddings, logits, original, self._classes.keys, candidates)
        truth = self._classes.columns[index][torch.from_numpy(np.asarray(test.data.labels))]
        correct, by_name = {}, {}
        for name, columns in candidates.items():
            answer = torch.tensor(columns)[first_largest(answers[name])]
            correct[name] = (answer == truth).numpy()
            by_name[name] = (self._name_of[answer] == self._name_of[truth]).numpy()
        return Outcome(correct, by_name, routes)

    def _routed(
        self, index: int, test: TestSet, candidates: dict[str, list[int]], texts: dict[int, Texts]
    ) -> tuple[dict[str, Tensor], np.ndarray]:
        """p(c|x) over each candidate set, (N, candidates), and images per route."""
        count = len(test.data.labels)
        p = self._probabilities(index, test, count)
        chosen = torch.bincount(first_largest(p), minlength=p.shape[1]).numpy()
        learned = [task.index for task in self.selector.tasks]
        _, original = self._logits(index, test, ORIGINAL, np.arange(count), texts)

        def logits(images: Tensor, tasks: Tensor) -> Tensor:
            on_route = original.new_empty(len(images), original.shape[1])
            for column in tasks.unique().tolist():
                own = tasks == column
                on_route[own] = self._logits(index, test, learned[column], images[own].numpy(), texts)[1]
            return on_route

        told = self.selector.upper_bound
        return routed(candidates, self._classes.members[learned], shares(p), original, logits, told), chosen

    def _logits(
        self, index: int, test: TestSet, route: int, rows: np.ndarray, texts: dict[int, Texts]
    ) -> tuple[Tensor, Tensor]:
        """Embeddings (B, D) of some images of a test set on a route, and their logits over all classes (B, C)."""
        # A class is encoded with its own task's text side on every route but the one to the original CLIP.
        side = ORIGINAL if route == ORIGINAL else 0
        if side not in texts:
            texts[side] = self._texts(route)
        bank, own = texts[side]
        if self.method.routed and route != ORIGINAL:
            bank = self._classes.on_route(bank, own, route)
        embeddings = self._embed(index, test, route, rows)
        return embeddings, self.method.backbone.logit_scale.cpu() * embeddings @ bank.T

    def _texts(self, route: int) -> Texts:
        own = [self.method.classifier(test.info, route).float().cpu() for test in self.tests]
        return self._classes.bank(own), own

    def _probabilities(self, index: int, test: TestSet, count: int) -> Tensor:
        """p(t|x) (count, T + 1) as the protocol wants it: image by image, or one decision per batch."""
        selector = self.selector
        features = selector.read(test.data, self.method.features) if selector.reads_features else None
        # Processes that share out the images of a route must agree to the last bit on which they are.
        if self.protocol.routing == "batch":
            return by_main(lambda: selector.batch_probabilities(features, count, index, VOTE_BATCH).cpu())
        return by_main(lambda: selector.probabilities(features, count, index).cpu())

    def _candidates(self, index: int, learned: int) -> dict[str, list[int]]:
        own = self._classes.members[index]
        masks = {"task": own, "seen": own | self._classes.members[:learned].any(dim=0), "all": torch.ones_like(own)}
        return {name: masks[name].nonzero().flatten().tolist() for name in CANDIDATES}

    def _embed(self, index: int, test: TestSet, route: int, rows: np.ndarray) -> Tensor:
        """Normalized embeddings of some images of a test set under a route, each computed once per `route_key`."""
        key = self.method.route_key(route)
        if key == "original":
            return F.normalize(self.method.features.images(test.data)[rows], dim=-1)
        if (index, key) not in self._embeddings:
            count = len(test.data.labels)
            width = self.method.backbone.embed_dim
            self._embeddings[index, key] = (torch.zeros(count, width), torch.zeros(count, dtype=torch.bool))
        embeddings, done = self._embeddings[index, key]
        missing = rows[~done[rows].numpy()]
        if len(missing):
            embeddings[missing] = self.method.embed_all(test.data, route, missing)
            done[missing] = True
        return embeddings[rows]
