from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2.functional import resized_crop

from everclip.data.augment import TrainingView, _generator, training_batch
from everclip.data.folders import FolderImages
from everclip.data.images import DecodedImages, decoded

VIEW = TrainingView(16)


@pytest.fixture
def images(tmp_path, write_images) -> DecodedImages:
    for i in range(6):
        write_images(f"d/{i}.png", size=(30 + 3 * i, 40))
    files = sorted(map(str, (tmp_path / "d").iterdir()))
    return decoded(FolderImages(files, np.zeros(6)), 50)


def batch(images: DecodedImages, indices, key=(0, 1, 2), workers: int = 2) -> np.ndarray:
    with ThreadPoolExecutor(workers) as pool:
        return training_batch(images, indices, key, VIEW, pool)


def test_pixels_are_those_of_torchvision(images):
    result = batch(images, [4, 1])
    for row, index in zip(result, [4, 1], strict=True):
        top, left, height, width = VIEW.box(*images[index].shape[:2], _generator(0, 1, 2, index))
        expected = resized_crop(
            images.pil(index), top, left, height, width, [16, 16], InterpolationMode.BICUBIC, antialias=True
        )
        assert np.array_equal(row, np.asarray(expected).transpose(2, 0, 1))


def test_a_batch_depends_on_its_key_and_images_only(images):
    whole = batch(images, np.arange(6))
    assert whole.shape == (6, 3, 16, 16)
    assert whole.dtype == np.uint8
    assert np.array_equal(whole, batch(images, np.arange(6), workers=5))
    assert np.array_equal(whole[[5, 2]], batch(images, [5, 2]))
    for other in [(9, 1, 2), (0, 9, 2), (0, 1, 9)]:
        assert not np.array_equal(whole, batch(images, np.arange(6), key=other))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 10**6))
def test_boxes_lie_inside_and_keep_to_the_bounds(height, width, step):
    view = TrainingView(8, scale=(0.5, 0.8))
    top, left, h, w = view.box(height, width, _generator(0, 0, step, 0))
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert h > 0
    assert w > 0
    if min(height, width) > 50 and max(height, width) < 1.2 * min(height, width):
        assert 0.48 < h * w / (height * width) < 0.82
        assert 0.73 < w / h < 1.36


@pytest.mark.parametrize("size", [(90, 120), (100, 100), (20, 300), (300, 20), (37, 50)])
def test_the_law_is_that_of_torchvision(size):
    torch.manual_seed(0)
    reference = RandomResizedCrop(8, scale=(0.9, 1.0))
    image = [torch.empty(3, *size)]
    theirs = np.array([list(reference.make_params(image).values()) for _ in range(1500)], dtype=float)
    ours = np.array([VIEW.box(*size, _generator(0, 0, step, 0)) for step in range(1500)], dtype=float)
    error = 4 * theirs.std(axis=0) * np.sqrt(2 / 1500)
    assert np.all(np.abs(theirs.mean(axis=0) - ours.mean(axis=0)) <= error)
    assert np.allclose(theirs.std(axis=0), ours.std(axis=0), rtol=0.15, atol=0.05)


def test_neighboring_keys_draw_unrelated_numbers():
    first = [_generator(*key).random() for key in np.ndindex(4, 4, 8, 8)]
    assert len(set(first)) == len(first)
    assert abs(np.mean(first) - 0.5) < 0.03
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.1
