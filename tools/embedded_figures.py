"""What an embedded CLIP is measured by: zero-shot on drawings and photographs, and what learning reaches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from rich.table import Table
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from embedded_mixture import held_back
from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures, embed_images
from everclip.backbone.prompts import class_tokens, encode_classes
from everclip.data import ViewedImages, viewed
from everclip.data.drawn import DOMAINS, Domain, DrawnImages
from everclip.data.names import DEFAULT_TEMPLATES

TEST, TAUGHT = 20, 10
"""Images per drawn class that zero-shot is tested on, and that the linear discriminants learn from."""

CHOOSE, REPORT = 0, 1
"""The halves of `PhotoValidation`."""


@dataclass(frozen=True)
class DomainFigures:
    """Accuracies in percent on one drawn domain; the candidates are all its classes. None: there is no such class.

    Attributes:
        domain: its name.
        chance: of guessing.
        given: zero-shot of the model that training started from, on all classes.
        zero_shot: the trained model's, on all classes; `trained` and `held_back` are those that it saw and did not.
        learned: of linear discriminants on the trained model's features of `TAUGHT` images per class.
    """

    domain: str
    chance: float
    given: float
    zero_shot: float
    trained: float | None
    held_back: float | None
    learned: float


def measure(given: Backbone, trained: Backbone) -> list[DomainFigures]:
    """Measure both models on every drawn domain, on the drawings of a stream with seed 0."""
    return [_measure(domain, FrozenFeatures(given), FrozenFeatures(trained)) for domain in DOMAINS.values()]


def _measure(domain: Domain, given: FrozenFeatures, trained: FrozenFeatures) -> DomainFigures:
    view = trained.backbone.view
    test = viewed(DrawnImages(domain, TEST, "test", seed=0, size=view.size), view)
    taught = viewed(DrawnImages(domain, TAUGHT, "train", seed=0, size=view.size), view)
    right = _zero_shot(trained, test, domain)
    unseen = np.isin(test.labels, sorted(held_back(domain)))
    discriminants = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    discriminants.fit(_normalized(trained, taught), taught.labels)
    return DomainFigures(
        domain=domain.name,
        chance=100 / len(domain.class_names),
        given=_percent(_zero_shot(given, test, domain)),
        zero_shot=_percent(right),
        trained=_percent(right[~unseen]) if not unseen.all() else None,
        held_back=_percent(right[unseen]) if unseen.any() else None,
        learned=_percent(discriminants.predict(_normalized(trained, test)) == test.labels),
    )


def _zero_shot(features: FrozenFeatures, images: ViewedImages, domain: Domain) -> np.ndarray:
    """Right or wrong of every image, (N,) bool."""
    classifier = features.classes(domain.class_names, domain.templates).cpu()
    return (features.images(images) @ classifier.T).argmax(dim=1).numpy() == images.labels


def _normalized(features: FrozenFeatures, images: ViewedImages) -> np.ndarray:
    return F.normalize(features.images(images), dim=-1).numpy()


def _percent(right: np.ndarray) -> float:
    return 100 * float(right.mean())


class PhotoValidation:
    """Zero-shot on labeled photographs, in two halves: `CHOOSE` to choose by, `REPORT` to report.

    Args:
        images: N photographs.
        class_names: of their labels.
    """

    def __init__(self, images: ViewedImages, class_names: list[str]) -> None:
        self._images = images
        self._class_names = class_names

    def accuracy(self, backbone: Backbone, half: int) -> float:
        """Top-1 in percent on every other image, from image `half` on."""
        rows = np.arange(half, len(self._images), 2)
        features = embed_images(self._images, backbone.encode_image, backbone, rows)
        tokens = class_tokens(backbone, self._class_names, DEFAULT_TEMPLATES)
        classifier = encode_classes(backbone.encode_text, tokens).cpu()
        return _percent((features @ classifier.T).argmax(dim=1).numpy() == self._images.labels[rows])


def table(figures: list[DomainFigures]) -> Table:
    """The figures to print."""
    printed = Table(
        "domain", "chance", "given", "zero-shot", "trained on", "held back", "learned", title="drawn, top-1"
    )
    for row in figures:
        values = (row.chance, row.given, row.zero_shot, row.trained, row.held_back, row.learned)
        printed.add_row(row.domain, *("–" if value is None else f"{value:.1f}" for value in values))
    return printed
