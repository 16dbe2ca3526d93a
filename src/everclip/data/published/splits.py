"""Splits that are files: the random one that EverCLIP draws once and keeps, and those that came with CoOp."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch.utils.data import Dataset, random_split

from everclip.data.folders import FolderImages
from everclip.data.published.readers import Parts
from everclip.data.source import ImageSource
from everclip.errors import InputError
from everclip.storage.files import write_atomic
from everclip.storage.reading import Malformed, read_model

SPLIT_FILE = "everclip-split.json"
SPLIT_SEED = 42
TRAIN_SHARE = 0.8


class _Split(BaseModel):
    """`everclip-split.json`: the training images of an undivided set; all others are test images."""

    model_config = ConfigDict(extra="forbid", strict=True)

    seed: int
    files: str
    """SHA-256 of the file list that the indices count in: paths relative to the set's folder, one per line."""
    train: list[int]
    train_sha256: str


def train_size(images: int) -> int:
    """How many images of an undivided set are for training."""
    return int(TRAIN_SHARE * images)


def write_split(folder: Path, images: ImageSource) -> None:
    """Draw the split that MTIL was published with and keep it beside the images: 80 %, seed 42, not stratified.

    Args:
        folder: of the data set.
        images: N files below it, in an order that is the same everywhere.
    """
    sizes = [train_size(len(images)), len(images) - train_size(len(images))]
    places = cast("Dataset[int]", range(len(images)))  # a length is all that is asked of it
    drawn, _ = random_split(places, sizes, generator=torch.Generator().manual_seed(SPLIT_SEED))
    train = sorted(drawn.indices)
    split = _Split(seed=SPLIT_SEED, files=_list_sha256(folder, images), train=train, train_sha256=_sha256(train))
    write_atomic(folder / SPLIT_FILE, split.model_dump_json() + "\n")


def read_split(folder: Path, images: ImageSource) -> tuple[ImageSource, ImageSource]:
    """Divide an undivided set as `write_split` noted it, after checking that it was noted for these files.

    Returns:
        The training and the test images.

    Raises:
        InputError: there is no split, it is damaged, or the files changed.
    """
    path = folder / SPLIT_FILE
    again = f"`everclip data prepare {folder.name} --root {folder.parent}`"
    try:
        split = read_model(_Split, path)
    except FileNotFoundError:
        raise InputError(f"{path} is not there: run {again} to draw and keep the split of this set.") from None
    except (OSError, Malformed):
        raise InputError(f"{path} can't be read; remove it and run {again}.") from None
    if split.files != _list_sha256(folder, images):
        raise InputError(
            f"the image files in {folder} are not those that {SPLIT_FILE} was drawn for; restore them, or remove "
            f"that file and run {again} for a new split."
        )
    if split.train_sha256 != _sha256(split.train):
        raise InputError(f"{path} is damaged (its indices don't fit their checksum); remove it and run {again}.")
    train = np.zeros(len(images), dtype=bool)
    train[split.train] = True
    return images.select(train), images.select(~train)


def _list_sha256(folder: Path, images: ImageSource) -> str:
    paths = (Path(os.path.relpath(images.name(index), folder)).as_posix() for index in range(len(images)))
    return hashlib.sha256("\n".join(paths).encode(errors="surrogateescape")).hexdigest()


def _sha256(indices: Sequence[int]) -> str:
    return hashlib.sha256(json.dumps(indices).encode()).hexdigest()


class _CoOp(BaseModel):
    """`split_zhou_*.json`: images as [path below the image folder, label, class name]."""

    model_config = ConfigDict(strict=True)

    train: list[tuple[str, int, str]]
    test: list[tuple[str, int, str]]


def read_coop(path: Path, images: Path) -> Parts:
    """Read a split of CoOp (Zhou et al., IJCV 2022); its own validation part is left out.

    Args:
        path: the JSON file.
        images: the folder that its paths start from.

    Raises:
        InputError: the file is missing or damaged, or names a file outside that folder.
    """
    try:
        split = read_model(_CoOp, path)
    except FileNotFoundError:
        raise InputError(
            f"splits=coop needs {path}, which is not there; put the file of that name there, as the CoOp project "
            "publishes it, or set splits=torchvision."
        ) from None
    except (OSError, Malformed):
        raise InputError(f"{path} is not a split of CoOp (train, val, test lists); get it anew.") from None
    names = {label: name for _, label, name in (*split.train, *split.test)}
    if sorted(names) != list(range(len(names))):
        raise InputError(f"{path} has labels that are not 0 to {len(names) - 1}; get it anew.")
    for file, label, name in (*split.train, *split.test):
        if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
            raise InputError(f"{path} names {file!r}, which is outside {images}; get it anew.")
        if names[label] != name:
            raise InputError(f"{path} calls class {label} both {names[label]!r} and {name!r}; get it anew.")
    train, test = (
        FolderImages([str(images / file) for file, _, _ in part], np.array([label for _, label, _ in part]))
        for part in (split.train, split.test)
    )
    return Parts(tuple(names[label] for label in range(len(names))), train, test)
