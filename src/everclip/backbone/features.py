"""Features of the frozen CLIP, computed once: images on disk, class embeddings in memory.

The original CLIP never changes, so what it says of an image is a constant. Every reader of frozen features (zero-shot,
selectors, methods on embeddings, the route to the original CLIP) takes them from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from everclip.backbone.clip import Backbone
from everclip.backbone.prompts import class_tokens, encode_classes, encode_texts
from everclip.data import Images, LabeledEmbeddings, ViewedImages, cache_key, embedding_cache, streamed_cache
from everclip.data.cache import Keys
from everclip.errors import InputError
from everclip.storage.verified import VerifiedArray
from everclip.system.processes import gathered, share, world

BATCH = 256
"""Images per forward pass without gradient."""

CLASS_LISTS = 1024
"""Lists of classes whose embeddings are kept in memory."""

Feed = Literal["images", "embeddings", "tokens"]
"""What a method is fed: pixels (B, 3, S, S), or frozen features: embeddings (B, D), output tokens (B, T, D)."""


@dataclass(frozen=True)
class FrozenImages:
    """Labeled images as frozen features, for methods that learn from features instead of images.

    Attributes:
        data: the images, or embeddings that were given without them.
        features: embeddings (N, D) or output tokens (N, T, D), float32, un-normalized; where cached, memory-mapped and
            verified where they are read.
    """

    data: ViewedImages | LabeledEmbeddings
    features: np.ndarray | VerifiedArray

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: np.ndarray) -> Tensor:
        """A copy of some rows, on the CPU: (B, D) or (B, T, D)."""
        return torch.from_numpy(self.features[rows])

    @cached_property
    def labels(self) -> np.ndarray:
        """Class within the task (N,), int64."""
        return np.asarray(self.data.labels)

    @property
    def content(self) -> str:
        """What the images or embeddings are, wherever they lie."""
        return self.data.content

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of every image that could not be used."""
        return self.data.skipped if isinstance(self.data, Images) else []

    def name(self, index: int) -> str:
        """What messages call the image."""
        return self.data.name(index) if isinstance(self.data, Images) else f"embedding {index}"

    def embeddings(self, rows: np.ndarray) -> Tensor:
        """Embeddings of some rows (B, D), on the CPU: of tokens, the first."""
        return torch.from_numpy(self.features[rows] if self.features.ndim == 2 else self.features[rows, 0])


@torch.no_grad()
def embed_images(
    images: ViewedImages, encode: Callable[[Tensor], Tensor], backbone: Backbone, rows: np.ndarray | None = None
) -> Tensor:
    """Encode evaluation views in batches: Images (N, 3, S, S) → (N, D) on the CPU; `rows` picks some of them."""

    def encoded(part: np.ndarray) -> Tensor:
        return encode(backbone.pixels(torch.from_numpy(np.ascontiguousarray(images[part]))))

    return _in_batches(np.arange(len(images)) if rows is None else rows, encoded, backbone)


@torch.no_grad()
def embed_features(
    frozen: FrozenImages, encode: Callable[[Tensor], Tensor], backbone: Backbone, rows: np.ndarray | None = None
) -> Tensor:
    """As `embed_images`, from frozen features instead of pixels."""

    def encoded(part: np.ndarray) -> Tensor:
        return encode(frozen[part].to(backbone.device))

    return _in_batches(np.arange(len(frozen)) if rows is None else rows, encoded, backbone)


@torch.no_grad()
def embedded_again(
    images: ViewedImages, encode: Callable[[Tensor], Tensor], backbone: Backbone, chosen: slice
) -> np.ndarray:
    """What `embed_images` gave for consecutive images, computed by this process alone: (B, …).

    The batches are those of the first time, in which sums were rounded as they were.
    """
    first, last = chosen.start // BATCH * BATCH, min(-(-chosen.stop // BATCH) * BATCH, len(images))
    parts = [np.arange(start, min(start + BATCH, last)) for start in range(first, last, BATCH)]
    every = np.concatenate([encode(backbone.pixels(torch.from_numpy(images[part]))).cpu().numpy() for part in parts])
    return every[chosen.start - first : chosen.stop - first]


def _in_batches(rows: np.ndarray, encoded: Callable[[np.ndarray], Tensor], backbone: Backbone) -> Tensor:
    """What an encoder makes of some rows, on the CPU; several processes share the batches, which stay what they are."""
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    if not batches:
        return torch.empty(0, backbone.embed_dim)
    # A process without a batch gives none of the rows of one: their shape and type, which the exchange needs.
    own = [encoded(batch).cpu() for batch in batches[share(len(batches))]] or [encoded(batches[0]).cpu()[:0]]
    return gathered(torch.cat(own))


class FrozenFeatures:
    """Frozen features of one backbone, under the evaluation view."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        # Whoever asks with labels of his own at every image must not fill the memory.
        self._classes = lru_cache(CLASS_LISTS)(self._encoded)

    def images(self, data: ViewedImages | LabeledEmbeddings) -> Tensor:
        """Un-normalized image features (N, D), float32 on the CPU; read from the cache where it has them.

        Raises:
            InputError: precomputed embeddings of another width than the backbone's.
        """
        return torch.from_numpy(self._embeddings(data).copy())

    def frozen(self, data: ViewedImages | LabeledEmbeddings, feed: Feed) -> FrozenImages:
        """Images as embeddings or output tokens, memory-mapped from the cache; computed where it has none.

        Raises:
            InputError: embeddings of another width than the backbone's, or tokens of what has none.
        """
        return FrozenImages(data, self._tokens(data) if feed == "tokens" else self._embeddings(data))

    def _embeddings(self, data: ViewedImages | LabeledEmbeddings) -> np.ndarray | VerifiedArray:
        width = self.backbone.embed_dim
        if isinstance(data, LabeledEmbeddings):
            if data.embeddings.shape[1] != width:
                raise InputError(
                    f"the embeddings have {data.embeddings.shape[1]} numbers each, but backbone "
                    f"'{self.backbone.name}' works with {width}; name the backbone they come from with --backbone."
                )
            return data.embeddings
        encode = self.backbone.encode_image
        key, former = self._keys(data.key)

        def parts() -> Iterator[np.ndarray]:
            yield embed_images(data, encode, self.backbone).numpy()

        again = partial(embedded_again, data, encode, self.backbone)
        return streamed_cache(key, len(data), parts, former, again)

    def _tokens(self, data: ViewedImages | LabeledEmbeddings) -> VerifiedArray:
        """(N, T, D): much larger than the images themselves, so it never stands in memory as a whole."""
        if isinstance(data, LabeledEmbeddings):
            raise InputError("precomputed embeddings have no output tokens; give images, or choose another method.")
        together = BATCH * world()
        parts = np.split(np.arange(len(data)), range(together, len(data), together))
        encode = self.backbone.encode_tokens
        tokens = (embed_images(data, encode, self.backbone, rows).numpy() for rows in parts)
        key, former = self._keys(data.key, "tokens")
        again = partial(embedded_again, data, encode, self.backbone)
        return streamed_cache(key, len(data), lambda: tokens, former, again)

    def _keys(self, *what: str, view: bool = True) -> tuple[str, Keys]:
        """The key of features in the cache, and what gives those under which earlier versions stored them.

        Args:
            what: the features are of.
            view: they are of images, seen through the view.
        """
        backbone = self.backbone
        rest = [*([backbone.view.key] if view else []), backbone.precision, backbone.device.type, *what]
        return cache_key(backbone.digest, *rest), lambda: [cache_key(old, *rest) for old in backbone.former_digests]

    def texts(self, tokens: Tensor) -> Tensor:
        """Un-normalized text features (P, D) of token ids (P, context), float32 on the CPU; cached as images are."""
        encode = self.backbone.encode_text
        key, former = self._keys("texts", str(tokens.tolist()), view=False)
        array = embedding_cache(key, lambda: encode_texts(encode, tokens).cpu().numpy(), former)
        return torch.from_numpy(array.copy())

    def classes(self, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Classifier (C, D) of the original CLIP for these classes, on its device."""
        return self._classes(tuple(class_names), tuple(templates))

    def _encoded(self, class_names: tuple[str, ...], templates: tuple[str, ...]) -> Tensor:
        tokens = class_tokens(self.backbone, class_names, templates)
        return encode_classes(self.backbone.encode_text, tokens)
