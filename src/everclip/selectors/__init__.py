"""The registry of selectors: one line each. Other packages add theirs under the entry points `everclip.selectors`."""

from __future__ import annotations

from everclip.registry import Registry, subclasses_of
from everclip.selectors.ddas import DDAS
from everclip.selectors.gaussian import Gaussian
from everclip.selectors.oracle import Oracle
from everclip.selectors.prototype import Prototype
from everclip.selectors.selector import Selector, SelectorConfig, load_checked, vote

__all__ = ["SELECTORS", "Selector", "SelectorConfig", "load_checked", "selector_class", "vote"]

_BUILT_IN: dict[str, type[Selector]] = {selector.name: selector for selector in (DDAS, Gaussian, Oracle, Prototype)}


SELECTORS: Registry[type[Selector]] = Registry(
    "selector", "everclip.selectors", _BUILT_IN, subclasses_of(Selector, "selector")
)


def selector_class(name: str) -> type[Selector]:
    """Look a selector up by name.

    Raises:
        InputError: no such selector.
    """
    return SELECTORS.find(name)
