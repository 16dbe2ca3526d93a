"""From a learner and test images to correct or wrong, for every candidate set in one pass.

For an image x, p(c|x) = Σ_t p(t|x) · softmax_t(c): the selector gives p(t|x) over the learned tasks and the original
CLIP. Candidates are classes of tasks, each once (`TaskInfo.keys`), and softmax_t runs over those of task t. What task t
learned says nothing of a candidate set that has none of its classes (a misrouted image scored against its own set
alone): there the original CLIP answers in its place, with a softmax over all candidates. A method with one answer for
all tasks has one route, no selector, and says p(c|x) itself (`Method.posterior`: the softmax over all candidates unless
it has a joint classifier).
An image is embedded once per distinct route it takes, and never again while that route stays the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.data import Images, LabeledEmbeddings
from everclip.faults import fault_point
from everclip.features import embed_images
from everclip.methods import ORIGINAL, Method
from everclip.selectors import Selector
from everclip.streams import CANDIDATES, Protocol, TaskInfo

VOTE_BATCH = 128
"""Images per vote under batch routing (the published code's test batch)."""
ROUTE_FLOOR = 0.01
"""Routes an image takes with less probability than this are not computed for it."""


@dataclass(frozen=True)
class TestSet:
    """A task's test images: what evaluation looks at."""

    __test__ = False  # not a test class, whatever its name says to pytest

    info: TaskInfo
    data: Images | LabeledEmbeddings


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
        named: dict[tuple[int, int], str] = {}
        for test in tests:
            for key, name in zip(test.info.keys, test.info.class_names, strict=True):
                named.setdefault(key, name.strip().casefold())
        self._classes = list(named)
        column = {key: number for number, key in enumerate(named)}
        self._columns = [torch.tensor([column[key] for key in test.info.keys]) for test in tests]
        self._members = torch.zeros(len(tests), len(named), dtype=torch.bool)
        for members, columns in zip(self._members, self._columns, strict=True):
            members[columns] = True
        numbers = {name: number for number, name in enumerate(dict.fromkeys(named.values()))}
        self._name_of = torch.tensor([numbers[name] for name in named.values()])
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
        texts: dict[int, list[Tensor]] = {}
        outcomes = []
        for index, test in enumerate(self.tests):
            fault_point("evaluate test set")
            outcomes.append(self._judge(index, test, learned, texts))
            advance(len(test.data.labels))
        return outcomes

    def _judge(self, index: int, test: TestSet, learned: int, texts: dict[int, list[Tensor]]) -> Outcome:
        count = len(test.data.labels)
        shares, routes = self._shares(index, test, count)
        masks = self._candidate_masks(index, learned)
        weights = {name: self._answering(shares, mask) for name, mask in masks.items()}
        scores = {name: torch.zeros(count, int(mask.sum())) for name, mask in masks.items()}
        for route in shares:
            taken = torch.stack([weight[route] for weight in weights.values()]).amax(dim=0)
            rows = (taken > 0).nonzero().flatten()
            if len(rows) == 0:
                continue
            # A class is encoded with its own task's text side on every route but the one to the original CLIP.
            side = ORIGINAL if route == ORIGINAL else 0
            if side not in texts:
                texts[side] = [self.method.classifier(t.info, route).float().cpu() for t in self.tests]
            embeddings = self._embed(index, test, route, rows)
            logits = self.method.backbone.logit_scale.cpu() * embeddings @ self._bank(texts[side], route).T
            if self.method.routed:
                answering = [name for name in masks if bool(weights[name][route].any())]
                answers = {name: self._softmax(logits, route, masks[name]) for name in answering}
            else:
                answers = self.method.posterior(embeddings, logits, self._classes, masks)
            for name, answer in answers.items():
                scores[name][rows] += weights[name][route][rows, None] * answer
        truth = self._columns[index][torch.from_numpy(np.asarray(test.data.labels))]
        correct, by_name = {}, {}
        for name, mask in masks.items():
            answer = mask.nonzero().flatten()[scores[name].argmax(dim=1)]
            correct[name] = (answer == truth).numpy()
            by_name[name] = (self._name_of[answer] == self._name_of[truth]).numpy()
        return Outcome(correct, by_name, routes)

    def _bank(self, texts: list[Tensor], route: int) -> Tensor:
        """Every class once (C, D): as the task of the route says it, else as the first task that has it."""
        bank = texts[0].new_empty(len(self._classes), texts[0].shape[1])
        own = [route] if self.method.routed and route != ORIGINAL else []
        for task in [*reversed(range(len(texts))), *own]:
            bank[self._columns[task]] = texts[task]
        return bank

    def _answering(self, shares: dict[int, Tensor], candidates: Tensor) -> dict[int, Tensor]:
        """Each route's weight in the answer: a task without a candidate leaves its share to the original CLIP."""
        if not self.method.routed:
            return shares
        silent = {t for t in shares if t != ORIGINAL and not bool((candidates & self._members[t]).any())}
        answering = {t: torch.zeros_like(share) if t in silent else share for t, share in shares.items()}
        answering[ORIGINAL] = answering[ORIGINAL] + sum(shares[t] for t in silent)
        return answering

    def _softmax(self, logits: Tensor, route: int, candidates: Tensor) -> Tensor:
        """softmax_t of the candidates: logits of all classes (B, all) → (B, candidates), rows sum to 1."""
        scored = candidates if route == ORIGINAL else candidates & self._members[route]
        return logits.masked_fill(~scored, float("-inf")).softmax(dim=1)[:, candidates]

    def _shares(self, index: int, test: TestSet, count: int) -> tuple[dict[int, Tensor], np.ndarray | None]:
        """p(t|x) as route → (count,), with what is below the floor dropped, and the table of chosen routes."""
        if not self.method.routed:
            return {0: torch.ones(count)}, None
        selector = self.selector
        features = selector.read(test.data, self.method.features) if selector.reads_features else None
        if self.protocol.routing == "batch":
            p = selector.batch_probabilities(features, count, index, VOTE_BATCH).cpu()
        else:
            p = selector.probabilities(features, count, index).cpu()
        chosen = torch.bincount(p.argmax(dim=1), minlength=p.shape[1]).numpy()
        p = torch.where(p < p.amax(dim=1, keepdim=True).clamp(max=ROUTE_FLOOR), 0.0, p)
        p = p / p.sum(dim=1, keepdim=True)
        columns = [*(task.index for task in self.selector.tasks), ORIGINAL]
        return {route: p[:, column] for column, route in enumerate(columns)}, chosen

    def _candidate_masks(self, index: int, learned: int) -> dict[str, Tensor]:
        own = self._members[index]
        masks = {"task": own, "seen": own | self._members[:learned].any(dim=0), "all": torch.ones_like(own)}
        return {name: masks[name] for name in CANDIDATES}

    def _embed(self, index: int, test: TestSet, route: int, rows: Tensor) -> Tensor:
        """Normalized embeddings of some images of a test set under a route, each computed once per `route_key`."""
        key = self.method.route_key(route)
        if key == "original":
            return F.normalize(self.method.features.images(test.data)[rows], dim=-1)
        if (index, key) not in self._embeddings:
            count = len(test.data.labels)
            width = self.method.backbone.embed_dim
            self._embeddings[index, key] = (torch.zeros(count, width), torch.zeros(count, dtype=torch.bool))
        embeddings, done = self._embeddings[index, key]
        missing = rows[~done[rows]]
        if len(missing):
            encode = partial(self.method.embed, route=route)
            embeddings[missing] = embed_images(test.data, encode, self.method.backbone, missing.numpy())
            done[missing] = True
        return embeddings[rows]
