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
from everclip.errors import EverclipError, InputError
from everclip.functional.analytic import Statistics, pack_symmetric, unpack_symmetric
from everclip.learner.card import card, summary
from everclip.learner.config import LearnerConfig
from everclip.learner.directory import LearnerDirectory, Stored
from everclip.learner.knowledge import Knowledge
from everclip.learner.lessons import Increment
from everclip.methods.analytic import statistics_wanted
from everclip.registry import refuse_places
from everclip.storage.reading import shown
from everclip.storage.tensors import MisfitError, Wanted, misfits, require
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
    config = settings(kept, backbone, directory)
    model = Backbone.load(config.setup.backbone, resolve_device(device), config.setup.precision)
    if not model.identity.is_called(kept.about["backbone_digest"]):
        raise EverclipError(
            f"{directory.path} was learned on other weights than backbone '{model.name}' has now (digest "
            f"{kept.about['backbone_digest']}, not {model.digest}); give the right ones as backbone, or "
            f"{directory.anew}."
        )
    return restored(kept, config, FrozenFeatures(model), directory)


def restored(kept: Stored, config: LearnerConfig, features: FrozenFeatures, directory: LearnerDirectory) -> Knowledge:
    """What a directory holds as knowledge, every tensor held against what it is read for.

    Args:
        kept: what `directory` holds.
        config: its settings.
        features: of the backbone that it was learned on.
        directory: for messages.

    Raises:
        InputError: settings under which the method, or the selector, can't work here.
        EverclipError: a tensor is missing or not what it must be.
    """
    working, selector = kept.parts.get("working", {}), kept.parts.get("selector", {})
    blank = Knowledge(config, features)
    increments: list[Increment] = []
    sealed = []
    try:
        for index, entry in enumerate(kept.about["increments"]):
            parts = _divided(index, kept.parts[f"increment-{index}"])
            increments.append(_increment(index, entry, parts, features.backbone.embed_dim))
            sealed.append(parts[METHOD])
        infos = [increment.info for increment in increments]
        blank.method.check_state(infos, sealed, working)
        if blank.selector is not None:
            blank.selector.check_state(infos, selector, features.backbone.embed_dim)
        else:
            require("selector", selector, {})
        with misfits("working"):
            known = blank.restored(increments, sealed, working, selector)
    except MisfitError as error:
        part = f"increment-{error.part}" if isinstance(error.part, int) else error.part
        name = kept.about["files"].get(part, {"name": directory.state})["name"]
        what = f"method '{config.setup.method}'"
        if part == "selector" and config.routing is not None:
            what = f"selector '{config.routing.selector}'"
        raise directory.unfit(name, what, error.reason) from error
    if (calibration := kept.about.get(CALIBRATION)) is not None:
        slope, offset = calibration
        known.calibration = (slope, offset)
    return known


def settings(kept: Stored, backbone: str | None, directory: LearnerDirectory) -> LearnerConfig:
    """The settings that a directory holds.

    Args:
        kept: what `directory` holds.
        backbone: where its weights are now; by default where they were.
        directory: for messages.

    Raises:
        InputError: one that is none, or names code; the message names the file.
    """
    refuse_places(kept.about["settings"], str(directory.path))
    try:
        return LearnerConfig.of(kept.about["settings"] | ({"backbone": backbone} if backbone else {}))
    except InputError as error:
        raise InputError(f"{directory.path / directory.state}: {error}") from error


def _increment(index: int, entry: Mapping[str, Any], parts: Mapping[str, dict[str, Tensor]], width: int) -> Increment:
    """An increment, its sample and its statistics held against what they must be.

    Raises:
        MisfitError: a tensor is missing or not what it must be.
    """
    classes = len(entry["class_names"])
    sample, own = parts[HELD_OUT], parts[STATISTICS]
    require(
        index,
        sample,
        {
            "embeddings": Wanted(torch.float32, ("n", width)),
            "labels": Wanted(torch.int64, ("n",), low=0, below=classes),
        },
    )
    require(index, own, statistics_wanted(classes, width))
    # Sums of unit vectors are no longer than there are vectors, and their squares add up to as many.
    images = int(own["counts"].sum())
    if not images or max(float(own[name].abs().max()) for name in ("gram", "sums")) > 1.001 * images:
        raise MisfitError(index, f"the statistics are not those of {images:,} images")
    known_as = tuple((space, number) for space, number in entry["known_as"])
    info = TaskInfo(index, entry["name"], tuple(entry["class_names"]), tuple(entry["templates"]), known_as)
    held_out = LabeledEmbeddings(sample["embeddings"].numpy(), sample["labels"].numpy())
    statistics = Statistics(unpack_symmetric(own["gram"]), own["sums"], own["counts"])
    return Increment(info, entry["task"], entry["images"], held_out, statistics, entry["accuracy"])


def _divided(index: int, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of an increment by what their names begin with.

    Raises:
        MisfitError: a name begins with none of these.
    """
    parts: dict[str, dict[str, Tensor]] = {HELD_OUT: {}, STATISTICS: {}, METHOD: {}}
    for name, tensor in tensors.items():
        start, point, rest = name.partition(".")
        if start + point not in parts:
            raise MisfitError(index, f"there is no place for tensor {shown(name)}")
        parts[start + point][rest] = tensor
    return parts
