"""What tells one image from another: a number taken from what it shows, the same on every machine."""

from __future__ import annotations

import hashlib

import numpy as np

from everclip.data.cache import cache_key, embedding_cache
from everclip.data.embeddings import LabeledEmbeddings
from everclip.data.images import ViewedImages
from everclip.storage.verified import VerifiedArray


def hashed_rows(array: np.ndarray | VerifiedArray) -> np.ndarray:
    """Numbers (N,), int64, each from all bytes of a row of an array (N, …)."""
    digests = (hashlib.blake2b(np.ascontiguousarray(row).data, digest_size=8).digest() for row in array)
    return np.frombuffer(b"".join(digests), dtype="<i8").astype(np.int64)


def identities(data: ViewedImages | LabeledEmbeddings) -> np.ndarray:
    """Numbers (N,), int64, that images are known by where some of them are to be drawn; equal images have equal ones.

    They come from the pixels of the evaluation view, which are whole numbers that every processor computes alike, or
    from the numbers of given embeddings; never from an embedding that was computed here, whose last bits depend on the
    processor. Hashed once, then read from the cache.
    """
    if isinstance(data, LabeledEmbeddings):
        return hashed_rows(data.embeddings)
    return np.array(embedding_cache(cache_key("identities", data.key), lambda: hashed_rows(data.pixels)))
