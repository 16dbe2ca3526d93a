"""Recipes: configurations as YAML, flat, with the same keys as `--set` and `config.yaml`.

One key is a recipe's own: `methods` gives settings of single methods, which go before the others.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from everclip.errors import InputError


def recipe_names() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(
        Path(entry.name).stem for entry in files("everclip.recipes").iterdir() if entry.name.endswith(".yaml")
    )


def read_recipe(name: str, method: str | None = None) -> dict[str, Any]:
    """Read a recipe file, or a recipe of the package by its name.

    Args:
        name: of a file, or of a recipe in the package.
        method: the method it is for; by default the one that it names, if it does.

    Raises:
        InputError: no such recipe, or not a YAML mapping.
    """
    source = Path(name).expanduser()
    if not source.is_file():
        if name not in recipe_names():
            raise InputError(f"recipe '{name}' is neither a file nor one of: {', '.join(recipe_names())}.")
        source = files("everclip.recipes") / f"{name}.yaml"
    try:
        with source.open("rb") as file:  # an open file, so that YAML's own messages name it
            values = yaml.safe_load(file)
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"recipe {name} can't be read: {' '.join(str(error).split())}; correct the file.") from error
    if not isinstance(values, dict):
        raise InputError(f"recipe {name} holds no settings; write lines such as 'method: finetune'.")
    by_method = values.pop("methods", {})
    if not isinstance(by_method, dict) or not all(isinstance(own, dict) for own in by_method.values()):
        raise InputError(f"recipe {name}: 'methods' must hold settings by method, such as 'finetune: {{lr: 1.0e-4}}'.")
    return values | by_method.get(method or values.get("method"), {})
