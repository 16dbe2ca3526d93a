"""open_clip, imported without what it does not use: the one place from which the package takes it."""

from __future__ import annotations

from everclip.system.lean import lean_imports

__all__ = [
    "IMAGENET_CLASSNAMES",
    "PreprocessCfg",
    "ResidualAttentionBlock",
    "image_transform_v2",
    "open_clip",
    "text_global_pool",
]

with lean_imports():
    import open_clip
    from open_clip import IMAGENET_CLASSNAMES
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from open_clip.transformer import ResidualAttentionBlock, text_global_pool
