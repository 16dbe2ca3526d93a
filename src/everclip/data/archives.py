"""Archives of images, read in place: ZIP and tar, laid out like a folder, and the shards of WebDataset.

Nothing is unpacked: a member is read into memory, one at a time and not more of it than of any image file, so that
neither its name nor the size that it claims can do harm. Links and devices in an archive are none of its images.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from everclip.data import folders
from everclip.data.contents import ContentImages
from everclip.data.found import Listed, Unlabeled
from everclip.data.how import How
from everclip.data.layout import CARD_NAME, is_passed_over, kind_of, steps_of
from everclip.data.names import plain_name
from everclip.data.regular import MAX_BYTES, NoRegularFile, read_regular, require_regular
from everclip.data.rows import LABEL_COLUMNS, Row, list_rows
from everclip.data.source import BadImage
from everclip.errors import InputError
from everclip.system.paths import expanded

MAX_MEMBERS = 10_000_000
"""An archive with more is refused: their names alone would fill the memory."""
SIDE_FILE = 2**20
"""Bytes of a member that says something of others, at most: a class, a card."""
LABELED = (".cls", ".json")
"""Members of a WebDataset shard that may name the class of the image beside them, the most telling first."""
CLASS_NAMES = "classnames.txt"

_COMPRESSED = frozenset({".tgz", ".tbz", ".tbz2", ".txz"})
_COMPRESSIONS = frozenset({".gz", ".bz2", ".xz", ".zst"})


class Member(NamedTuple):
    """A regular file in an archive.

    Attributes:
        path: as the archive has it.
        read: its content, at most so many bytes and one more.
    """

    path: str
    read: Callable[[int], bytes]


def is_archive(source: object) -> bool:
    """Whether it is the path of one, by its suffix; compressed tars are, to be refused with a remedy."""
    return isinstance(source, str | Path) and (
        Path(source).suffix.lower() in {".zip", ".tar"} or _is_compressed(source)
    )


def _is_compressed(source: str | Path) -> bool:
    suffixes = [suffix.lower() for suffix in Path(source).suffixes]
    return suffixes[-1:] != [] and (
        suffixes[-1] in _COMPRESSED or (suffixes[-1] in _COMPRESSIONS and suffixes[-2:-1] == [".tar"])
    )


def list_archive(source: str | Path, how: How) -> Listed:
    """List an archive: as a shard where members beside the images name their classes, else as a folder.

    Raises:
        InputError: it cannot be read, or see `list_folder`.
    """
    path, members = _members(source)
    if (shard := _samples(members)) is not None:
        return _list_shard(source, path, members, shard, how)
    how.refuse_columns(source)
    at = {steps: member for member in members if (steps := steps_of(member.path))}
    paths = list(at)

    def card(inside: tuple[str, ...]) -> bytes | None:
        member = at.get((*inside, CARD_NAME))
        return None if member is None else _small(member, source)

    def images(rows: Sequence[int]) -> ContentImages:
        return _images(source, [at[paths[row]] for row in rows])

    return folders.list_paths(paths, images, card, path.stem, str(source))


def archive_images(source: str | Path) -> Unlabeled:
    """All images in an archive, in its order.

    Raises:
        InputError: it cannot be read, or there is none.
    """
    _, members = _members(source)
    left_out = Counter[str]()
    images = []
    for member in members:
        steps = steps_of(member.path)
        if not steps or any(map(is_passed_over, steps)):
            continue
        kind = kind_of(steps[-1])
        if kind is None:
            images.append(member)
        else:
            left_out[kind] += 1
    if not images:
        raise InputError(f"the archive {source} has no image in it; name another file.")
    return Unlabeled(_images(source, images), left_out)


def _images(source: str | Path, members: Sequence[Member]) -> ContentImages:
    names = [f"{source}/{member.path}" for member in members]
    return ContentImages(names, lambda index: members[index].read(MAX_BYTES))


def _small(member: Member, source: str | Path) -> bytes:
    try:
        content = member.read(SIDE_FILE)
    except Exception as error:  # a damaged member raises what its decompressor makes of it
        raise InputError(f"{source}: {member.path} cannot be read ({error}); make the archive anew.") from error
    if len(content) > SIDE_FILE:
        raise InputError(f"{source}: {member.path} has more than {SIDE_FILE / 2**20:g} MiB; make it smaller.")
    return content


# -- what is in there -------------------------------------------------------------------------------------------------


def _members(source: str | Path) -> tuple[Path, list[Member]]:
    path = expanded(source)
    if _is_compressed(path):
        raise InputError(f"{source} is compressed as a whole, so that no image can be read alone; decompress it first.")
    try:
        require_regular(path)
        return path, (_zip_members(path) if path.suffix.lower() == ".zip" else _tar_members(path))
    except NoRegularFile as error:
        raise InputError(f"{source} cannot be read: {error}; name an archive.") from error
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"cannot read {source} ({error.strerror or error}); check the path and its permissions."
        ) from error
    except Exception as error:  # a damaged archive raises what its headers make of it
        raise InputError(f"{source} is damaged or no such archive ({error}); get it once more.") from error


def _zip_members(path: Path) -> list[Member]:
    archive = zipfile.ZipFile(path)  # stays open with its members, which may be read by several threads
    infos = [info for info in archive.infolist() if not info.is_dir() and _is_regular(info)]
    _check_count(len(infos), path)

    def member(info: zipfile.ZipInfo) -> Member:
        def read(most: int) -> bytes:
            if info.flag_bits & 1:
                raise BadImage(f"{path}/{info.filename}", "it is encrypted")
            with archive.open(info) as file:
                return file.read(most + 1)

        return Member(info.filename, read)

    return [member(info) for info in infos]


def _is_regular(info: zipfile.ZipInfo) -> bool:
    kind = info.external_attr >> 28  # what Unix calls the type of a file; 0 where another system wrote the archive
    return kind in (0, 0o10)


class _HeadersOnly(io.FileIO):
    """A file of which nothing large is read at once: tarfile takes a header to be as long as it says it is."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= 2**24:
            raise tarfile.ReadError("a header of an impossible size")
        return super().read(size) or b""


def _tar_members(path: Path) -> list[Member]:
    found: list[Member] = []

    def member(name: str, start: int, size: int) -> Member:
        def read(most: int) -> bytes:
            with open(path, "rb") as file:
                file.seek(start)
                content = file.read(min(size, most + 1))
            if len(content) < min(size, most + 1):
                raise BadImage(f"{path}/{name}", "the archive is cut short")
            return content

        return Member(name, read)

    with _HeadersOnly(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        while (info := archive.next()) is not None:
            vars(archive)["members"] = []  # tarfile would keep them all
            if info.isreg() and not info.issparse():
                found.append(member(info.name, info.offset_data, info.size))
                _check_count(len(found), path)
    return found


def _check_count(count: int, path: Path) -> None:
    if count > MAX_MEMBERS:
        raise InputError(f"{path} has more than {MAX_MEMBERS} files in it; divide it.")


# -- shards ------------------------------------------------------------------------------------------------------------


def _samples(members: Sequence[Member]) -> dict[str, dict[str, int]] | None:
    """Members by what they are called up to the first point, as WebDataset groups them; None where it is no shard.

    It is one where most images have something beside them that names a class. JSON in class folders does not: there,
    programs leave it that have something else to say.
    """
    samples: dict[str, dict[str, int]] = {}
    for index, member in enumerate(members):
        folder, name = os.path.split(member.path)
        key, point, rest = name.partition(".")
        if key and point and not any(map(is_passed_over, steps_of(member.path))):
            samples.setdefault(f"{folder}/{key}", {})[f".{rest.lower()}"] = index
    images = [each for each in samples.values() if any(kind_of(f"x{suffix}") is None for suffix in each)]
    labeled = sum(".cls" in each or (".json" in each and key.startswith("/")) for key, each in samples.items())
    return samples if labeled and 2 * labeled > len(images) else None


def _list_shard(
    source: str | Path, path: Path, members: Sequence[Member], samples: dict[str, dict[str, int]], how: How
) -> Listed:
    left_out = Counter[str]()
    rows: list[Row | BadImage] = []
    images: list[Member] = []
    for parts in samples.values():
        image = next((parts[suffix] for suffix in parts if kind_of(f"x{suffix}") is None), None)
        if image is None:
            left_out[f"{'.'.join(sorted(parts)).lstrip('.')} without an image"] += 1
            continue
        name = f"{source}/{members[image].path}"
        images.append(members[image])
        try:
            rows.append(Row(name, _class_of({suffix: members[place] for suffix, place in parts.items()}, source, how)))
        except (InputError, ValueError, RecursionError) as error:
            rows.append(BadImage(name, f"its label cannot be read ({error})"))
    listed = list_rows(
        rows, lambda kept: _images(source, [images[row] for row in kept]), str(source), path.stem, _class_names(path)
    )
    if listed.said.class_names is None:
        raise InputError(
            f"{source} has numbers for classes; write their names into {CLASS_NAMES} beside it, a line each."
        )
    return replace(listed, left_out=left_out)


def _class_of(parts: dict[str, Member], source: str | Path, how: How) -> Any:
    for suffix in LABELED:
        if suffix not in parts:
            continue
        text = _small(parts[suffix], source).decode().strip()
        if suffix == ".json":
            said = json.loads(text)
            if not isinstance(said, dict):
                raise ValueError("it is no JSON object {…}")
            fields = {plain_name(name): value for name, value in said.items()}
            usual = LABEL_COLUMNS if how.label_column is None else (plain_name(how.label_column),)
            label = next((fields[name] for name in usual if name in fields), None)
            if label is not None:
                return label
        else:
            return int(text) if text.isdecimal() and len(text) < 10 else text
    return None


def _class_names(path: Path) -> list[str] | None:
    """The names beside a shard, or beside the folder that it lies in (train, test)."""
    for folder in (path.parent, path.parent.parent):
        try:
            text = read_regular(folder / CLASS_NAMES, SIDE_FILE).decode()
        except (OSError, NoRegularFile):
            continue
        except UnicodeDecodeError as error:
            raise InputError(f"{folder / CLASS_NAMES} is not in UTF-8; save it as UTF-8.") from error
        return [line.strip() for line in text.splitlines() if line.strip()]
    return None
