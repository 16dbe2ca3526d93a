"""The identity of a CLIP model: a digest of named facts, none of which another library words.

Two models are the same where their tensors (name, shape, type, values), the functions between them and the evaluation
view are. Tensors alone do not tell: under another activation, number of heads or eps the same ones are another model.
So every module adds the facts of `FACTS` that it has, read as plain numbers and words, and every module without tensors
that does something in evaluation (an activation, a pooling) the name of its class.

Up to EverCLIP 0.1 the digest was taken of the model's `repr` instead, which torch words differently from version to
version; `former_digests` gives those, so that what was stored then is recognized.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

FORMAT = 2
"""Raised whenever the same model gets another digest; see `former_digests` for what becomes of stored ones."""

FACTS = (
    # normalization, activations
    *("eps", "approximate", "negative_slope"),
    # attention
    *("num_heads", "heads", "n_heads", "num_attention_heads", "add_zero_attn", "scaled_cosine", "scale_heads"),
    *("logit_scale_max", "window_size", "shift_size"),
    # convolution, pooling within the image tower
    *("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode", "output_size"),
    # what a vision transformer cuts and pools
    *("patch_size", "global_pool", "pool_type", "pool", "attn_pool_type", "final_ln_after_pool", "pool_include_prefix"),
    *("num_prefix_tokens", "no_embed_class"),
    # what a text transformer reads and pools
    *("context_length", "text_pool_type", "pad_id", "use_pad_mask", "padding_idx"),
    # rotary positions
    *("rotate_half", "temperature", "max_period", "grid_indexing"),
)
"""Attributes that decide what a module computes, as open_clip, timm, transformers and torch call them.

One that says nothing (None, False, 0, empty, "none") is left out: a library that adds such a setting changes no model.
"""

WITHOUT_EFFECT = ("Identity", "Dropout", "DropPath", "DropBlock", "Sequential", "ModuleList", "ModuleDict")
"""How the class names of modules end that have no tensors and do nothing in evaluation."""

COUNTERS = ("num_batches_tracked", "position_ids")
"""Tensors that count, which some versions of a library store and some do not."""


def digest(model: nn.Module, view: Any) -> str:
    """32 hex digits that stand for a model.

    Args:
        model: an open_clip model.
        view: its evaluation view, a `View`.
    """
    sha = hashlib.sha256()
    sha.update(_line({"format": FORMAT, "view": _view_facts(view), **_facts(model)}))
    for name, tensor in sorted(model.state_dict().items()):
        if name.rpartition(".")[2] not in COUNTERS:
            sha.update(_line([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]))
            sha.update(_bytes(tensor))
    return sha.hexdigest()[:32]


def _facts(model: nn.Module) -> dict[str, Any]:
    """What the modules say of themselves."""
    modules, functions = {}, []
    for name, module in model.named_modules():
        facts = dict(_stated(module))
        if isinstance(getattr(module, "attn_mask", None), Tensor):
            facts["causal"] = True
        bare = next(module.children(), None) is None and next(_tensors(module), None) is None
        if not bare:
            if facts:
                modules[name] = facts
        elif not (kind := type(module).__name__).endswith(WITHOUT_EFFECT):
            # By where it stands, not by what its attribute is called: no checkpoint holds that name fast.
            functions.append([name.rpartition(".")[0], kind, facts])
    return {"modules": modules, "functions": functions}


def _stated(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name in FACTS:
        value = getattr(module, name, None)
        if isinstance(value, tuple | list):
            value = list(value)
            plain = all(isinstance(each, bool | int | float | str) for each in value)
        else:
            plain = isinstance(value, bool | int | float | str)
        if plain and value and value != "none":
            yield name, value
    if (getattr(module, "text_pool_type", None) or getattr(module, "pool_type", None)) == "eos":
        # Elsewhere it is stated by some versions of open_clip only, and nothing reads it.
        yield "eos", getattr(module, "text_eos_id", getattr(module, "eos_id", None))


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _view_facts(view: Any) -> dict[str, Any]:
    return {
        "size": view.size,
        "mean": [float(value) for value in view.mean],
        "std": [float(value) for value in view.std],
        "interpolation": view.interpolation,
        "resize_mode": view.resize_mode,
        "fill_color": view.fill_color,
    }


def _line(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True).encode() + b"\n"


def _bytes(tensor: Tensor) -> Any:
    """The memory of a tensor, without a copy where it is contiguous and on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


# -- what earlier versions wrote ---------------------------------------------------------------------------------------


def former_digests(model: nn.Module, view: Any) -> Collection[str]:
    """The digests that EverCLIP 0.1 gave this model, under any torch from 2.4 on.

    They were taken of `repr(model)`, in which torch 2.13 began to say of norm layers whether they have a bias. The
    wording of all other layers of open_clip's own towers is the same from torch 2.4 to 2.14 and open_clip 3.0 to 3.3.
    """
    heads = [getattr(module, "num_heads", None) for module in model.modules()]
    seen = (
        f"View(size={view.size!r}, mean={view.mean!r}, std={view.std!r}, interpolation={view.interpolation!r}, "
        f"resize_mode={view.resize_mode!r}, fill_color={view.fill_color!r})"
    )
    digests = [hashlib.sha256(f"{_printed(model, bias)}{heads}{seen}".encode()) for bias in (True, False)]
    for name, tensor in sorted(model.state_dict().items()):
        content = tensor.detach().cpu().float().contiguous().numpy().tobytes()
        for sha in digests:
            sha.update(f"{name}{tuple(tensor.shape)}".encode())
            sha.update(content)
    return [sha.hexdigest()[:32] for sha in digests]


def _printed(module: nn.Module, bias: bool) -> str:
    """`repr(module)` as torch words it since version 2.4; `bias`: with what 2.13 added to norm layers."""
    kind = type(module)
    if kind.__repr__ not in (nn.Module.__repr__, nn.ModuleList.__repr__):
        return repr(module)
    # Not `named_children`, which leaves out what is there a second time.
    children = [(name, "None" if child is None else _printed(child, bias)) for name, child in module._modules.items()]
    if kind.__repr__ is nn.ModuleList.__repr__:
        children = list(_counted([text for _, text in children]))
    lines = [f"({name}): {text}".replace("\n", "\n  ") for name, text in children]
    settings = "" if isinstance(module, nn.ModuleList) else _settings(module, bias)
    if not lines:
        inside = settings if "\n" not in settings else "\n  " + "\n  ".join(settings.split("\n")) + "\n"
    else:
        inside = "\n  " + "\n  ".join([*(settings.split("\n") if settings else []), *lines]) + "\n"
    return f"{module._get_name()}({inside})"


def _counted(texts: list[str]) -> Iterator[tuple[str, str]]:
    """Equal neighbors of a list together: ("0-5", "6 x …")."""
    start = 0
    for end, text in enumerate(texts):
        if end + 1 == len(texts) or texts[end + 1] != text:
            yield (str(start), text) if start == end else (f"{start}-{end}", f"{end - start + 1} x {text}")
            start = end + 1


def _settings(module: nn.Module, bias: bool) -> str:
    """`module.extra_repr()`, of norm layers in the one wording or the other."""
    own = type(module).extra_repr
    about_bias = f", bias={module.bias is not None}" if bias and hasattr(module, "bias") else ""
    if isinstance(module, nn.LayerNorm) and own is nn.LayerNorm.extra_repr:
        return (
            f"{module.normalized_shape}, eps={module.eps}, elementwise_affine={module.elementwise_affine}{about_bias}"
        )
    if isinstance(module, nn.GroupNorm) and own is nn.GroupNorm.extra_repr:
        return f"{module.num_groups}, {module.num_channels}, eps={module.eps}, affine={module.affine}{about_bias}"
    if isinstance(module, _NormBase) and own is _NormBase.extra_repr:
        return (
            f"{module.num_features}, eps={module.eps}, momentum={module.momentum}, affine={module.affine}{about_bias}, "
            f"track_running_stats={module.track_running_stats}"
        )
    return module.extra_repr()
