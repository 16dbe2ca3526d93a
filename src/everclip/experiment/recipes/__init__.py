"""Recipes: configurations as YAML, flat, with the same keys as `--set` and `config.yaml`.

Only recipes have these two keys: `base` names a recipe of the package that this one changes, and `methods` gives
settings for single methods, which take precedence over the others.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everclip.errors import InputError
from everclip.experiment.config import layered
from everclip.registry import refuse_places
from everclip.storage.reading import TEXT_LIMIT, Malformed, require_size, settings_of, shown, yaml_of
from everclip.system.paths import expanded

if TYPE_CHECKING:
    if sys.version_info >= (3, 11):
        from importlib.resources.abc import Traversable
    else:
        from importlib.abc import Traversable


def recipe_names() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(
        Path(entry.name).stem
        for entry in files("everclip.experiment.recipes").iterdir()
        if entry.name.endswith(".yaml")
    )


def read_recipe(name: str, method: str | None = None) -> dict[str, Any]:
    """Read a recipe file, or a recipe of the package by its name.

    Args:
        name: of a file, or of a recipe in the package.
        method: the method it is for; by default the one that it names, if it does.

    Raises:
        InputError: no such recipe, not a YAML mapping, or a base that the package does not have.
    """
    source = expanded(name)
    return _read(
        name, source if source.is_file() else _packaged(name, f"recipe '{name}' is neither a file nor"), method
    )


def _packaged(name: str, problem: str) -> Traversable:
    if name not in recipe_names():
        raise InputError(f"{problem} one of: {', '.join(recipe_names())}.")
    return files("everclip.experiment.recipes") / f"{name}.yaml"


def _read(name: str, source: Path | Traversable, method: str | None) -> dict[str, Any]:
    try:
        if isinstance(source, Path):
            require_size(source, TEXT_LIMIT)
        with source.open("rb") as file:
            values = settings_of(yaml_of(file.read()))
    except OSError as error:
        raise InputError(
            f"recipe {name} can't be read ({error.strerror}); make it readable, then try again."
        ) from error
    except Malformed as error:
        raise InputError(
            f"recipe {name} can't be read, it {error}; correct the file, write lines such as 'method: finetune'."
        ) from error
    by_method = values.pop("methods", {})
    if not isinstance(by_method, dict) or not all(isinstance(own, dict) for own in by_method.values()):
        raise InputError(f"recipe {name}: 'methods' must hold settings by method, such as 'finetune: {{lr: 1.0e-4}}'.")
    method = method or values.get("method")
    if (base := values.pop("base", None)) is not None:
        # A base is always the package's: files that build on each other could go round in circles.
        values = layered(_read(base, _packaged(base, f"recipe {name}: its base {shown(base)} is not"), method), values)
    values = layered(values, by_method.get(str(method or values.get("method")), {}))
    refuse_places(values, f"recipe {name}")
    return values
