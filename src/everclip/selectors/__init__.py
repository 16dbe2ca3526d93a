"""The registry of selectors: one line per selector."""

from __future__ import annotations

from everclip.errors import InputError
from everclip.selectors.ddas import DDAS
from everclip.selectors.gaussian import Gaussian
from everclip.selectors.oracle import Oracle
from everclip.selectors.prototype import Prototype
from everclip.selectors.selector import Selector, SelectorConfig, vote

__all__ = ["SELECTORS", "Selector", "SelectorConfig", "selector_class", "vote"]

SELECTORS: dict[str, type[Selector]] = {selector.name: selector for selector in (DDAS, Gaussian, Oracle, Prototype)}


def selector_class(name: str) -> type[Selector]:
    """Look a selector up by name.

    Raises:
        InputError: no such selector.
    """
    if name not in SELECTORS:
        raise InputError(f"there is no selector '{name}'; choose from {', '.join(SELECTORS)}.")
    return SELECTORS[name]
