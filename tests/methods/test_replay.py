"""What replay keeps and what it draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.covariance import oas
from torch import Tensor

from everclip.backbone.features import FrozenImages
from everclip.data import LabeledEmbeddings
from everclip.errors import InputError
from everclip.methods.replay import ExemplarReplay, GaussianReplay, Replay

WIDTH = 6


def images_of(labels: list[int], seed: int, tokens: int = 0) -> FrozenImages:
    """Embeddings (or tokens) near a direction per label, of any length."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(20, WIDTH))
    shape = (len(labels), tokens, WIDTH) if tokens else (len(labels), WIDTH)
    around = centers[labels][:, None] if tokens else centers[labels]
    features = ((around + 0.3 * rng.normal(size=shape)) * rng.uniform(1, 9)).astype(np.float32)
    return FrozenImages(LabeledEmbeddings(features.reshape(len(labels), -1), np.array(labels)), features)


def drawn(replay: Replay, count: int) -> tuple[Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return replay.draw(count)


def unit(images: FrozenImages) -> Tensor:
    return F.normalize(images.embeddings(np.arange(len(images))), dim=-1).double()


def through_storage(replay: Replay, fresh: Replay, tasks: int) -> Replay:
    sealed = [{name: value.clone() for name, value in replay.sealed(index).items()} for index in range(tasks)]
    fresh.load(sealed, {name: value.clone() for name, value in replay.working().items()})
    return fresh


# -- Gaussians ---------------------------------------------------------------------------------------------------------


def test_gaussians_have_the_means_and_the_pooled_covariance():
    """Over two tasks, the second with more images of a class of the first."""
    one, two = images_of([0, 1, 0, 1, 1, 0] * 9, 1), images_of([0, 1] * 8, 2)
    columns = [torch.tensor([0, 1]), torch.tensor([1, 2])]  # the second's class 0 is the first's class 1
    replay = GaussianReplay()
    for images, own in zip((one, two), columns, strict=True):
        replay.remember(images, own)
    replay.begin(columns, 4)
    assert replay.classes.tolist() == [0, 1, 2]
    x = torch.cat([unit(one), unit(two)])
    owners = torch.cat([columns[0][one.labels], columns[1][two.labels]])
    means = torch.stack([x[owners == column].mean(dim=0) for column in range(3)])
    covariance = torch.from_numpy(oas((x - means[owners]).numpy(), assume_centered=True)[0])
    samples, targets = drawn(replay, 60_000)
    assert samples.dtype == torch.float32
    counts = torch.bincount(targets)
    assert (counts - 20_000).abs().max() < 600, "classes are drawn uniformly, however many images they had"
    for column in range(3):
        own = samples[targets == column].double()
        torch.testing.assert_close(own.mean(dim=0), means[column], rtol=0, atol=0.01)
        torch.testing.assert_close(own.T.cov(), covariance, rtol=0, atol=0.004)


def test_gaussians_of_one_image_each_are_that_image():
    images = images_of([0, 1], 3)
    replay = GaussianReplay()
    replay.remember(images, torch.tensor([0, 1]))
    replay.begin([torch.tensor([0, 1])], 4)
    samples, targets = drawn(replay, 50)
    torch.testing.assert_close(samples, unit(images).float()[targets], rtol=0, atol=1e-4)


@pytest.mark.parametrize("replay", [GaussianReplay(), ExemplarReplay(20)])
def test_a_class_without_an_image_is_not_drawn(replay: Replay):
    replay.remember(images_of([0, 2, 0, 2], 4), torch.tensor([0, 1, 2]))
    replay.begin([torch.tensor([0, 1, 2])], 4)
    assert replay.classes.tolist() == [0, 2]
    samples, targets = drawn(replay, 200)
    assert set(targets.tolist()) == {0, 2}
    assert torch.isfinite(samples).all()


# -- exemplars ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [0, 4])
def test_exemplars_share_the_budget(tokens: int):
    one, two = images_of([0, 1] * 10, 1, tokens), images_of([0, 1, 2] * 8, 2, tokens)
    replay = ExemplarReplay(20)
    replay.remember(one, torch.tensor([0, 1]))
    assert torch.bincount(replay.columns).tolist() == [10, 10]
    before = {column: replay.features[replay.columns == column] for column in (0, 1)}
    replay.remember(two, torch.tensor([2, 3, 4]))
    assert torch.bincount(replay.columns).tolist() == [4] * 5
    assert len(replay.features) == 20
    for column in (0, 1):
        assert torch.equal(replay.features[replay.columns == column], before[column][:4]), "the first chosen stay"
    mine = {tuple(row.flatten().tolist()) for row in two[np.arange(24)]}
    for row in replay.features[replay.columns >= 2]:
        assert tuple(row.flatten().tolist()) in mine


def test_exemplars_stand_near_the_class_mean():
    images = images_of([0] * 60, 5)
    replay = ExemplarReplay(6)
    replay.remember(images, torch.tensor([0]))
    mean = unit(images).mean(dim=0)
    chosen = F.normalize(replay.features, dim=-1).double().mean(dim=0)
    rng = torch.Generator().manual_seed(0)
    random = torch.stack([unit(images)[torch.randperm(60, generator=rng)[:6]].mean(dim=0) for _ in range(200)])
    assert (chosen - mean).norm() < (random - mean).norm(dim=1).quantile(0.05)


def test_a_class_that_comes_again_is_chosen_anew():
    one, two = images_of([0, 1] * 3, 1), images_of([0] * 5, 2)
    replay = ExemplarReplay(8)
    replay.remember(one, torch.tensor([0, 1]))
    replay.remember(two, torch.tensor([1]))
    old = {tuple(row.tolist()) for row in one[np.arange(6)]}
    own = [tuple(row.tolist()) for row in replay.features[replay.columns == 1]]
    assert len(own) == len(set(own)) == 4
    assert 0 < sum(row in old for row in own) < 4


def test_exemplars_are_drawn_uniformly_over_classes():
    replay = ExemplarReplay(100)
    images = images_of([0] * 30 + [1] * 2, 1)
    replay.remember(images, torch.tensor([0, 1]))
    replay.begin([torch.tensor([0, 1])], 4)
    samples, targets = drawn(replay, 4000)
    assert abs(int(targets.sum()) - 2000) < 150
    kept = {(column, tuple(row.tolist())) for column, row in zip(replay.columns.tolist(), replay.features, strict=True)}
    seen = {(column, tuple(row.tolist())) for column, row in zip(targets.tolist(), samples, strict=True)}
    assert seen == kept, "every exemplar comes back, with its own class"


def test_more_classes_than_exemplars():
    with pytest.raises(InputError, match="exemplars=2 are too few for 3 classes; allow 3 or more"):
        ExemplarReplay(2).begin([], 3)
    ExemplarReplay(3).begin([], 3)


# -- stored ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [GaussianReplay, lambda: ExemplarReplay(9)])
def test_what_is_stored_draws_the_same(kind, tmp_path: Path):
    replay = kind()
    columns = [torch.tensor([0, 1]), torch.tensor([2, 3])]
    for seed, own in enumerate(columns):
        replay.remember(images_of([0, 1, 1, 0], seed), own)
    restored = through_storage(replay, kind(), 2)
    for each in (replay, restored):
        each.begin(columns, 4)
    for one, other in zip(drawn(replay, 30), drawn(restored, 30), strict=True):
        assert torch.equal(one, other)


def test_nothing_is_kept_without_replay():
    replay = Replay()
    replay.remember(images_of([0, 1], 1), torch.tensor([0, 1]))
    replay.begin([torch.tensor([0, 1])], 4)
    assert len(replay.classes) == 0
    assert replay.sealed(0) == replay.working() == {}
    with pytest.raises(NotImplementedError):
        replay.draw(3)
