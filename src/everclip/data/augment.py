"""The training transform that is usual for CLIP: a random crop of nearly the whole image, resized, no flip.

Its randomness is a pure function of (seed, task, step, image), so threads, processes and a resume do not
change it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from everclip.data.images import DecodedImages


@dataclass(frozen=True)
class TrainingView:
    """Random resized crop with the parameter law of torchvision's `RandomResizedCrop`; bicubic, antialiased.

    Attributes:
        size: S, the side of the result in pixels.
        scale: bounds of the crop's part of the image area.
        ratio: bounds of the crop's width / height.
    """

    size: int
    scale: tuple[float, float] = (0.9, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def box(self, height: int, width: int, random: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw a crop (top, left, height, width): ten tries, then the largest central crop within `ratio`."""
        for _ in range(10):
            area = height * width * random.uniform(*self.scale)
            aspect = math.exp(random.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(random.integers(height - h + 1)), int(random.integers(width - w + 1)), h, w
        aspect = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
        return (height - h) // 2, (width - w) // 2, h, w

    def __call__(self, pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Crop and resize (H, W, 3) uint8 to (3, S, S) uint8."""
        top, left, height, width = self.box(pixels.shape[0], pixels.shape[1], random)
        crop = Image.fromarray(pixels[top : top + height, left : left + width])
        resized = crop.resize((self.size, self.size), Image.Resampling.BICUBIC)
        channels_first: np.ndarray = np.asarray(resized).transpose(2, 0, 1)
        return channels_first


def training_batch(
    images: DecodedImages,
    indices: Sequence[int] | np.ndarray,
    key: tuple[int, int, int],
    view: TrainingView,
    pool: ThreadPoolExecutor,
) -> np.ndarray:
    """Augment a batch.

    Args:
        images: decoded images.
        indices: (B,) indices into `images`. One that is repeated within a batch gets the same crop again.
        key: (seed, task, step), each 0 or larger.
        view: the training transform.
        pool: its threads share the work; the result does not depend on their number.

    Returns:
        (B, 3, S, S) uint8.
    """
    batch = np.empty((len(indices), 3, view.size, view.size), dtype=np.uint8)

    def fill(position: int) -> None:
        index = int(indices[position])
        batch[position] = view(images[index], _generator(*key, index))

    list(pool.map(fill, range(len(indices))))
    return batch


def _generator(seed: int, task: int, step: int, index: int) -> np.random.Generator:
    # Philox is keyed and counter-based, so this costs microseconds, unlike seeding. The draws advance the
    # lowest word of the counter: different steps and images use different parts of one key's stream.
    counter = np.array([0, 0, step, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([seed, task], dtype=np.uint64), counter=counter))
