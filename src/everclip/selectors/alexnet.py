"""Features of an ImageNet AlexNet, on which the published DDAS works (Yu et al., CVPR 2024, arXiv 2403.11549)."""

from __future__ import annotations

import hashlib
import pickle
import struct
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from everclip.backbone import Backbone
from everclip.backbone.features import embed_images, embedded_again
from everclip.data import LabeledEmbeddings, ViewedImages, cache_key, embedding_cache
from everclip.errors import InputError
from everclip.storage.reading import size_of
from everclip.system.paths import expanded
from everclip.system.processes import main_first

CONV5 = 11
"""Modules of torchvision's `alexnet().features` up to its last convolution, the ReLU after it left out."""
SMALLEST = 31
"""Pixels; of a smaller image the pooling layers leave nothing."""


_UNREADABLE = (
    *(OSError, EOFError, SafetensorError, pickle.UnpicklingError, struct.error, RuntimeError),
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError),
)
"""What the readers come up with on missing and damaged files; torch's raises the lower row on some flipped bits."""


class AlexNet:
    """The convolutions of an AlexNet, frozen.

    Args:
        weights: a state dict in torchvision's layout, `.safetensors` or what `torch.save` writes; empty for
            torchvision's own ImageNet weights, downloaded once.

    Raises:
        InputError: the weights can't be downloaded or read, or are of another network.
    """

    def __init__(self, weights: str) -> None:
        from torchvision.models import alexnet  # torchvision loads slowly: only where AlexNet is asked for

        tensors = _read(expanded(weights)) if weights else _download()
        with torch.device("meta"):  # the file brings the weights; nothing is drawn
            self._layers = alexnet().features[:CONV5]
        layers = {name[len("features.") :]: t for name, t in tensors.items() if str(name).startswith("features.")}
        try:
            self._layers.load_state_dict(layers, assign=True)
        except RuntimeError as error:
            raise InputError(
                f"alexnet={weights} does not hold the weights of torchvision's AlexNet (features.0.weight, …); name "
                "another file, or none to download them."
            ) from error
        self._layers.float().requires_grad_(False).eval()
        sha = hashlib.sha256()
        for name, tensor in sorted(self._layers.state_dict().items()):
            sha.update(name.encode() + tensor.contiguous().numpy().tobytes())
        self.digest = sha.hexdigest()[:32]

    def images(self, data: ViewedImages | LabeledEmbeddings, backbone: Backbone) -> Tensor:
        """Features (N, D) float16, mapped from the cache file: of the CLIP's views, normalized as for the CLIP.

        D = 256 · side²; 43,264 at 224 px. Computed in float32 whatever the backbone's precision.

        Raises:
            InputError: precomputed embeddings, or a CLIP whose images are too small.
        """
        if isinstance(data, LabeledEmbeddings):
            raise InputError("features=alexnet looks at images, but the stream gives embeddings; set features=clip.")
        if backbone.view.size < SMALLEST:
            raise InputError(
                f"features=alexnet needs images of {SMALLEST} pixels, but backbone '{backbone.name}' sees "
                f"{backbone.view.size}; set features=clip."
            )
        view = backbone.view
        key = cache_key("alexnet", self.digest, view.key, repr((view.mean, view.std)), backbone.device.type, data.key)
        again = partial(embedded_again, data, self._encode, backbone)
        stored = embedding_cache(key, lambda: embed_images(data, self._encode, backbone).numpy(), again=again)
        # A tensor can't verify what is read of it, so all is verified now. And torch takes only arrays that may be
        # written to: copy on write leaves the file alone, and memory free of it.
        return torch.from_numpy(stored.mapped())

    def _encode(self, pixels: Tensor) -> Tensor:
        seen: Tensor = self._layers.to(pixels.device)(pixels)
        return seen.flatten(1).half()


def _read(path: Path) -> dict[str, Tensor]:
    try:
        size_of(path)  # a pipe or a device might be read for ever
        tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(
            f"alexnet={path} can't be read ({reason}); name a .pth or .safetensors of torchvision's AlexNet."
        ) from error
    if not isinstance(tensors, dict):
        raise InputError(f"alexnet={path} holds no state dict; name one of torchvision's AlexNet.")
    return tensors


def _download() -> dict[str, Tensor]:
    from torchvision.models import AlexNet_Weights

    try:
        with main_first():
            weights: dict[str, Tensor] = AlexNet_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
            return weights
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"the AlexNet weights can't be downloaded ({error}); set alexnet=FILE to a copy of torchvision's "
            f"{AlexNet_Weights.IMAGENET1K_V1.url.rpartition('/')[2]}."
        ) from error
