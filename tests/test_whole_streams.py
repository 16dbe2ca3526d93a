"""A whole published benchmark from start to end: every task of MTIL, on a ViT-B/16 with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from everclip.data.published import PUBLISHED, Published
from everclip.data.published.readers import Parts
from everclip.data.source import ImageSource
from everclip.experiment.config import Config
from everclip.experiment.recipes import read_recipe
from everclip.experiment.runner import run
from everclip.report import compare
from everclip.streams import GROUPS
from tests import miniatures, tiny

pytestmark = pytest.mark.slow

# One step per task: every further one is a minute of a core over the eleven tasks.
SMALL = {"iterations": 1, "batch": 2, "warmup": 1, "templates": "first", "workers": 1, "device": "cpu"}


def two_classes(published: Published) -> Published:
    """The set with its first two classes: two training images each, and one test image."""

    def read(folder: Path) -> Parts:
        parts = published.read(folder)
        own = np.unique(parts.train.labels)[:2]

        def cut(images: ImageSource, each: int) -> ImageSource:
            rows = np.concatenate([np.flatnonzero(images.labels == label)[:each] for label in own])
            return images.select(rows, np.searchsorted(own, images.labels[rows]))

        names = published.class_names or parts.class_names
        test = parts.test and cut(parts.test, 1).select([0])
        return Parts(tuple(names[label] for label in own), cut(parts.train, 2), test)

    return replace(published, classes=2, class_names=(), read=read)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All sets of MTIL, two classes each."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        miniatures.without_md5(patch)
        for name in GROUPS["mtil"]:
            patch.setitem(PUBLISHED, name, two_classes(PUBLISHED[name]))
            miniatures.write(name, folder)
        yield folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn images of no task."""
    return tiny.image_folder(tmp_path_factory.mktemp("reference"), ["red", "gray"], train=2, test=1)


def whole_run(recipe: str, root: Path, out: Path, **changed: Any) -> dict[str, Any]:
    """The recipe on all of MTIL, and what must hold of any such run."""
    values = {**read_recipe(recipe), "backbone": "ViT-B-16/random", "root": str(root), **SMALL, **changed}
    results = run(Config.of(values), out)
    names = list(GROUPS["mtil"])
    assert [dataset["name"] for dataset in results["datasets"]] == names
    matrix = np.array(results["by_candidates"]["task"]["matrix"], float)
    assert matrix.shape == (len(names), len(names))
    assert np.isfinite(matrix).all(), "every row was measured"
    assert len(results["trained_parameters"]["per_task"]) == len(names)
    assert (out / "report.html").is_file()
    comparison = compare([out], published="mtil-1")
    assert any(line.startswith("test images: 11 here, 97209") for line in comparison.notes)
    assert any(line.startswith("backbone: ViT-B-16/random here") for line in comparison.notes)
    return results


def test_moe_adapters_with_ddas_on_all_of_mtil(root: Path, reference: Path, tmp_path: Path) -> None:
    torch.save(tiny.alexnet_weights(), tmp_path / "alexnet.pth")
    autoencoders = {"ddas_iterations": 2, "reference_iterations": 1, "ddas_batch": 4, "threshold": 1.0}
    alexnet = str(tmp_path / "alexnet.pth")
    results = whole_run("moe-mtil", root, tmp_path / "run", reference=str(reference), alexnet=alexnet, **autoencoders)
    assert results["trained_parameters"]["total"] == 51_059_712, "of the paper's parameter check"
    routes = np.array(results["routing"]["after"])  # learned tasks, data sets, routes
    assert (routes.sum(axis=2) == 1).all(), "every image has a route"
    assert routes[-1, :, :-1].any(), "tasks answer, not the original CLIP alone"


def test_zscl_on_all_of_mtil(root: Path, reference: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a dog\ntwo trees\n", encoding="utf-8")
    results = whole_run("zscl-mtil", root, tmp_path / "run", reference=str(reference), reference_texts=str(texts))
    assert results["trained_parameters"]["total"] == 149_620_736, "all of CLIP but its logit_scale"
    assert results["routing"] is None
