"""From a learner and test images to correct or wrong, for every candidate set in one pass.

Candidates are classes, each once (`TaskInfo.keys`). The selector gives p(t|x) over the learned tasks and the original
CLIP, p_zs is the original CLIP's softmax over all candidates, softmax_t that of task t over its own. For an image x

    p(c|x) = p_zs(c|x)                                                    c not learned: CLIP's answer, exactly
    p(c|x) = m · Σ_t p(t|x) · softmax_t(c) + p(original|x) · p_zs(c|x)    c learned; m = Σ_{k learned} p_zs(k|x)

so what was learned decides among what was learned, and how much of the answer that is, CLIP decides: a selector knows
only tasks that somebody taught. Where no candidate is unlearned, m = 1; so it is for a selector that is told the task
and needs no doubt. A task that has no candidate (a misrouted image scored against its own set alone) has nothing to
say; its share goes to the original CLIP. A method with one answer for all tasks has one route, no selector, and says
p(c|x) itself (`Method.posterior`: the softmax over all candidates unless it has a joint classifier). An image is
embedded once per distinct route it takes, and never again while that route stays the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.data import Images, LabeledEmbeddings
from everclip.faults import fault_point
from everclip.methods import ORIGINAL, Method
from everclip.selectors import Selector
from everclip.streams import CANDIDATES, Protocol, TaskInfo

VOTE_BATCH = 128
"""Images per vote under batch routing (the published code's test batch)."""
ROUTE_FLOOR = 0.01
"""Routes an image takes with less probability than this are not computed for it."""

Texts = tuple[Tensor, list[Tensor]]
"""Class embeddings: every class once, as the first task that has it says it (C, D), and every task's own."""


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
        self._overlap = sum(map(len, self._columns)) > len(named)  # a class of several tasks
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
        texts: dict[int, Texts] = {}
        outcomes = []
        for index, test in enumerate(self.tests):
            fault_point("evaluate test set")
            outcomes.append(self._judge(index, test, learned, texts))
            advance(len(test.data.labels))
        return outcomes

    def _judge(self, index: int, test: TestSet, learned: int, texts: dict[int, Texts]) -> Outcome:
        masks = self._candidate_masks(index, learned)
        routes = None
        if self.method.routed:
            answers, routes = self._routed(index, test, masks, texts)
        else:
            embeddings, logits = self._logits(index, test, 0, np.arange(len(test.data.labels)), texts)
            answers = self.method.posterior(embeddings, logits, self._classes, masks)
        truth = self._columns[index][torch.from_numpy(np.asarray(test.data.labels))]
        correct, by_name = {}, {}
        for name, mask in masks.items():
            answer = mask.nonzero().flatten()[answers[name].argmax(dim=1)]
            correct[name] = (answer == truth).numpy()
            by_name[name] = (self._name_of[answer] == self._name_of[truth]).numpy()
        return Outcome(correct, by_name, routes)

    def _routed(
        self, index: int, test: TestSet, masks: dict[str, Tensor], texts: dict[int, Texts]
    ) -> tuple[dict[str, Tensor], np.ndarray]:
        """p(c|x) over each candidate set, (N, candidates), and images per route."""
        count = len(test.data.labels)
        shares, routes = self._shares(index, test, count)
        _, logits = self._logits(index, test, ORIGINAL, np.arange(count), texts)
        untouched = {name: logits[:, mask].softmax(dim=1) for name, mask in masks.items()}
        answers = {name: torch.zeros_like(p) for name, p in untouched.items()}
        learned = torch.zeros(len(self._classes), dtype=torch.bool)
        for route, share in shares.items():
            own = self._members[route]
            learned |= own
            answering = [name for name, mask in masks.items() if bool((mask & own).any())]
            rows = share.nonzero().flatten()
            if len(rows) == 0 or not answering:
                continue
            _, logits = self._logits(index, test, route, rows.numpy(), texts)
            for name in answering:
                p = logits.masked_fill(~(masks[name] & own), float("-inf")).softmax(dim=1)
                answers[name][rows] += share[rows, None] * p[:, masks[name]]
        for name, mask in masks.items():
            p, answer, known = untouched[name], answers[name], learned[mask]
            said = answer.sum(dim=1, keepdim=True)
            mass = 1.0 if self.selector.upper_bound else p[:, known].sum(dim=1, keepdim=True)
            mixed = mass * answer + (1 - said) * p
            answers[name] = mixed if self.selector.upper_bound else torch.where(known, mixed, p)
        return answers, routes

    def _logits(
        self, index: int, test: TestSet, route: int, rows: np.ndarray, texts: dict[int, Texts]
    ) -> tuple[Tensor, Tensor]:
        """Embeddings (B, D) of some images of a test set on a route, and their logits over all classes (B, C)."""
        # A class is encoded with its own task's text side on every route but the one to the original CLIP.
        side = ORIGINAL if route == ORIGINAL else 0
        if side not in texts:
            texts[side] = self._texts(route)
        bank, own = texts[side]
        if self._overlap and self.method.routed and route != ORIGINAL:
            bank = bank.clone()
            bank[self._columns[route]] = own[route]
        embeddings = self._embed(index, test, route, rows)
        return embeddings, self.method.backbone.logit_scale.cpu() * embeddings @ bank.T

    def _texts(self, route: int) -> Texts:
        own = [self.method.classifier(test.info, route).float().cpu() for test in self.tests]
        bank = own[0].new_empty(len(self._classes), own[0].shape[1])
        for columns, text in zip(reversed(self._columns), reversed(own), strict=True):
            bank[columns] = text
        return bank, own

    def _shares(self, index: int, test: TestSet, count: int) -> tuple[dict[int, Tensor], np.ndarray]:
        """p(t|x) as task → (count,), with what is below the floor dropped, and the table of chosen routes."""
        selector = self.selector
        features = selector.read(test.data, self.method.features) if selector.reads_features else None
        if self.protocol.routing == "batch":
            p = selector.batch_probabilities(features, count, index, VOTE_BATCH).cpu()
        else:
            p = selector.probabilities(features, count, index).cpu()
        chosen = torch.bincount(p.argmax(dim=1), minlength=p.shape[1]).numpy()
        p = torch.where(p < p.amax(dim=1, keepdim=True).clamp(max=ROUTE_FLOOR), 0.0, p)
        p = p / p.sum(dim=1, keepdim=True)
        return {task.index: p[:, column] for column, task in enumerate(selector.tasks)}, chosen

    def _candidate_masks(self, index: int, learned: int) -> dict[str, Tensor]:
        own = self._members[index]
        masks = {"task": own, "seen": own | self._members[:learned].any(dim=0), "all": torch.ones_like(own)}
        return {name: masks[name] for name in CANDIDATES}

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
