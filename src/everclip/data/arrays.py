"""Images in memory, from data sets that are one big array."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

from everclip.data.source import ImageSource


class ArrayImages(ImageSource):
    """Images of one array.

    Args:
        called: what messages call them; image i is `CALLED/i`.
        pixels: (N, H, W) gray or (N, H, W, 3) RGB, uint8.
        labels: (N,) integers.
    """

    def __init__(self, called: str, pixels: np.ndarray, labels: np.ndarray) -> None:
        self._called = called
        self._pixels = pixels
        self.labels = np.asarray(labels, dtype=np.int64)

    def name(self, index: int) -> str:
        """Return e.g. `mnist/train/12`."""
        return f"{self._called}/{index}"

    def digest(self, index: int) -> str:
        """Return the hex BLAKE2b-128 of the image's shape and pixels."""
        pixels = self._pixels[index]
        return hashlib.blake2b(str(pixels.shape).encode() + pixels.tobytes(), digest_size=16).hexdigest()

    def decode(self, index: int) -> Image.Image:
        """Return the image, mode RGB."""
        return Image.fromarray(self._pixels[index]).convert("RGB")
