"""Importing open_clip without what it does not use.

open_clip imports torchvision and timm, and these import much that answering an image needs nothing of. What is left for
later costs more than all the rest beside torch:

- torchvision and timm take one function each of `torch._dynamo`, torch's compiler, to call it much later if at all.
- open_clip takes four names and `create_model` of timm, for image towers of timm.
- torchvision imports its models and data sets for whoever says `torchvision.models` later.

While open_clip is imported, stand-ins for these modules are in place. The functions named below import the real ones
when they are called. Whatever else is asked for is the library's own, at once: other versions of these libraries work
as well, only more slowly.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

COMPILER = "torch._dynamo"
LATER: dict[str, tuple[str, ...]] = {
    "torch._dynamo.utils": ("is_compile_supported",),
    "timm": (),
    "timm.layers": ("AttentionPool2d", "Mlp", "RotAttentionPool2d", "to_2tuple"),
    "torchvision.datasets": (),
    "torchvision.models": (),
}
"""Modules that have stand-ins, and what of each is only called."""
LOADED = {"torch._dynamo.utils": COMPILER, "timm.layers": "timm"}
"""Where another module tells that there is nothing to save any more."""


@contextmanager
def lean_imports() -> Iterator[None]:
    """Let what is imported inside take the compiler, timm, and torchvision's models and data sets for later.

    Nothing of it is left behind in `sys.modules` or torch. Does nothing for a library that is loaded already.
    """
    compiler: Any = torch.compiler
    disable, finder = compiler.disable, _Below()
    stand_ins = [_StandIn(name) for name in LATER if not {name, LOADED.get(name, name)} & sys.modules.keys()]
    if COMPILER not in sys.modules:
        compiler.disable = functools.partial(_disabled, disable)
    sys.modules.update((part.__name__, part) for part in stand_ins)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        compiler.disable = disable
        for part in stand_ins:
            part.leave()


class _StandIn(ModuleType):
    """In place of a module until that is imported, or more is wanted of it than functions to call later."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None, is_package=True)  # transformers asks whether there is a timm
        self.__path__: list[str] = []  # a package, so that what is imported from below it reaches `_Below`

    def leave(self) -> None:
        """Let the next import of this name find the module itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def real(self) -> ModuleType:
        """The module itself, imported now; the stand-ins of its library are in its way."""
        library = self.__name__.partition(".")[0]
        for name, part in list(sys.modules.items()):
            if isinstance(part, _StandIn) and name.partition(".")[0] == library:
                part.leave()
        return importlib.import_module(self.__name__)

    def __getattr__(self, name: str) -> Any:
        stands_in = sys.modules.get(self.__name__) is self
        if stands_in and name.startswith("__"):  # what Python asks of every module, `__file__` above all
            raise AttributeError(name)
        if stands_in and name in LATER[self.__name__]:
            return lambda *arguments, **named: getattr(self.real(), name)(*arguments, **named)
        return getattr(self.real(), name)


class _Below:
    """Finds what is imported from below a stand-in: in the module itself, which is imported for it."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        above = sys.modules.get(name.rpartition(".")[0])
        if not isinstance(above, _StandIn):
            return None
        above.real()
        return ModuleSpec(name, _Found(importlib.import_module(name)))


class _Found(Loader):
    """Gives a module that is loaded already: many must not be executed twice."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__
        module.__spec__ = None  # else the import system prefers this spec to ours, and executes the module again

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


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
