"""A dataset as people keep it: a folder with one sub-folder of images per class, or of images without labels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from everclip.data.decode import IMAGE_SUFFIXES, load_rgb
from everclip.data.names import DEFAULT_TEMPLATES, check_class_names, check_templates
from everclip.data.source import ImageSource, split
from everclip.errors import InputError
from everclip.system.paths import expanded

CARD_NAME = "dataset.json"
TRAIN_FOLDER = "train"
TEST_FOLDERS = ("test", "val", "validation")
"""In order of preference: a folder that has both `test` and `val` is tested on `test`."""


class FolderImages(ImageSource):
    """Image files with their labels.

    Args:
        paths: N files.
        labels: (N,) integers.
    """

    def __init__(self, paths: Sequence[str], labels: np.ndarray) -> None:
        self._paths = list(paths)
        self.labels = np.asarray(labels, dtype=np.int64)

    def name(self, index: int) -> str:
        """Return the file's path."""
        return self._paths[index]

    def digest(self, index: int) -> str:
        """Return the hex BLAKE2b-128 of the file's bytes, or of the error that reading it gives."""
        try:
            content = Path(self._paths[index]).read_bytes()
        except OSError as error:
            content = f"unreadable: {error.errno}".encode()
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def decode(self, index: int) -> Image.Image:
        """Return the image, mode RGB and upright; see `load_rgb` for what raises BadImage."""
        return load_rgb(self._paths[index], self._paths[index])


@dataclass(frozen=True)
class ImageFolder:
    """A dataset read from a folder. `labels` of both parts index `class_names`."""

    name: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    train: ImageSource
    test: ImageSource


class _Card(BaseModel):
    """`dataset.json`: every field is optional, and fields it does not know are ignored."""

    model_config = ConfigDict(strict=True)

    name: str | None = Field(None, min_length=1)
    classes: list[str] | None = None
    class_names: dict[str, str] = {}
    templates: list[str] = list(DEFAULT_TEMPLATES)


def read_folder(path: str | Path, seed: int = 0, test_fraction: float = 0.2, least_classes: int = 2) -> ImageFolder:
    """Read a dataset laid out as `PATH/<class>/...`, or as `PATH/train/<class>/...` beside `PATH/test/...`.

    A folder per class is split by `split`; so is a `train` folder without `test`, `val` or `validation`
    beside it. Images may lie at any depth below their class; symbolic links are followed; hidden names and
    files of other kinds are ignored. Images are ordered by class, then by path.

    An optional `PATH/dataset.json` gives `name`, `classes` (the class folders in label order), `class_names`
    (from class folder to the name that prompts use) and `templates`. Without it, the name is the folder's,
    the classes are the folders sorted, and underscores in a folder's name are spaces in the class name.

    Args:
        path: the dataset.
        seed: of the split.
        test_fraction: the part held out by the split; with 0 everything is in the training part.
        least_classes: how many class folders there must be.

    Raises:
        InputError: the folder, its layout or its `dataset.json` cannot be used.
    """
    root = expanded(path)
    subfolders, _ = _listing(root)
    card = _read_card(root / CARD_NAME)
    test_folder = next((name for name in TEST_FOLDERS if name in subfolders), None)
    # A class may be called "train" too: it is a part of the dataset only beside a test folder, or alone.
    divided = TRAIN_FOLDER in subfolders and (test_folder is not None or len(subfolders) == 1)
    train_root = root / TRAIN_FOLDER if divided else root
    classes = _classes(train_root, card, root / CARD_NAME)
    class_names = tuple(card.class_names.get(folder, folder.replace("_", " ")).strip() for folder in classes)
    check_class_names(class_names, str(train_root), least_classes)

    images = _list_images(train_root, classes)
    for folder, count in zip(classes, np.bincount(images.labels, minlength=len(classes)), strict=True):
        if count == 0:
            raise InputError(f"the class folder {train_root / folder} has no image; add some or remove the folder")
    train: ImageSource
    test: ImageSource
    if divided and test_folder is not None:
        train, test = images, _read_test(root / test_folder, classes)
    else:
        train, test = (images.select(part) for part in split(images, test_fraction, seed))
    name = card.name or root.resolve().name
    return ImageFolder(name, class_names, tuple(card.templates), train, test)


def read_unlabeled(path: str | Path) -> FolderImages:
    """Read all images below a folder, at any depth, by path; every label is 0.

    Raises:
        InputError: there is no such folder, it cannot be listed, or it holds no image.
    """
    root = expanded(path)
    paths = sorted(_images_below(str(root)))
    if not paths:
        raise InputError(f"the folder {root} has no image at any depth; add some or name another folder")
    return FolderImages(paths, np.zeros(len(paths), dtype=np.int64))


def _read_card(path: Path) -> _Card:
    try:
        card = _Card.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return _Card()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}); make it readable or remove it") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{path} is not valid, {field}: {first['msg']}; correct it or remove it") from error
    check_templates(card.templates, str(path))
    return card


def _classes(train_root: Path, card: _Card, card_path: Path) -> list[str]:
    """Return the class folders in label order, after comparing them with those that the card lists."""
    found, _ = _listing(train_root)
    if not found:
        raise InputError(f"{train_root} has no class folder; put the images of each class into a folder of its own")
    if card.classes is None:
        return found
    if repeated := [name for name in card.classes if card.classes.count(name) > 1]:
        raise InputError(f"{card_path} lists the class {repeated[0]!r} twice; remove one")
    if missing := [name for name in card.classes if name not in found]:
        raise InputError(f"{card_path} lists the class {missing[0]!r}, but {train_root} has no such folder; add it")
    if unlisted := [name for name in found if name not in card.classes]:
        raise InputError(f"{train_root / unlisted[0]} is not among the classes of {card_path}; list it or remove it")
    return card.classes


def _read_test(test_root: Path, classes: Sequence[str]) -> FolderImages:
    folders, _ = _listing(test_root)
    if unknown := [name for name in folders if name not in classes]:
        raise InputError(f"{test_root / unknown[0]} is a class that the training part lacks; rename or remove it")
    images = _list_images(test_root, classes)
    if not len(images):
        raise InputError(f"{test_root} has no image; add test images, or remove it to split the training part")
    return images


def _list_images(root: Path, classes: Sequence[str]) -> FolderImages:
    """List the images below each class folder that exists, sorted by label and then by path."""
    paths: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(classes):
        if (root / folder).exists():
            found = sorted(_images_below(str(root / folder)))
            paths += found
            labels += [label] * len(found)
    return FolderImages(paths, np.array(labels, dtype=np.int64))


def _images_below(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the image files at any depth. `above` is the way down to here, to end loops of symbolic links."""
    here = os.path.realpath(folder)
    if here in above:
        return
    subfolders, files = _listing(folder)
    for name in files:
        if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
            yield os.path.join(folder, name)
    for name in subfolders:
        yield from _images_below(os.path.join(folder, name), (*above, here))


def _listing(folder: str | Path) -> tuple[list[str], list[str]]:
    """Return the names of the sub-folders, sorted, and of the files in a folder, without hidden ones."""
    subfolders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    (subfolders if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise InputError(
            f"cannot list the folder {folder} ({error.strerror}); check the path and its permissions"
        ) from error
    return sorted(subfolders), files
