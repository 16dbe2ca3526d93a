"""What can be known of an image file without decoding it."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from everclip.data.decode import IMAGE_SUFFIXES, load_rgb
from everclip.data.regular import open_regular
from everclip.data.source import Glance

_FORMATS = tuple({name for suffix, name in Image.registered_extensions().items() if suffix in IMAGE_SUFFIXES})

FINE_PIXELS, FINE_ASPECT = 80_000_000, 500
"""An image of a common format within these sizes is taken at its header's word; `load_rgb` decides on any other."""


def glance_at(path: str | Path, name: str) -> Glance:
    """Read the header of an image file; only where that does not settle it, the file is decoded.

    Raises:
        BadImage: as `load_rgb`, as far as the header tells: damage further on is not seen.
    """
    size = 0
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            with Image.open(file, formats=_FORMATS) as image:
                short, long = sorted(image.size)
                if 0 < short * long <= FINE_PIXELS and long <= FINE_ASPECT * short:
                    return Glance(image.width, image.height, size)
    except MemoryError:
        raise
    except Exception:
        # Whatever is wrong here, decoding decides whether anything is, and says what.
        pass
    image = load_rgb(path, name)
    return Glance(image.width, image.height, size)
