"""Data sets of Hugging Face's library `datasets`, in memory; the library itself is not imported here."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from everclip.data.contents import ContentImages
from everclip.data.found import Listed, Unlabeled
from everclip.data.how import How
from everclip.data.layout import part_named
from everclip.data.names import plain_name
from everclip.data.regular import NoRegularFile, read_regular
from everclip.data.rows import IMAGE_COLUMNS, LABEL_COLUMNS, PART_COLUMNS, Row, column, list_rows
from everclip.data.source import BadImage, ImageSource
from everclip.errors import InputError


def is_huggingface(source: object) -> bool:
    """Whether it is a `Dataset`, or a `DatasetDict` of several splits; streamed ones are, to be refused."""
    if isinstance(source, Mapping):
        return bool(source) and all(map(_is_one, source.values()))
    return _is_one(source)


def _is_one(source: object) -> bool:
    return hasattr(source, "features") and hasattr(source, "column_names") and hasattr(source, "cast_column")


def list_huggingface(source: Any, how: How) -> Listed:
    """List a data set; the splits of a `DatasetDict` are its parts. Images are decoded as those of files.

    Raises:
        InputError: it is streamed, or lacks a column.
    """
    sets = _Sets(source, how)
    rows: list[Row | BadImage] = []
    names = None
    for split, data in sets.splits.items():
        where = sets.where(split)
        label = str(column(data.column_names, how.label_column, LABEL_COLUMNS, "label_column", where))
        part = column(data.column_names, how.part_column, PART_COLUMNS, "part_column", where, needed=False)
        own = getattr(data.features[label], "names", None)
        if names is not None and own is not None and list(own) != list(names):
            raise InputError(f"{where} counts other classes than the splits before it; learn them one by one.")
        names = own if names is None else names
        if part:
            parts = list(data[part])
        elif split is None or part_named(split) is None:
            parts = [None] * len(data)
        else:
            parts = [split] * len(data)
        rows += [Row(sets.name(len(rows) + n), *cells) for n, cells in enumerate(zip(data[label], parts, strict=True))]
    return list_rows(rows, sets.images, sets.where(None), "", names)


def huggingface_images(source: Any, how: How) -> Unlabeled:
    """All images of a data set.

    Raises:
        InputError: it is streamed, empty, or lacks a column of images.
    """
    sets = _Sets(source, how)
    if not sets.rows:
        raise InputError(f"{sets.where(None)} has no rows; give another one.")
    return Unlabeled(sets.images(range(len(sets.rows))), Counter())


class _Sets:
    """Splits, one after the other, and the column of their images as it is stored."""

    def __init__(self, source: Any, how: How) -> None:
        self._called = how.called
        given = dict(source) if isinstance(source, Mapping) else {None: source}
        if not all(hasattr(data, "__len__") and hasattr(data, "with_format") for data in given.values()):
            raise InputError("a streamed data set can't be read; load it without streaming.")
        self.splits: dict[str | None, Any] = {split: data.with_format(None) for split, data in given.items()}
        self._stored = {split: self._image_column(split, data, how) for split, data in self.splits.items()}
        self.rows = [(split, row) for split, data in self.splits.items() for row in range(len(data))]
        self._one_at_a_time = threading.Lock()

    def where(self, split: str | None) -> str:
        """What messages call the data set, or a split of it."""
        return "the data set" if split is None else f"the split {split} of the data set"

    def name(self, index: int) -> str:
        """What messages call a row of all."""
        split, row = self.rows[index]
        return f"{self._called}row {row}" if split is None else f"{self._called}{split} row {row}"

    def _image_column(self, split: str | None, data: Any, how: How) -> tuple[Any, str]:
        features = data.features
        images = [name for name in data.column_names if type(features[name]).__name__ == "Image"]
        usual = (*map(plain_name, images[:1]), *IMAGE_COLUMNS)
        name = str(column(data.column_names, how.path_column, usual, "path_column", self.where(split)))
        if name in images:
            data = data.cast_column(name, type(features[name])(decode=False))
        return data.select_columns([name]), name

    def images(self, kept: Sequence[int]) -> ImageSource:
        """The images of some rows."""
        return ContentImages([self.name(index) for index in kept], lambda index: self._content(kept[index]))

    def _content(self, index: int) -> bytes:
        split, row = self.rows[index]
        data, column = self._stored[split]
        with self._one_at_a_time:
            cell = data[row][column]
        if isinstance(cell, dict):
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, str):
            try:
                return read_regular(cell)
            except NoRegularFile as error:
                raise BadImage(self.name(index), str(error)) from error
        if not isinstance(cell, bytes):
            raise BadImage(self.name(index), "there is no image in it")
        return cell
