"""What a source of images does not say itself."""

from __future__ import annotations

from dataclasses import dataclass

from everclip.errors import InputError


@dataclass(frozen=True)
class How:
    """What a source does not say itself; every door hands it through.

    Attributes:
        called: what the names of images that are no files begin with.
        path_column: the column of a table that holds images, or the paths of them; by default one that is called so.
        label_column: the one with their classes.
        part_column: the one that says train, valid or test; without one, the source is not divided.
    """

    called: str = ""
    path_column: str | None = None
    label_column: str | None = None
    part_column: str | None = None

    def refuse_columns(self, where: object) -> None:
        """Refuse columns where there are none.

        Raises:
            InputError: one is named.
        """
        for option, column in vars(self).items():
            if option != "called" and column is not None:
                raise InputError(f"{where} has no columns; leave out --{option.replace('_', '-')} {column}.")
