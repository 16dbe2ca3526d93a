"""The front door: the only place where a source of images becomes images with a class and a part.

The command line, Python, HTTP, the page, streams and `evaluate` all call `read` (or `read_images`, where no label is
wanted), so that they cannot disagree. What it does, in two steps:

1. A **reader** knows one kind of source. It *lists* what is there, as it is called there, and decodes nothing: a
   `Listed` holds N images (an `ImageSource`), what the source says of their classes (`Labels`), their parts, what was
   left out by kind, and what is broken. A reader has no opinion on names. One that has paths (folders, archives) calls
   `folders.list_paths`, which has the rule on folders (`layout.py`); one that has a column of parts calls
   `layout.part_named` on each cell.
2. `found` applies the rule on names to what was listed: classes are merged and shown by `names.plain_name` and
   `names.shown_name`, counted training part first, and the result is a `Found`. `Found.entries` gives an
   `Entry(image, class_name, part, origin)` per image; `to_learn` and `to_judge` choose the part that a lesson or a
   judgment takes; `said` is the sentence on what was left out.

A further kind of source is one more `Reader` in `READERS`; the first that says it `reads` a source lists it. What a
reader needs to be told besides the source (columns of a table, say) becomes a field of `How`, which every door hands
through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from everclip.data import archives, folders, given, huggingface, parquet, shards, tables
from everclip.data.found import PARTS_TO_JUDGE, Found, Listed, Unlabeled, found
from everclip.data.how import How as How
from everclip.data.layout import part_named
from everclip.data.names import DEFAULT_TEMPLATES, check_class_names
from everclip.data.source import ImageSource, split
from everclip.errors import InputError
from everclip.system.paths import expanded


@dataclass(frozen=True)
class Reader:
    """One kind of source.

    Attributes:
        kind: what messages call it.
        reads: whether a source is of this kind; must be quick, and must not read images.
        listed: lists what is there. Raises InputError where the source can't be used.
        images: the images, whatever their labels; by default those that are listed.
        columns: whether it can be told columns; where not, they are refused.
    """

    kind: str
    reads: Callable[[Any], bool]
    listed: Callable[[Any, How], Listed]
    images: Callable[[Any, How], Unlabeled] | None = None
    columns: bool = False


def _is_path(source: object) -> bool:
    return isinstance(source, str | Path)


READERS: list[Reader] = [
    Reader("a table (.csv, .tsv, .jsonl)", tables.is_table, tables.list_table, tables.table_images, columns=True),
    Reader("a Parquet file", parquet.is_parquet, parquet.list_parquet, parquet.parquet_images, columns=True),
    Reader(
        "an archive (.zip, .tar)",
        archives.is_archive,
        archives.list_archive,
        lambda source, how: archives.archive_images(source),
        columns=True,
    ),
    Reader("a folder of shards", shards.is_shards, shards.list_shards, shards.shard_images, columns=True),
    Reader(
        "a folder",
        _is_path,
        lambda source, how: folders.list_folder(source),
        lambda source, how: folders.list_unlabeled(source),
    ),
    Reader("a pair of arrays", given.is_pair_of_arrays, lambda source, how: given.list_arrays(source, how.called)),
    Reader(
        "a list of (image, class name) pairs",
        lambda source: isinstance(source, Sequence),
        lambda source, how: given.list_pairs(source, how.called),
    ),
    Reader(
        "a data set of Hugging Face's datasets",
        huggingface.is_huggingface,
        huggingface.list_huggingface,
        huggingface.huggingface_images,
        columns=True,
    ),
    Reader(
        "a data set that is read by index",
        lambda source: hasattr(source, "__getitem__") and hasattr(source, "__len__"),
        lambda source, how: given.list_dataset(source, how.called),
    ),
]
"""In the order in which they are asked: put what is more special before what is more general."""


_FOLDERS = next(place for place, reader in enumerate(READERS) if reader.reads is _is_path)


def read(source: Any, how: How | None = None, class_names: Sequence[str] | None = None) -> Found:
    """Read a source of labeled images: what is in it, by the one rule. Nothing is decoded.

    Args:
        source: what one of `READERS` reads, or what this function returned earlier.
        how: what the source does not say itself.
        class_names: what the labels shall count: a number is a place in it, and names are looked up in it. By default
            the names of the data themselves.

    Raises:
        InputError: no reader takes it, or its reader can't use it.
    """
    if isinstance(source, Found):
        return source
    reader, how = reader_of(source), how or How()
    if not reader.columns:
        how.refuse_columns(source if _is_path(source) else reader.kind)
    return found(reader.listed(source, how), class_names)


def read_tasks(folder: str | Path, how: How | None = None) -> list[Found]:
    """Read a folder of tasks: each of its folders that holds an image is a source of its own, in the order of names.

    Raises:
        InputError: there is none, or one of them can't be read.
    """
    tasks = [path for path in folders.subfolders(folder) if folders.has_image(path)]
    if not tasks:
        raise InputError(f"{folder} holds no folder with images in it; name a folder that has a folder for every task.")
    return [read(path, how) for path in tasks]


def read_images(source: Any, how: How | None = None) -> Unlabeled:
    """Read the images of a source at any depth, whatever their labels.

    Raises:
        InputError: as for `read`.
    """
    reader = reader_of(source)
    if reader.images is not None:
        return reader.images(source, how or How())
    listed = reader.listed(source, how or How())
    return Unlabeled(listed.images, Counter(listed.left_out))


def holds_images(path: str | Path) -> bool:
    """Whether a path is of something that holds images, such as a folder or an archive, and not of one image."""
    return expanded(path).is_dir() or reader_of(path) is not READERS[_FOLDERS]


def reader_of(source: Any) -> Reader:
    """The reader that takes a source.

    Raises:
        InputError: there is none.
    """
    for reader in READERS:
        if reader.reads(source):
            return reader
    raise InputError(
        f"images of type {type(source).__name__} can't be read; give {', '.join(reader.kind for reader in READERS)}."
    )


def read_paths(
    paths: Sequence[tuple[str, ...]],
    images: Callable[[Sequence[int]], ImageSource],
    card: Callable[[tuple[str, ...]], bytes | None],
    called: str,
    where: str,
) -> Found:
    """Read what has paths but lies in no folder, such as the files of a request; see `folders.list_paths`.

    Raises:
        InputError: as there.
    """
    return found(folders.list_paths(paths, images, card, called, where))


@dataclass(frozen=True)
class ImageFolder:
    """A data set with a part to learn and one to judge on. `labels` of both index `class_names`.

    Attributes:
        said: what was left out of it, in a sentence.
    """

    name: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    train: ImageSource
    test: ImageSource
    said: str = ""


def read_folder(
    source: Any, seed: int = 0, test_fraction: float = 0.2, least_classes: int = 2, how: How | None = None
) -> ImageFolder:
    """Read a source of images as a data set with two parts, as a stream needs it.

    Its test part is for judging, else its validation part. Where it is not divided, or has a training part only,
    `split` holds some images of every class out.

    Args:
        source: as for `read`; most often a folder.
        seed: of the split.
        test_fraction: the part held out by the split; with 0 everything is in the training part.
        least_classes: how many classes there must be.
        how: as for `read`.

    Raises:
        InputError: as for `read`; too few classes, or one to be judged on that has nothing to learn.
    """
    there = read(source, how)
    learned = there.to_learn()
    names, where = learned.class_names, f"{there.where} ({there.said})" if there.said else there.where
    if there.divided and any(there.has(part) for part in PARTS_TO_JUDGE):
        judged = there.to_judge()
        place = {name: label for label, name in enumerate(names)}
        if unknown := [name for name in judged.class_names if name not in place]:
            raise InputError(
                f"{where} has test images of {unknown[0]!r}, a class that the training part lacks; rename or remove it"
            )
        labels = np.array([place[name] for name in judged.class_names], dtype=np.int64)[judged.source.labels]
        train, test = learned.source, judged.source.select(np.arange(len(labels)), labels)
    else:
        if there.divided and _is_path(source):
            _refuse_empty_part(source)
        train, test = (learned.source.select(part) for part in split(learned.source, test_fraction, seed))
    check_class_names(names, where, least_classes)
    return ImageFolder(there.name, names, there.templates or DEFAULT_TEMPLATES, train, test, there.said_in_full)


def _refuse_empty_part(source: str | Path) -> None:
    """A folder to judge on that is there and has no image, after a broken download say, is not to be made up for."""
    tops = folders.subfolders(source) if expanded(source).is_dir() else []
    if empty := [top for top in tops if part_named(top.name) in PARTS_TO_JUDGE and not folders.has_image(top)]:
        raise InputError(
            f"{empty[0]} has no image; put the images to judge on there, or remove it to have some of the training "
            "images held out."
        )
