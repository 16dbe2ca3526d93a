"""Images whose files lie inside something else: a member of an archive, a cell of a table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from everclip.data.decode import load_rgb
from everclip.data.regular import MAX_BYTES
from everclip.data.source import BadImage, ImageSource


class ContentImages(ImageSource):
    """Image files that are read by a function. One that is the same file as one in a folder has the same digest.

    Args:
        names: what messages call the N images.
        content: the bytes of the file at a place, called from several threads at once. Raises BadImage; an OSError or
            ValueError of it becomes one.
    """

    def __init__(self, names: Sequence[str], content: Callable[[int], bytes]) -> None:
        self._names = names
        self._content = content
        self.labels = np.zeros(len(names), dtype=np.int64)

    def name(self, index: int) -> str:
        """Return what messages call the image."""
        return self._names[index]

    def digest(self, index: int) -> str:
        """Return the hex BLAKE2b-128 of the file's bytes, or of what keeps them from being read."""
        try:
            content = self._read(index)
        except BadImage as error:
            content = f"unreadable: {error.reason}".encode()
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def decode(self, index: int) -> Image.Image:
        """Return the image, mode RGB and upright; see `load_rgb` for what raises BadImage."""
        return load_rgb(self._read(index), self.name(index), self.most_pixels)

    def _read(self, index: int) -> bytes:
        try:
            content = self._content(index)
        except (BadImage, MemoryError):
            raise
        except Exception as error:  # archives and tables meet damaged bytes with whatever comes
            raise BadImage(self.name(index), f"it cannot be read ({error or type(error).__name__})") from error
        if len(content) > MAX_BYTES:
            raise BadImage(self.name(index), f"the file has more than {MAX_BYTES / 2**20:g} MiB")
        return content
