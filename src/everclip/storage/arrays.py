"""Arrays from `.npz` files. A few bytes of an archive can stand for more than any memory holds, so sizes come first."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from everclip.storage.reading import Malformed, shown, size_of

PLAIN_BYTES = 1 << 28
"""Bytes that an archive may hold without a question."""
RATIO = 50
"""An archive that holds more may be at most so many times smaller than what is in it. Embeddings hardly shrink at all;
zeros shrink a thousand times."""
HEADER_LIMIT = 10_000
"""Characters of an array's header, numpy's own limit."""


def read_arrays(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays of these names that an archive has. Nothing in it is unpickled.

    Args:
        path: of an `.npz` file.
        names: which arrays; what else there is, is not read, and stands for itself by an empty array.

    Raises:
        Malformed: it is none, is damaged, or holds more than its size lets expect.
        OSError: there is no such file, or it may not be read.
    """
    size = size_of(path)
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise Malformed("is not an .npz file")
        try:
            with zipfile.ZipFile(file) as archive:
                return _arrays(archive, size, names)
        except Malformed:
            raise
        except Exception as error:
            # A damaged archive raises what its layers come up with: zip, ways to pack, a tokenizer for headers.
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise Malformed(f"is not a file of plain arrays ({reason})") from error


def _arrays(archive: zipfile.ZipFile, size: int, names: Collection[str]) -> dict[str, np.ndarray]:
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in members:
            raise Malformed(f"holds {shown(name)} twice")
        members[name] = member
    wanted = {name: member for name, member in members.items() if name in names}
    total = sum(member.file_size for member in wanted.values())
    if total > max(PLAIN_BYTES, RATIO * size):
        raise Malformed(f"would become {total:,} bytes, {RATIO} times more than it has")
    arrays = {name: np.empty(0) for name in members}
    for name, member in wanted.items():
        with archive.open(member) as file:
            arrays[name] = _array(file, member.file_size, name)
    return arrays


def _array(file: IO[bytes], size: int, name: str) -> np.ndarray:
    """An array, once its header agrees with its size.

    Raises:
        Malformed: it does not, or the array holds Python objects, which only running code could read.
    """
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise Malformed(f"has {shown(name)} in a format that is not read")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file, max_header_size=HEADER_LIMIT)
    if dtype.hasobject or dtype.fields is not None or dtype.subdtype is not None:
        raise Malformed(f"is not a file of plain arrays ({shown(name)} holds Python objects or records)")
    count = 1
    for length in shape:
        count *= length
    if any(length < 0 for length in shape) or count * dtype.itemsize > size:
        raise Malformed(f"has {shown(name)} with a shape that is larger than its bytes")
    content = file.read(count * dtype.itemsize)
    if len(content) < count * dtype.itemsize:
        raise Malformed(f"has {shown(name)} cut short")
    if file.read(1):  # the checksum of a member is looked at where it ends
        raise Malformed(f"has more bytes in {shown(name)} than its shape says")
    array = np.frombuffer(content, dtype=dtype) if dtype.itemsize else np.zeros(count, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
