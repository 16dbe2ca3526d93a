"""EverCLIP: teach a CLIP model task after task, without forgetting and without losing zero-shot.

What is public stands in `__all__`, and is imported when it is first asked for: `import everclip` alone loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from everclip._version import __version__

if TYPE_CHECKING:
    from everclip.errors import EverclipError, InputError
    from everclip.experiment.callbacks import Callback
    from everclip.experiment.config import Config
    from everclip.experiment.runner import run
    from everclip.learner import Learner
    from everclip.methods import Method
    from everclip.selectors import Selector
    from everclip.streams import Stream, Task

__all__ = [
    "Callback",
    "Config",
    "EverclipError",
    "InputError",
    "Learner",
    "Method",
    "Selector",
    "Stream",
    "Task",
    "__version__",
    "register",
    "run",
]

_ROOMS = {
    "Callback": "everclip.experiment.callbacks",
    "Config": "everclip.experiment.config",
    "EverclipError": "everclip.errors",
    "InputError": "everclip.errors",
    "Learner": "everclip.learner",
    "Method": "everclip.methods",
    "Selector": "everclip.selectors",
    "Stream": "everclip.streams",
    "Task": "everclip.streams",
    "run": "everclip.experiment.runner",
}


def register(thing: Any = None, name: str | None = None) -> Any:
    """Make a method, a selector, a stream, a data set or a callback of your own known by name; usable as a decorator.

        @everclip.register
        class OLoRA(everclip.Method):
            name = "olora"

    Args:
        thing: a class that inherits from `Method`, `Selector` or `Callback`, a `StreamKind`, or a `Published` data set.
        name: by default its own `name`.

    Returns:
        What was given, so that a decorated class stays what it is.

    Raises:
        InputError: it is none of these, or the name is taken.
    """
    if thing is None:
        return lambda given: register(given, name)
    for room in ("methods", "selectors", "streams", "data.published", "experiment.trackers"):
        importlib.import_module(f"everclip.{room}")  # each brings its registry
    from everclip.registry import enter

    enter(thing, name)
    return thing


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(importlib.import_module(_ROOMS[name]), name)
    raise AttributeError(f"module 'everclip' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
