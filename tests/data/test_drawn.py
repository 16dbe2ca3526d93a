from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageStat

from everclip.data.drawn import DOMAINS, DrawnImages
from everclip.errors import InputError

ALL = pytest.mark.parametrize("domain", list(DOMAINS))


@cache
def images(domain: str, per_class: int, split: str) -> tuple[np.ndarray, np.ndarray]:
    """All images of a source, (N, 64, 64, 3) uint8, and their labels."""
    source = DrawnImages(DOMAINS[domain], per_class, split, seed=0)
    return np.stack([np.asarray(source.decode(i)) for i in range(len(source))]), source.labels


@ALL
def test_a_domain_is_well_formed(domain: str) -> None:
    described = DOMAINS[domain]
    assert described.name == domain
    assert 10 <= len(described.class_names) <= 40
    assert len({name.strip().lower() for name in described.class_names}) == len(described.class_names)
    assert 1 <= len(described.templates) <= 3
    for template in described.templates:
        assert template.count("{}") == 1
        assert template.format("x") != template


def test_there_are_enough_domains_and_words_tell_all_classes_apart() -> None:
    assert len(DOMAINS) >= 9
    for texts in (
        [name.lower() for d in DOMAINS.values() for name in d.class_names],
        [template.format(name) for d in DOMAINS.values() for name in d.class_names for template in d.templates],
    ):
        assert len(set(texts)) == len(texts)


@ALL
@pytest.mark.parametrize("size", [16, 112])
def test_every_class_draws_at_any_size(domain: str, size: int) -> None:
    source = DrawnImages(DOMAINS[domain], 1, "test", seed=5, size=size)
    assert source.labels.dtype == np.int64
    assert sorted(source.labels) == list(range(len(DOMAINS[domain].class_names)))
    for index in range(0, len(source), 4):
        image = source.decode(index)
        assert image.mode == "RGB"
        assert image.size == (size, size)
        # No picture is one flat color: the grain alone has a deviation of at most 7.
        assert max(ImageStat.Stat(image).stddev) > 9


@ALL
def test_an_image_is_a_pure_function_of_its_place(domain: str) -> None:
    pixels, labels = images(domain, 4, "train")
    # Backward, from a source of another length, in threads: the order and the company must not matter.
    shorter = DrawnImages(DOMAINS[domain], 2, "train", seed=0)
    order = list(range(0, len(shorter), 5))[::-1]
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(shorter.decode, order))
    for index, image in zip(order, again, strict=True):
        assert shorter.labels[index] == labels[index]
        assert np.array_equal(np.asarray(image), pixels[index])


@ALL
def test_seed_split_and_index_each_change_the_image(domain: str) -> None:
    classes = len(DOMAINS[domain].class_names)
    first = DrawnImages(DOMAINS[domain], 2, "train", seed=0)
    variants = [
        (first, 0),
        (first, classes),  # the same class, its next image
        (DrawnImages(DOMAINS[domain], 1, "test", seed=0), 0),
        (DrawnImages(DOMAINS[domain], 1, "train", seed=1), 0),
    ]
    assert len({source.labels[index] for source, index in variants}) == 1
    assert len({source.decode(index).tobytes() for source, index in variants}) == len(variants)
    assert len({source.digest(index) for source, index in variants}) == len(variants)


def test_a_digest_names_one_image_and_no_two_sources_share_any() -> None:
    digests, count = set(), 0
    for domain, split, seed, size in product(DOMAINS, ("train", "test"), (0, 1), (32, 64)):
        source = DrawnImages(DOMAINS[domain], 2, split, seed, size)
        digests |= {source.digest(index) for index in range(len(source))}
        count += len(source)
    assert len(digests) == count
    assert {len(digest) for digest in digests} == {32}


@pytest.mark.parametrize("domain", ["balls", "faces", "silhouettes"])
def test_another_size_shows_the_same_picture(domain: str) -> None:
    small, large = (DrawnImages(DOMAINS[domain], 1, "train", seed=3, size=size) for size in (48, 96))
    for index in range(0, len(small), 5):
        reduced = large.decode(index).resize((48, 48), Image.Resampling.BOX)
        same = ImageStat.Stat(ImageChops.difference(small.decode(index), reduced)).mean
        other = ImageStat.Stat(ImageChops.difference(small.decode(index - 1), reduced)).mean
        assert max(same) < 12
        assert max(same) < 0.5 * max(other)


def test_names_views_and_copies_for_other_processes() -> None:
    source = DrawnImages(DOMAINS["shapes"], 2, "test", seed=0)
    assert source.name(12) == "drawn:shapes/test/12"
    assert source.name(-1) == source.name(len(source) - 1)
    assert source.digest(-1) == source.digest(len(source) - 1)
    with pytest.raises(IndexError):
        source.decode(len(source))
    view = source.select([7, 3])
    assert view.labels.tolist() == [7, 3]
    assert view.digest(0) == source.digest(7)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.decode(7).tobytes() == view.decode(0).tobytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1, "val", 0), "'val'.*'train' or 'test'"),
        ((0, "train", 0), "per_class.*at least 1"),
        ((1, "train", -1), "seed.*at least 0"),
        ((1, "train", 0, 8), "size.*at least 16"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments: tuple, words: str) -> None:
    with pytest.raises(InputError, match=words):
        DrawnImages(DOMAINS["shapes"], *arguments)


def described(pixels: np.ndarray) -> np.ndarray:
    """Simple features (N, D): small color pictures and how strong the edges are, where and in which direction."""
    count = len(pixels)
    gray = pixels.astype(np.float32).mean(axis=3)
    gray = (gray - gray.mean(axis=(1, 2), keepdims=True)) / (gray.std(axis=(1, 2), keepdims=True) + 1)
    down, right = np.diff(gray, axis=1)[:, :, :-1], np.diff(gray, axis=2)[:, :-1]
    strength, angle = np.hypot(down, right), np.arctan2(down, right) % np.pi
    parts = [pixels.reshape(count, 8, 8, 8, 8, 3).mean(axis=(2, 4)).reshape(count, -1) / 255]
    for sector in range(6):
        edges = strength * (np.floor(angle / np.pi * 6) == sector)
        cells = edges[:, :60, :60].reshape(count, 6, 10, 6, 10).mean(axis=(2, 4)).reshape(count, -1)
        parts += [2 * cells, 6 * edges.mean(axis=(1, 2))[:, None], np.sort(cells, axis=1)]
    return np.concatenate([np.ones((count, 1)), *parts], axis=1)


@ALL
def test_labels_can_be_learned_and_are_not_trivial(domain: str) -> None:
    """Ridge regression on simple features is far better than chance; the mean color of a picture is not enough."""
    (train, labels), (test, truth) = images(domain, 4, "train"), images(domain, 2, "test")
    classes = len(DOMAINS[domain].class_names)
    targets = np.eye(classes)[labels]

    def accuracy(seen: np.ndarray, new: np.ndarray) -> float:
        kernel = seen @ seen.T
        weights = np.linalg.solve(kernel + 0.01 * np.trace(kernel) / len(seen) * np.eye(len(seen)), targets)
        return float((np.argmax(new @ seen.T @ weights, axis=1) == truth).mean())

    assert accuracy(described(train), described(test)) > 3 / classes
    assert accuracy(train.mean(axis=(1, 2)), test.mean(axis=(1, 2))) < 0.6
