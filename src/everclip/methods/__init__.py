"""The registry of methods: one line per method. Other packages add theirs under the entry points `everclip.methods`."""

from __future__ import annotations

from everclip.methods.adapters import AttentionAdapterMethod, LinearAdapterMethod
from everclip.methods.anchored import WeightConsolidation, WiSEFT
from everclip.methods.class_means import LDA, NCM
from everclip.methods.distilled import LwF, LwFVR
from everclip.methods.full_model import Finetune, Joint, Separate
from everclip.methods.icarl import ICaRL
from everclip.methods.method import ORIGINAL, Batch, Loss, Method, MethodConfig, Reference, Sources, load_checked
from everclip.methods.moe_adapters import MoEAdapters
from everclip.methods.prompt_tuning import PromptTuning
from everclip.methods.ridge import RAIL, DualRAIL, RanPAC
from everclip.methods.zero_shot import ZeroShot
from everclip.methods.zscl import ZSCL
from everclip.registry import Registry, subclasses_of

__all__ = [
    "METHODS",
    "ORIGINAL",
    "Batch",
    "Loss",
    "Method",
    "MethodConfig",
    "Reference",
    "Sources",
    "load_checked",
    "method_class",
]

_BUILT_IN: dict[str, type[Method]] = {
    method.name: method
    for method in (
        ZeroShot, Finetune, WeightConsolidation, WiSEFT, LwF, LwFVR, ICaRL, ZSCL, MoEAdapters, LinearAdapterMethod,
        AttentionAdapterMethod, PromptTuning, NCM, LDA, RanPAC, RAIL, DualRAIL, Joint, Separate,
    )
}  # fmt: skip


METHODS: Registry[type[Method]] = Registry("method", "everclip.methods", _BUILT_IN, subclasses_of(Method, "method"))


def method_class(name: str) -> type[Method]:
    """Look a method up by name.

    Raises:
        InputError: no such method.
    """
    return METHODS.find(name)
