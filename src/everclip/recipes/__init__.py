"""Recipes: configurations as YAML, flat, with the same keys as `--set` and `config.yaml`."""

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


def read_recipe(name: str) -> dict[str, Any]:
    """Read a recipe file, or a recipe of the package by its name.

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
    return values
