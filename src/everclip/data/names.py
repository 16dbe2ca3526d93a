"""When two class names are the same, how they are shown, and what every data set must satisfy in names and prompts."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from everclip.errors import InputError

LONGEST_TASK_NAME = 200
"""Characters."""
_JOINERS = "\u200c\u200d"
"""They show nothing by themselves, but scripts and emoji are written with them."""

DEFAULT_TEMPLATES = ("a photo of a {}.",)


def shown_name(name: str) -> str:
    """A class name as it is shown and put into prompts: `golden_retriever` as a caption would write it.

    Unicode is composed (NFC: a file name from macOS comes in pieces), an underscore is a space, and runs of spaces are
    one. Letters stay as they were given. What has nothing but spaces and underscores stays as it is.
    """
    composed = unicodedata.normalize("NFC", name)
    return " ".join(composed.replace("_", " ").split()) or composed.strip()


def plain_name(name: str) -> str:
    """What makes two names the same: the form in which class names are compared, at every door.

    Unicode form, letter case, underscores and the number of spaces do not matter.
    """
    return unicodedata.normalize("NFC", shown_name(name).casefold())


def check_class_names(class_names: Sequence[str], where: str, least: int = 2) -> None:
    """Require enough class names, none empty and no two the same (`plain_name`).

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
                f"{where} has two classes that are equal up to case, spaces and underscores, {seen[plain]!r} and "
                f"{name!r}; rename one or merge them"
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


def task_name(name: str, where: str) -> str:
    """A task's name as every door takes it: without spaces around it, to be shown on a line and named in an address.

    Args:
        name: what somebody calls a task.
        where: who calls it so: the learner, a stream.

    Raises:
        InputError: a sentence that begins with `where`. The name is empty, longer than `LONGEST_TASK_NAME`, has
            characters that cannot be shown, or is `.` or `..`, which in an address mean other places.
    """
    plain = name.strip()
    check_encodable(plain, where)
    if not plain:
        raise InputError(f"{where} has a task with an empty name; give it another name.")
    if len(plain) > LONGEST_TASK_NAME:
        raise InputError(
            f"{where} has a task whose name, {plain[:40]!r}…, has {len(plain)} characters, but {LONGEST_TASK_NAME} are "
            "the most; give it another name."
        )
    if any(not char.isprintable() and char not in _JOINERS for char in plain):
        raise InputError(
            f"{where} has a task called {plain!r}, with a character that cannot be shown; give it another name."
        )
    if plain in (".", ".."):
        raise InputError(f"{where} has a task called '{plain}', which no address can name; give it another name.")
    return plain


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
