"""One CLIP for every method: loading, encoding, the blocks of both towers, the evaluation view.

A `Backbone` wraps an open_clip model and adds what open_clip leaves to its callers: one name for every source of
weights, text cut to the longest prompt of a batch where that is exact, bf16 autocast inside `encode_*`, and a digest
by which caches and checkpoints recognize the model.
"""

from __future__ import annotations

import copy
import difflib
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from importlib.util import find_spec
from typing import Any, Literal, cast

import torch
from PIL import Image
from torch import Tensor, nn

from everclip.backbone.foreign import OpenClip, TextTower, Tokenizer
from everclip.backbone.identity import digest, former_digests
from everclip.backbone.tokens import output_tokens
from everclip.errors import EverclipError, InputError
from everclip.storage.identity import Identity
from everclip.system.openclip import PreprocessCfg, image_transform_v2, open_clip, text_global_pool
from everclip.system.paths import expanded

Precision = Literal["float32", "bf16"]

EMBEDDED = "embedded"
RANDOM = "random"
TEXT_PACKAGE = "transformers"
"""What reads text where open_clip's own tokenizer does not; the extra `siglip` installs it."""


@dataclass(frozen=True)
class View:
    """The evaluation transform of a model up to uint8: an image of any size in, the S × S crop the tower sees out."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    resize_mode: str
    fill_color: int

    @property
    def key(self) -> str:
        """What decides the pixels of the view; part of the key of every cache built on it."""
        return f"{self.size}-{self.interpolation}-{self.resize_mode}-{self.fill_color}"

    @cached_property
    def _transforms(self) -> list[Callable[[Image.Image], Image.Image]]:
        config = PreprocessCfg(
            size=self.size,
            interpolation=self.interpolation,
            resize_mode=self.resize_mode,
            fill_color=self.fill_color,
            mean=self.mean,
            std=self.std,
        )
        # open_clip's own pipeline without its last two steps (to float, normalize): those belong on the device.
        steps: list[Callable[[Image.Image], Image.Image]] = image_transform_v2(config, is_train=False).transforms
        return steps[:-2]

    def __call__(self, image: Image.Image) -> Image.Image:
        """Resize and crop an RGB image to (S, S), exactly as open_clip's evaluation transform does."""
        for transform in self._transforms:
            image = transform(image)
        return image


class Backbone(nn.Module):
    """A CLIP-type model with both towers, its tokenizer and its evaluation view.

    Args:
        model: an open_clip `CLIP` or `CustomTextCLIP` (ViT or SigLIP type).
        tokenizer: maps a list of strings to token ids (P, context).
        name: the name it was loaded under (see `Backbone.load`).
        precision: `float32`, or `bf16` for autocast inside `encode_image` and `encode_text`; weights stay float32 and
            features come back as float32.
    """

    _mean: Tensor
    _std: Tensor

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, name: str, precision: Precision = "float32") -> None:
        super().__init__()
        self.model = cast(OpenClip, model)
        self.tokenizer = tokenizer
        self.name = name
        self.precision = precision
        # CustomTextCLIP keeps its text tower in `.text`; CLIP spreads it over the model itself.
        self._text_holder = "text" if hasattr(model, "text") else ""
        preprocess = open_clip.get_model_preprocess_cfg(model)
        size = preprocess.get("size", 224)
        width, height = (size, size) if isinstance(size, int) else size
        if width != height:
            raise InputError(f"backbone '{name}' wants {height}×{width} images; only square inputs are supported.")
        self.view = View(
            size=int(width),
            mean=tuple(preprocess["mean"]),
            std=tuple(preprocess["std"]),
            interpolation=preprocess.get("interpolation", "bicubic"),
            resize_mode=preprocess.get("resize_mode", "shortest"),
            fill_color=preprocess.get("fill_color", 0),
        )
        self.register_buffer("_mean", torch.tensor(self.view.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(self.view.std).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def load(cls, name: str, device: str | torch.device = "cpu", precision: Precision = "float32") -> Backbone:
        """Load a backbone by name, frozen and in evaluation mode.

        Args:
            name: `embedded`, the small CLIP of the package · `ARCH/TAG`, an open_clip architecture and one of its
                pretrained tags (`ViT-B-16/openai`) · `ARCH/FILE`, the same with a local checkpoint ·
                `ARCH/random`, seeded random weights · `hf-hub:ORG/NAME` · a folder that holds
                `open_clip_config.json` and its weights.
            device: where the model goes.
            precision: see `Backbone`.

        Raises:
            InputError: no such architecture, tag, file or folder; or the package that reads its text is not installed.
            EverclipError: the weights could not be downloaded or read.
        """
        source, kwargs = _resolve(name)
        try:
            _check_text_package(source)
            with torch.random.fork_rng(devices=[]), quiet_libraries():
                torch.manual_seed(0)  # `random` weights, and any weight a checkpoint leaves out, are reproducible
                model = open_clip.create_model(source, load_weights=kwargs.pop("load_weights", True), **kwargs)
                tokenizer = open_clip.get_tokenizer(source)
        except ImportError as error:
            raise InputError(f"backbone '{name}' needs {_lacking(error)}") from error
        except Exception as error:  # a damaged checkpoint or config raises whatever its reader comes up with
            raise EverclipError(
                f"backbone '{name}' could not be loaded ({_brief(error)}…); check the file or the connection, or name "
                "a local copy: ARCH/FILE, or a folder with open_clip_config.json."
            ) from error
        backbone = cls(model, tokenizer, name, precision).to(device)
        return backbone.requires_grad_(False).eval()

    # -- encoding ------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._mean.device

    @property
    def embed_dim(self) -> int:
        """Width D of the joint embedding space."""
        width = getattr(self.model.visual, "output_dim", None)
        if width is not None:
            return int(width)
        with torch.no_grad():
            return self.encode_image(self._mean.new_zeros(1, 3, self.view.size, self.view.size)).shape[-1]

    @property
    def logit_scale(self) -> Tensor:
        """s = exp(logit_scale), the inverse temperature of the logits; never trained."""
        return self.model.logit_scale.detach().float().exp().reshape(())

    def autocast(self) -> AbstractContextManager[object]:
        """What `precision` asks for."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 images (B, 3, S, S) in 0..255 → normalized float32 pixels on the model's device."""
        return (images.to(self.device, non_blocking=True).float() / 255 - self._mean) / self._std

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Normalized pixels (B, 3, S, S) → un-normalized image features (B, D), float32."""
        with self.autocast():
            return self.model.encode_image(pixels).float()

    def encode_tokens(self, pixels: Tensor) -> Tensor:
        """Normalized pixels (B, 3, S, S) → output tokens in the embedding space (B, T, D), float32; see `tokens`.

        Row 0 is what `encode_image` returns.

        Raises:
            InputError: the image tower is not a vision transformer.
        """
        with self.autocast():
            return output_tokens(self.model.visual, self.model.encode_image, pixels, self.name).float()

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids (P, context) → un-normalized text features (P, D), float32.

        The context is cut to the longest prompt of the batch where that is exact: under a causal mask nothing after
        the pooled EOT token can reach it. Other text towers (SigLIP attends both ways and pools the last position)
        are encoded in full.
        """
        with self.autocast():
            if not self.text_can_be_cut:
                return self.model.encode_text(tokens).float()
            text = self.text_tower
            eot = self.eot_position(tokens)
            length = int(eot.max()) + 1
            x: Tensor = text.token_embedding(tokens[:, :length]) + text.positional_embedding[:length]
            x = text.transformer(x, attn_mask=text.attn_mask[:length, :length])
            return self.pooled_text(x, eot)

    def pooled_text(self, x: Tensor, eot: Tensor) -> Tensor:
        """Output tokens of the text transformer (P, T, W) → text features (P, D), float32, pooled at `eot` (P,)."""
        text = self.text_tower
        # ln_final acts on each token alone, so pooling first is the same and P tokens instead of P·T.
        x = text.ln_final(x[torch.arange(len(x), device=x.device), eot])
        projection = text.text_projection
        if projection is not None:
            x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
        return x.float()

    def eot_position(self, tokens: Tensor) -> Tensor:
        """Index of the token that the text tower pools, (P,)."""
        text = self.text_tower
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        eos = getattr(text, "text_eos_id", getattr(text, "eos_id", None))
        pooled: Tensor = text_global_pool(positions, tokens, _pool_type(text), eos_token_id=eos)
        return pooled

    def tokenize(self, texts: list[str]) -> Tensor:
        """Strings → token ids (P, context) on the model's device.

        Raises:
            InputError: a text is longer than the tower's context; cut silently it would be another prompt.
        """
        tokens = self.tokenizer(texts)
        context = tokens.shape[1]
        # A prompt that fills the context may have been cut: tokenize it again with room to spare. The last token may be
        # an end mark that equals padding (SigLIP), so the last but one tells.
        padding = int(self.tokenizer([""])[0, -1])
        for index in (tokens[:, -2] != padding).nonzero().flatten().tolist():
            if bool((self.tokenizer([texts[index]], context_length=4 * context)[0, context:] != padding).any()):
                raise InputError(
                    f"the prompt '{texts[index][:80]}…' is longer than the {context} tokens that backbone "
                    f"'{self.name}' reads; shorten the class name or the template."
                )
        return tokens.to(self.device)

    # -- structure -----------------------------------------------------------------------------------------------

    @property
    def text_tower(self) -> TextTower:
        """The module that holds token embedding, transformer, final norm and projection of the text side."""
        return cast(TextTower, self.model.get_submodule(self._text_holder))

    @property
    def text_can_be_cut(self) -> bool:
        """True where cutting the context after the EOT token leaves the features unchanged."""
        text = self.text_tower
        return (
            getattr(text, "attn_mask", None) is not None
            and getattr(text, "cls_emb", None) is None
            and _pool_type(text) in ("argmax", "eos")
        )

    @property
    def image_blocks(self) -> list[nn.Module]:
        """The residual attention blocks of the image tower, first to last. Tokens travel as (B, T, D)."""
        visual = self.model.visual
        for holder, attribute in ((visual, "transformer"), (visual, "trunk")):
            tower = getattr(holder, attribute, None)
            blocks = getattr(tower, "resblocks", None) or getattr(tower, "blocks", None)
            if blocks is not None:
                return list(blocks)
        raise InputError(f"the image tower of '{self.name}' is not a vision transformer; its blocks can't be reached.")

    @property
    def text_blocks(self) -> list[nn.Module]:
        """The residual attention blocks of the text tower, first to last. Tokens travel as (B, T, D)."""
        blocks = getattr(getattr(self.text_tower, "transformer", None), "resblocks", None)
        if blocks is None:
            raise InputError(f"the text tower of '{self.name}' is not an open_clip transformer (no residual blocks).")
        return list(blocks)

    @property
    def has_class_token(self) -> bool:
        """Whether the image tower pools a class token (else routers read the mean token)."""
        visual = self.model.visual
        trunk = getattr(visual, "trunk", visual)
        return getattr(trunk, "class_embedding", None) is not None or getattr(trunk, "cls_token", None) is not None

    @cached_property
    def digest(self) -> str:
        """What caches, learners and runs know the model by: see `everclip.backbone.identity`.

        Taken from the weights as loaded: a method trains a `clone`, never the backbone itself.
        """
        return digest(self.model, self.view)

    @cached_property
    def former_digests(self) -> tuple[str, ...]:
        """What files of earlier versions of EverCLIP call the same model."""
        return tuple(former_digests(self.model, self.view))

    @property
    def identity(self) -> Identity:
        """The digest with its former ones."""
        return Identity(self.digest, lambda: self.former_digests)

    def clone(self, share_weights: bool = False) -> Backbone:
        """A second model; tokenizer and view are shared.

        Args:
            share_weights: False: a copy with its own weights, for methods that train them. True: other modules around
                the very same tensors, for methods that add something to frozen blocks.
        """
        tensors = [*self.model.parameters(), *self.model.buffers()] if share_weights else []
        model = copy.deepcopy(self.model, {id(tensor): tensor for tensor in tensors})
        return Backbone(model, self.tokenizer, self.name, self.precision).to(self.device)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """What open_clip and the hub's client log while loading is said better by the one sentence of the error."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _pool_type(text: nn.Module) -> str:
    return getattr(text, "text_pool_type", "") or getattr(text, "pool_type", "")


def _check_text_package(source: str) -> None:
    """Ask for what reads the model's text before its weights are downloaded, for open_clip asks only then.

    Args:
        source: as open_clip's factory takes it.

    Raises:
        ModuleNotFoundError: the text is read by `transformers` (SigLIP, CLIPA, multilingual models), which is absent.
    """
    text = (open_clip.get_model_config(source) or {}).get("text_cfg", {})
    if any(text.get(key) for key in ("hf_tokenizer_name", "hf_model_name")) and find_spec(TEXT_PACKAGE) is None:
        raise ModuleNotFoundError(f"No module named '{TEXT_PACKAGE}'", name=TEXT_PACKAGE)


def _lacking(error: ImportError) -> str:
    """The end of a sentence: which package, and how to get it."""
    if isinstance(error, ModuleNotFoundError) and error.name == TEXT_PACKAGE:
        return f"{TEXT_PACKAGE} for its text, which is not installed; get it by pip install 'everclip[siglip]'."
    return f"a package that is not installed, or another version of it ({_brief(error)}); install what is named."


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _resolve(name: str) -> tuple[str, dict[str, Any]]:
    """A backbone name → what open_clip's factory takes: (model name, keyword arguments)."""
    if name == EMBEDDED:
        return f"local-dir:{files('everclip') / 'embedded'}", {}
    if name.startswith("hf-hub:"):
        return name, {"require_pretrained": True}
    folder = expanded(name.removeprefix("local-dir:"))
    if name.startswith("local-dir:") or folder.is_dir():
        if not (folder / "open_clip_config.json").is_file():
            raise InputError(
                f"backbone folder {folder} has no open_clip_config.json; point at an open_clip model folder."
            )
        return f"local-dir:{folder}", {"require_pretrained": True}
    arch, _, weights = name.partition("/")
    if arch not in open_clip.list_models():
        close = difflib.get_close_matches(arch, open_clip.list_models(), n=4, cutoff=0.4)
        hint = f"did you mean {', '.join(close)}?" if close else "see open_clip's list of models."
        raise InputError(
            f"backbone '{name}' is neither '{EMBEDDED}', an existing folder nor an open_clip architecture; {hint}"
        )
    if weights == RANDOM:
        return arch, {"load_weights": False}
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if weights in tags:
        # open_clip only warns when a tag was trained with QuickGELU and the architecture says GELU: the published
        # figures of `openai` weights need the former.
        quick = bool(open_clip.get_pretrained_cfg(arch, weights).get("quick_gelu"))
        return arch, {"pretrained": weights, "force_quick_gelu": quick}
    if weights and expanded(weights).is_file():
        return arch, {"pretrained": str(expanded(weights))}
    what = f"has no pretrained weights '{weights}'" if weights else "needs the name of its weights"
    valid = ", ".join([*tags, RANDOM])
    raise InputError(f"backbone '{arch}' {what}; write {arch}/WEIGHTS with a checkpoint file or one of: {valid}.")


def resolve_device(name: str) -> torch.device:
    """`auto` → the best device there is; anything else as torch spells it.

    Raises:
        InputError: torch does not know it, or this machine does not have it.
    """
    if name == "auto":
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"device '{name}' can't be used ({reason}); try --device cpu or auto.") from error
    return device
