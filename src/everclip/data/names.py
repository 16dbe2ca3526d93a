"""What every dataset must satisfy in its class names and prompt templates, wherever they come from."""

from __future__ import annotations

from collections.abc import Sequence

from everclip.errors import InputError

DEFAULT_TEMPLATES = ("a photo of a {}.",)


def plain_name(name: str) -> str:
    """What makes two names the same: letter case and the number of spaces do not matter."""
    return " ".join(name.split()).casefold()


def check_class_names(class_names: Sequence[str], where: str, least: int = 2) -> None:
    """Require enough class names, none empty and no two the same up to letter case and spaces.

    Args:
        class_names: the names.
        where: the file or folder they come from.
        least: how many there must be.

    Raises:
        InputError: a sentence that begins with `where`.
    """
    if len(class_names) < least:
        words = {1: "one", 2: "two"}.get(least, least)
        raise InputError(f"{where} has {len(class_names)} class(es), but learning needs at least {words}; add another")
    seen: dict[str, str] = {}
    for name in class_names:
        plain = plain_name(name)
        if not plain:
            raise InputError(f"{where} has a class with an empty name; give it a name")
        check_encodable(name, where)
        if plain in seen:
            raise InputError(
                f"{where} has two classes that are equal up to case and spaces, {seen[plain]!r} and {name!r}; "
                "rename one or merge them"
            )
        seen[plain] = name


def check_encodable(name: str, where: str) -> None:
    """Require a name that can be written as text: a file name of other bytes than UTF-8 cannot.

    Raises:
        InputError: a sentence that begins with `where`.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where} has the name {name!r}, which is not valid text; rename it") from None


def check_templates(templates: Sequence[str], where: str) -> None:
    """Require at least one template and exactly one `{}`, the place of the class name, in each.

    Raises:
        InputError: a sentence that begins with `where`, the file the templates come from.
    """
    if not templates:
        raise InputError(f"{where} has an empty list of templates; add one, such as {DEFAULT_TEMPLATES[0]!r}")
    for template in templates:
        if template.count("{}") != 1:
            raise InputError(f"{where} has the template {template!r}; write exactly one {{}} where the class name goes")
