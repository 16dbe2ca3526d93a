"""What the commands share: options and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from everclip.errors import InputError
from everclip.system.paths import expanded

Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Any other setting, for example --set iterations=60 --set lr=1e-3."
    ),
]

DeviceOption = Annotated[str | None, typer.Option(help="auto · cpu · cuda · …")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, with every setting.")]


def path(text: str) -> Path:
    """What a command takes for a path; help calls it by this function's name."""
    return expanded(text)


def path_option(text: str, metavar: str | None = None) -> Any:
    """An option that is a path; every one is made here, so that `--out=~/x` is the same to all commands."""
    return typer.Option(help=text, metavar=metavar, parser=path)


def path_argument(metavar: str | None, text: str) -> Any:
    """An argument that is a path; see `path_option`."""
    return typer.Argument(help=text, metavar=metavar, parser=path)


def given(options: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """Options and `KEY=VALUE` strings together, the latter read as YAML: numbers, lists and `null` come out as such."""
    from everclip.storage.reading import Malformed, yaml_of  # loads pydantic and YAML: not for a list of commands

    values = dict(options)
    for setting in settings:
        key, equals, value = setting.partition("=")
        key = key.strip()
        if not equals or not key:
            raise InputError(f"--set {setting} is not of the form KEY=VALUE, for example --set lr=1e-3.")
        if key in values:
            raise InputError(f"--set {setting} gives {key} a second time, after {key}={values[key]}; give it once.")
        try:
            values[key] = yaml_of(value)
        except Malformed as error:
            raise InputError(
                f"--set {setting[:200]}: this is not a value (a number, a word, or a list [a, b]), for it {error}."
            ) from error
    return values
