"""open_clip, imported without torch's compiler: the one place from which the package takes it.

open_clip imports torchvision and timm. Each of them takes one function of `torch._dynamo` while it is imported, to call
it much later if at all, and that imports the compiler, which costs two thirds of what torch itself does. Stand-ins for
these two functions are in place meanwhile; they import the compiler when they are called. Whatever else is asked for is
torch's own, at once: other versions of the two libraries work as well, only more slowly.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

__all__ = [
    "IMAGENET_CLASSNAMES",
    "PreprocessCfg",
    "ResidualAttentionBlock",
    "image_transform_v2",
    "open_clip",
    "text_global_pool",
]

COMPILER, PART = "torch._dynamo", "torch._dynamo.utils"


@contextmanager
def compiler_when_called() -> Iterator[None]:
    """Let what is imported inside take `is_compile_supported` and `torch.compiler.disable` without the compiler.

    Nothing of it is left behind in torch. Does nothing where the compiler is loaded already.
    """
    if COMPILER in sys.modules:
        yield
        return
    compiler: Any = torch.compiler
    disable, part = compiler.disable, _Part(PART)
    compiler.disable, sys.modules[PART] = functools.partial(_disabled, disable), part
    try:
        yield
    finally:
        compiler.disable = disable
        part.leave()


class _Part(ModuleType):
    """In place of `torch._dynamo.utils` until that is imported, or more is wanted of it than the one function."""

    def leave(self) -> None:
        if sys.modules.get(PART) is self:
            del sys.modules[PART]

    def is_compile_supported(self, device_type: Any) -> Any:
        return self.__getattr__("is_compile_supported")(device_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python asks of every module, `__path__` and `__file__` above all
            raise AttributeError(name)
        self.leave()
        return getattr(importlib.import_module(PART), name)


def _disabled(disable: Callable[..., Any], function: Any = None, *options: Any, **named: Any) -> Any:
    """What torch's `disable` does to a function, but when that is called and not when it is defined."""
    if function is None:  # `@disable()`
        return lambda given: _disabled(disable, given, *options, **named)
    if not inspect.isfunction(function):
        return disable(function, *options, **named)

    @functools.wraps(function)
    def called(*arguments: Any, **keywords: Any) -> Any:
        return disable(function, *options, **named)(*arguments, **keywords)

    return called


with compiler_when_called():
    import open_clip
    from open_clip import IMAGENET_CLASSNAMES
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from open_clip.transformer import ResidualAttentionBlock, text_global_pool
