"""Parquet files of images and labels, in the layout that Hugging Face data sets have, and in plainer ones."""

from __future__ import annotations

import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from everclip.data.contents import ContentImages
from everclip.data.found import Listed, Unlabeled
from everclip.data.given import GivenImages
from everclip.data.how import How
from everclip.data.names import plain_name
from everclip.data.regular import NoRegularFile, require_regular
from everclip.data.rows import IMAGE_COLUMNS, LABEL_COLUMNS, PART_COLUMNS, Row, column, list_rows
from everclip.data.source import BadImage, ImageSource
from everclip.errors import InputError
from everclip.system.paths import expanded

KEPT = 256 * 2**20
"""Bytes of images that stay in memory: a file is read by groups of rows, and images mostly in order."""
LARGEST_GROUP = 4 * 2**30
"""Bytes that a group of rows may have in memory."""


def is_parquet(source: object) -> bool:
    """Whether it is the path of one, by its suffix."""
    return isinstance(source, str | Path) and Path(source).suffix.lower() == ".parquet"


def list_parquet(source: str | Path, how: How) -> Listed:
    """List a Parquet file: a column of images, as bytes, as paths, or as {bytes, path}; one of labels.

    Labels are names, or numbers with the names that the schema says of them (`ClassLabel` of `datasets`).

    Raises:
        InputError: the file cannot be read, or lacks a column.
    """
    table = _Table(source, how)
    labels = column(table.columns, how.label_column, LABEL_COLUMNS, "--label-column", str(source))
    parts = column(table.columns, how.part_column, PART_COLUMNS, "--part-column", str(source), needed=False)
    said = table.values(str(labels))
    of_part = table.values(parts) if parts else [None] * len(said)
    rows = [Row(table.name(row), label, part) for row, (label, part) in enumerate(zip(said, of_part, strict=True))]
    return list_rows(rows, table.images, str(source), table.path.stem, table.class_names(str(labels)))


def parquet_images(source: str | Path, how: How) -> Unlabeled:
    """All images of a Parquet file.

    Raises:
        InputError: the file cannot be read, or has no column of images.
    """
    table = _Table(source, how)
    if not table.rows:
        raise InputError(f"{source} has no rows; name another file.")
    return Unlabeled(table.images(range(table.rows)), Counter())


class _Table:
    """An open file. Columns are read whole, except that of the images."""

    def __init__(self, source: str | Path, how: How) -> None:
        from pyarrow import parquet  # loads slowly: only where there is such a file

        self.path, self._source = expanded(source), source
        try:
            require_regular(self.path)
            self._file = parquet.ParquetFile(self.path)
            self._schema = self._file.schema_arrow
            self.columns: list[str] = self._schema.names
            groups = [self._file.metadata.row_group(number) for number in range(self._file.num_row_groups)]
        except NoRegularFile as error:
            raise InputError(f"{source} cannot be read: {error}; name a Parquet file.") from error
        except OSError as error:
            raise InputError(
                f"cannot read {source} ({error.strerror or _brief(error)}); check the path and its permissions."
            ) from error
        except Exception as error:  # a damaged header raises what its decoder makes of it
            raise InputError(f"{source} is damaged or no Parquet file ({_brief(error)}); get it once more.") from error
        self.rows = sum(group.num_rows for group in groups)
        if any(group.total_byte_size > LARGEST_GROUP for group in groups):
            raise InputError(f"{source} has groups of more than {LARGEST_GROUP >> 30} GiB; write smaller ones.")
        self._starts = np.cumsum([0, *(group.num_rows for group in groups)])
        usual = (*IMAGE_COLUMNS, *self._holding_bytes())
        self._image = str(column(self.columns, how.path_column, usual, "--path-column", str(source)))
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Any] = OrderedDict()

    def _holding_bytes(self) -> list[str]:
        """The column that holds bytes, whatever it is called, where there is one alone."""
        import pyarrow as pa

        def bytes_in(kind: Any) -> bool:
            if pa.types.is_struct(kind):
                return any(kind.field(place).name == "bytes" for place in range(kind.num_fields))
            return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

        holding = [plain_name(field.name) for field in self._schema if bytes_in(field.type)]
        return holding if len(holding) == 1 else []

    def name(self, row: int) -> str:
        """What messages call a row."""
        return f"{self._source}, row {row}"

    def class_names(self, label: str) -> list[str] | None:
        """What the numbers of a column count, as `datasets` writes it into the schema."""
        said = (self._schema.metadata or {}).get(b"huggingface", b"{}")
        try:
            names = json.loads(said)["info"]["features"][label]["names"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None

    def values(self, name: str) -> list[Any]:
        """All values of a column that holds no images."""
        try:
            return list(self._file.read([name]).column(0).to_pylist())
        except Exception as error:  # damaged pages raise what their decoder makes of them
            raise InputError(f"{self._source}: the column {name} cannot be read ({_brief(error)}).") from error

    def images(self, kept: Sequence[int]) -> ImageSource:
        """The images of some rows."""
        import pyarrow as pa

        kind = self._schema.field(self._image).type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            paths = self.values(self._image)
            return GivenImages([self.path.parent / str(paths[row] or "") for row in kept])
        return ContentImages([self.name(row) for row in kept], lambda index: self._content(kept[index]))

    def _content(self, row: int) -> bytes:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        cell = self._group(group)[row - int(self._starts[group])].as_py()
        if isinstance(cell, dict):
            if cell.get("bytes") is None and cell.get("path"):
                raise BadImage(self.name(row), f"it is not in the file, which only names {cell['path']}")
            cell = cell.get("bytes")
        if not isinstance(cell, bytes):
            raise BadImage(self.name(row), "there is no image in it")
        return cell

    def _group(self, number: int) -> Any:
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
            else:
                self._kept[number] = self._file.read_row_group(number, [self._image]).column(0)
                while len(self._kept) > 1 and sum(each.nbytes for each in self._kept.values()) > KEPT:
                    self._kept.popitem(last=False)
            return self._kept[number]


def _brief(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
