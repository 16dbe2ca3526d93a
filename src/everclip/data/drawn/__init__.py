"""Images drawn by code from a seed, in many styles: for tests, for demonstrations, to train a small model.

Nothing is downloaded and nothing is stored: `DrawnImages` draws an image each time it is decoded. Each file of this
package holds the domains of one idea; `DOMAINS` is their registry.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal

import numpy as np
from PIL import Image

from everclip.data.drawn.aerial import AERIAL
from everclip.data.drawn.balls import BALLS
from everclip.data.drawn.charts import CHARTS
from everclip.data.drawn.domain import Domain
from everclip.data.drawn.faces import FACES
from everclip.data.drawn.glyphs import GLYPHS
from everclip.data.drawn.quantities import CLOCKS, COUNTS
from everclip.data.drawn.scenes import SCENES
from everclip.data.drawn.shapes import SHAPES
from everclip.data.drawn.silhouettes import SILHOUETTES
from everclip.data.drawn.textures import TEXTURES
from everclip.data.source import ImageSource
from everclip.errors import InputError

__all__ = ["DOMAINS", "DRAWING_VERSION", "Domain", "DrawnImages"]

DRAWING_VERSION = 1
"""Raised whenever any domain draws differently, so that nothing cached from older drawings is read again."""

_IN_ORDER = (AERIAL, BALLS, CHARTS, CLOCKS, COUNTS, FACES, GLYPHS, SCENES, SHAPES, SILHOUETTES, TEXTURES)

DOMAINS: dict[str, Domain] = {domain.name: domain for domain in _IN_ORDER}
"""Every domain by name, in the default order of a stream: the alphabetic one, as MTIL's default order is."""


class DrawnImages(ImageSource):
    """One split of one domain: `per_class` images of every class.

    Image i shows class i modulo the number of classes and is a pure function of (domain, split, seed, i, size):
    a larger `per_class` only appends images. Another size draws the same picture with more or fewer pixels, up to
    its fine grain.

    Attributes:
        domain: what is drawn, one of `DOMAINS` or your own; its name stands for it in digests.
        split: "train" or "test"; they share no image.
        seed: 0 or larger.
        size: side in pixels of the square images.
        labels: (N,) int64, N = per_class * number of classes.

    Raises:
        InputError: the split is unknown, or a number is too small.
    """

    def __init__(
        self, domain: Domain, per_class: int, split: Literal["train", "test"], seed: int, size: int = 64
    ) -> None:
        if split not in ("train", "test"):
            raise InputError(f"the split of drawn images is '{split}', but it must be 'train' or 'test'")
        for field, value, least in (("per_class", per_class, 1), ("seed", seed, 0), ("size", size, 16)):
            if value < least:
                raise InputError(f"{field} of drawn images is {value}, but it must be at least {least}")
        self.domain = domain
        self.split = split
        self.seed = seed
        self.size = size
        classes = len(domain.class_names)
        self.labels = np.arange(per_class * classes, dtype=np.int64) % classes

    def name(self, index: int) -> str:
        """Return e.g. `drawn:shapes/train/12`."""
        return f"drawn:{self.domain.name}/{self.split}/{self._position(index)}"

    def digest(self, index: int) -> str:
        """Return the hex BLAKE2b-128 of all that the image depends on, the version of the drawings included."""
        return self._hash(f"{self._key(index)}/{self.size}").hex()

    def decode(self, index: int) -> Image.Image:
        """Draw the image: mode RGB, size x size pixels."""
        # The size is left out here, so that it does not change what is on the picture.
        entropy = int.from_bytes(self._hash(self._key(index)), "big")
        rng = np.random.Generator(np.random.PCG64(entropy))
        return self.domain.draw(int(self.labels[index]), rng, self.size)

    def _position(self, index: int) -> int:
        """The index counted from the start, as negative ones count from the end."""
        return range(len(self))[index]

    def _key(self, index: int) -> str:
        position = self._position(index)
        label = self.labels[position]
        return f"{DRAWING_VERSION}/{self.domain.name}/{self.split}/{self.seed}/{label}/{position}"

    @staticmethod
    def _hash(text: str) -> bytes:
        return blake2b(text.encode(), digest_size=16).digest()
