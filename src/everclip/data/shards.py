"""A folder of Parquet files or tars instead of images: one data set in several files, as it is downloaded."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np

from everclip.data import archives, folders, parquet
from everclip.data.found import Listed, Unlabeled
from everclip.data.how import How
from everclip.data.labels import Labels
from everclip.data.layout import Part, is_passed_over, kind_of, part_named
from everclip.data.source import Joined
from everclip.errors import InputError
from everclip.system.paths import expanded


def is_shards(source: object) -> bool:
    """Whether it is a folder that holds such files and no image; looking ends at the first image."""
    if not isinstance(source, str | Path) or not expanded(source).is_dir():
        return False
    some = False
    for file in folders.files_in(source):
        if kind_of(file) is None:
            return False
        some = some or _is_shard(file)
    return some


def list_shards(source: str | Path, how: How) -> Listed:
    """List a folder of shards, one after the other. The folder or the name of a shard may say its part.

    Hugging Face calls them `train-00000-of-00002.parquet`; those of WebDataset often lie in folders `train` and `test`.

    Raises:
        InputError: one of them cannot be read, or they label their images in different ways.
    """
    root, shards, left_out = _shards(source)
    listed = [_listed(root / shard, how) for shard in shards]
    names = [each.said.class_names for each in listed]
    if any(own is None for own in names) and any(own is not None for own in names):
        raise InputError(f"{source} has names for classes in some of its files, and numbers in others; use one kind.")
    parts: list[Part | None] = []
    places, start = [], 0
    for shard, each, own in zip(shards, listed, names, strict=True):
        parts += each.parts or [_part(shard)] * len(each.images)
        places.append(each.said.places + start)
        start += len(own or ())
    said = Labels(np.concatenate(places), None if names[0] is None else tuple(n for own in names for n in own or ()))
    return Listed(
        Joined([each.images for each in listed]),
        said,
        str(source),
        parts if any(parts) else None,
        sum((Counter(each.left_out) for each in listed), left_out),
        [broken for each in listed for broken in each.broken],
        root.resolve().name,
    )


def shard_images(source: str | Path, how: How) -> Unlabeled:
    """All images in a folder of shards.

    Raises:
        InputError: one of them cannot be read, or holds no image.
    """
    root, shards, left_out = _shards(source)
    found = [
        parquet.parquet_images(root / shard, how)
        if parquet.is_parquet(shard)
        else archives.archive_images(root / shard)
        for shard in shards
    ]
    return Unlabeled(Joined([each.images for each in found]), sum((each.left_out for each in found), left_out))


def _listed(path: Path, how: How) -> Listed:
    return parquet.list_parquet(path, how) if parquet.is_parquet(path) else archives.list_archive(path, how)


def _is_shard(file: str) -> bool:
    # Several ZIPs are several data sets as likely as not.
    return parquet.is_parquet(file) or (archives.is_archive(file) and not file.lower().endswith(".zip"))


def _shards(source: str | Path) -> tuple[Path, list[str], Counter[str]]:
    left_out: Counter[str] = Counter()
    shards = []
    for file in sorted(folders.files_in(source)):
        if _is_shard(file):
            shards.append(file)
        elif not is_passed_over(os.path.basename(file)) and os.path.basename(file) != archives.CLASS_NAMES:
            left_out[str(kind_of(file))] += 1
    return expanded(source), shards, left_out


def _part(shard: str) -> Part | None:
    *above, name = shard.split(os.sep)
    for called in (re.split(r"[-_.]", name)[0], *reversed(above)):
        if (part := part_named(called)) is not None:
            return part
    return None
