"""Knowledge as JSON and tensors, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from everclip._version import __version__
from everclip.backbone import Backbone, resolve_device
from everclip.backbone.features import FrozenFeatures
from everclip.data import LabeledEmbeddings
from everclip.errors import EverclipError
from everclip.functional.analytic import Statistics, pack_symmetric, unpack_symmetric
from everclip.learner.card import card, summary
from everclip.learner.config import LearnerConfig
from everclip.learner.directory import LearnerDirectory, Stored
from everclip.learner.knowledge import Knowledge
from everclip.learner.lessons import Increment
from everclip.registry import refuse_places
from everclip.streams import TaskInfo

HELD_OUT, STATISTICS, METHOD = "held_out.", "statistics.", "method."
"""What the names of an increment's tensors begin with."""
CALIBRATION = "familiarity"
"""Two numbers that would cost a fit per task whenever a learner is loaded; optional, for they follow from the rest."""


def about(knowledge: Knowledge) -> dict[str, Any]:
    """All but the tensors: settings, digest of the backbone's weights, increments with their accuracies."""
    return {
        "everclip": __version__,
        "backbone_digest": knowledge.features.backbone.digest,
        "settings": knowledge.config.flat(),
        "increments": [
            {
                "task": increment.task,
                "name": increment.info.name,
                "class_names": list(increment.info.class_names),
                "known_as": [list(key) for key in increment.info.keys],
                "templates": list(increment.info.templates),
                "images": increment.images,
                "accuracy": increment.accuracy,
            }
            for increment in knowledge.increments
        ],
    }


def write(knowledge: Knowledge, directory: LearnerDirectory) -> None:
    """Save to a directory whose lock is held; see `LearnerDirectory.save`."""
    sealed, working, selector = knowledge.state()
    parts = {"working": working, "selector": selector}
    for index, (increment, tensors) in enumerate(zip(knowledge.increments, sealed, strict=True)):
        sample = increment.held_out
        parts[f"increment-{index}"] = {
            f"{HELD_OUT}embeddings": torch.from_numpy(sample.embeddings),
            f"{HELD_OUT}labels": torch.from_numpy(sample.labels),
            f"{STATISTICS}gram": pack_symmetric(increment.statistics.gram),
            f"{STATISTICS}sums": increment.statistics.sums,
            f"{STATISTICS}counts": increment.statistics.counts,
            **{f"{METHOD}{name}": tensor for name, tensor in tensors.items()},
        }
    kept = about(knowledge)
    if knowledge.increments and all(map(math.isfinite, knowledge.familiarity.calibration)):  # JSON knows no infinity
        kept[CALIBRATION] = list(knowledge.familiarity.calibration)
    directory.save(Stored(kept, parts), card(summary(kept)))


def read(directory: LearnerDirectory, backbone: str | None, device: str) -> Knowledge:
    """Load from a directory.

    Args:
        directory: needs no lock. Nothing in it is changed: the digest that an earlier version gave the backbone is
            accepted, and today's takes its place when the learner is saved the next time.
        backbone: where its weights are now; by default where they were.
        device: where the model goes.

    Raises:
        InputError: no learner there, or no such backbone or device.
        EverclipError: a file is damaged, missing or of another version, or the backbone has other weights.
    """
    kept = directory.load()
    refuse_places(kept.about["settings"], str(directory.path))
    config = LearnerConfig.of(kept.about["settings"] | ({"backbone": backbone} if backbone else {}))
    model = Backbone.load(config.setup.backbone, resolve_device(device), config.setup.precision)
    if not model.identity.is_called(kept.about["backbone_digest"]):
        raise EverclipError(
            f"{directory.path} was learned on other weights than backbone '{model.name}' has now (digest "
            f"{kept.about['backbone_digest']}, not {model.digest}); give the right ones as backbone, or "
            f"{directory.anew}."
        )
    increments, sealed = [], []
    for index, entry in enumerate(kept.about["increments"]):
        tensors = kept.parts[f"increment-{index}"]
        known_as = tuple((space, number) for space, number in entry["known_as"])
        info = TaskInfo(index, entry["name"], tuple(entry["class_names"]), tuple(entry["templates"]), known_as)
        sample = LabeledEmbeddings(tensors[f"{HELD_OUT}embeddings"].numpy(), tensors[f"{HELD_OUT}labels"].numpy())
        parts = _named(tensors, STATISTICS)
        statistics = Statistics(unpack_symmetric(parts["gram"]), parts["sums"], parts["counts"])
        increments.append(Increment(info, entry["task"], entry["images"], sample, statistics, entry["accuracy"]))
        sealed.append(_named(tensors, METHOD))
    blank = Knowledge(config, FrozenFeatures(model))
    known = blank.restored(increments, sealed, kept.parts.get("working", {}), kept.parts.get("selector", {}))
    if CALIBRATION in kept.about:
        slope, offset = kept.about[CALIBRATION]
        known.calibration = (slope, offset)
    return known


def _named(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
