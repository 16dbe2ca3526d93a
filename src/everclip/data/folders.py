"""A folder as people keep it: one with a sub-folder of images per class, or of images without labels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from everclip.data.decode import load_rgb
from everclip.data.found import Listed, Unlabeled
from everclip.data.glance import glance_at
from everclip.data.labels import Labels
from everclip.data.layout import CARD_NAME, PART_ORDER, Layout, Place, arrange, is_passed_over, kind_of, refuse_tasks
from everclip.data.names import DEFAULT_TEMPLATES, check_templates, plain_name
from everclip.data.regular import file_digest
from everclip.data.source import Glance, ImageSource
from everclip.errors import InputError
from everclip.storage.reading import Malformed, Schema, fitting, json_of, read_bytes
from everclip.system.paths import expanded

CARD_LIMIT = 1 << 24
"""Bytes of a `dataset.json`: twenty thousand classes with a name each take two million."""


class FolderImages(ImageSource):
    """Image files with their labels.

    Args:
        paths: N files.
        labels: (N,) integers.
        names: what messages call the images; by default the paths.
    """

    def __init__(self, paths: Sequence[str], labels: np.ndarray, names: Sequence[str] | None = None) -> None:
        self._paths = list(paths)
        self._names = self._paths if names is None else list(names)
        self.labels = np.asarray(labels, dtype=np.int64)

    def name(self, index: int) -> str:
        """Return the file's path, or the name that it was given."""
        return self._names[index]

    def digest(self, index: int) -> str:
        """Return the hex BLAKE2b-128 of the file's bytes, or of the error that reading it gives."""
        return file_digest(self._paths[index])

    def decode(self, index: int) -> Image.Image:
        """Return the image, mode RGB and upright; see `load_rgb` for what raises BadImage."""
        return load_rgb(self._paths[index], self.name(index), self.most_pixels)

    def glance(self, index: int) -> Glance:
        """Return what the file's header says; see `glance_at` for what raises BadImage."""
        return glance_at(self._paths[index], self.name(index))


class Card(Schema):
    """`dataset.json`: every field is optional, and fields it does not know are ignored.

    Attributes:
        name: of the data set.
        classes: the class folders in label order.
        class_names: class folder → the name that prompts use.
        templates: prompts.
    """

    name: str | None = Field(None, min_length=1)
    classes: list[str] | None = None
    class_names: dict[str, str] = Field(default_factory=dict)
    templates: list[str] = Field(default_factory=lambda: list(DEFAULT_TEMPLATES))

    @classmethod
    def read(cls, content: bytes | None, where: str) -> Card:
        """A card from the content of its file; an empty one where there is none.

        Raises:
            InputError: it is not valid.
        """
        if content is None:
            return cls()
        try:
            card = fitting(cls, json_of(content))
        except Malformed as error:
            field = error.field or "the file"
            raise InputError(f"{where} is not valid, {field}: {error.detail}; correct it or remove it") from error
        check_templates(card.templates, where)
        return card


def list_folder(path: str | Path) -> Listed:
    """List a folder by the rule of `layout.py`; links are followed.

    An optional `dataset.json` in the folder gives `name`, `classes` (the class folders in label order), `class_names`
    (from class folder to the name that prompts use) and `templates`. Without it, the name is the folder's, and the
    classes are the folders sorted.

    Raises:
        InputError: the folder, its layout or its `dataset.json` cannot be used.
    """
    root = expanded(path)
    paths = [tuple(file.split(os.sep)) for file in _files_below(str(root))]

    def card(inside: tuple[str, ...]) -> bytes | None:
        file = root.joinpath(*inside, CARD_NAME)
        try:
            return read_bytes(file, CARD_LIMIT)
        except FileNotFoundError:
            return None
        except Malformed as error:
            raise InputError(f"{file} {error}; make it a file of JSON or remove it") from error
        except OSError as error:
            raise InputError(f"cannot read {file} ({error.strerror}); make it readable or remove it") from error

    def images(rows: Sequence[int]) -> ImageSource:
        return FolderImages([str(root.joinpath(*paths[row])) for row in rows], np.zeros(len(rows), dtype=np.int64))

    return list_paths(paths, images, card, root.resolve().name, str(root))


def list_paths(
    paths: Sequence[tuple[str, ...]],
    images: Callable[[Sequence[int]], ImageSource],
    card: Callable[[tuple[str, ...]], bytes | None],
    called: str,
    where: str,
) -> Listed:
    """List whatever has paths: the files of a folder, of an archive, of a request.

    Args:
        paths: of all files, relative to the source, as steps (`layout.steps_of`).
        images: the images at some of these paths.
        card: the content of `dataset.json` in the folder that these steps lead to; None where there is none.
        called: what the source is called; a folder of that name in it is entered.
        where: what messages call it.

    Raises:
        InputError: its layout or its `dataset.json` cannot be used.
    """
    layout = arrange(paths, called, where)
    inside = layout.inside
    content = card(())
    if content is None and inside:
        content = card(inside)
    else:
        inside = ()
    file = "/".join((where, *inside, CARD_NAME))
    about = Card.read(content, file)
    folders = list(dict.fromkeys(sorted(place.folder for place in layout.places)))
    if about.classes is None:
        refuse_tasks(layout, paths, where)
    else:
        to_learn = {place.folder for place in layout.places if place.part in ("train", None)}
        folders = _in_order(about.classes, to_learn, folders, file, where)
    number = {folder: index for index, folder in enumerate(folders)}
    part_number = {part: index for index, part in enumerate(PART_ORDER)}

    def order(place: Place) -> tuple[int, int, str]:
        return part_number[place.part], number[place.folder], os.sep.join(paths[place.row])

    places = sorted(layout.places, key=order)
    templates = tuple(about.templates)
    return Listed(
        images([place.row for place in places]),
        Labels(np.array([number[place.folder] for place in places], dtype=np.int64), tuple(folders)),
        where,
        [place.part for place in places],
        layout.left_out,
        name=about.name or called,
        templates=templates if templates != DEFAULT_TEMPLATES else None,
        renamed={folder: name for folder, name in about.class_names.items() if folder in number},
        empty=layout.empty,
        read_as=_read_as(layout, about),
    )


def _read_as(layout: Layout, about: Card) -> str:
    classes = f"classes as {CARD_NAME} lists them" if about.classes is not None else "every folder is a class"
    if layout.parts:
        parts = ", ".join(folder if folder == part else f"{folder} ({part})" for folder, part in layout.parts.items())
        classes = f"divided into {parts}; in there {classes}"
    return f"inside {'/'.join(layout.inside)}: {classes}" if layout.inside else classes


def _in_order(classes: Sequence[str], to_learn: set[str], found: Sequence[str], file: str, where: str) -> list[str]:
    """The class folders in the order of those that a card lists, after comparing the two."""
    listed = {plain_name(name): name for name in classes}
    if len(listed) < len(classes):
        plain = [plain_name(name) for name in classes]
        repeated = next(name for name in classes if plain.count(plain_name(name)) > 1)
        raise InputError(f"{file} lists the class {repeated!r} twice; remove one")
    there = {plain_name(folder) for folder in to_learn}
    if missing := [name for name in classes if plain_name(name) not in there]:
        raise InputError(f"{file} lists the class {missing[0]!r}, but {where} has no such folder of images; add it")
    if unlisted := [folder for folder in found if plain_name(folder) not in listed]:
        raise InputError(f"{where}: the folder {unlisted[0]} is not among the classes of {file}; list it or remove it")
    place = {plain: index for index, plain in enumerate(listed)}
    return sorted(found, key=lambda folder: place[plain_name(folder)])


def list_unlabeled(path: str | Path) -> Unlabeled:
    """All images below a folder, at any depth, by path; every label is 0.

    Raises:
        InputError: there is no such folder, it cannot be listed, or it holds no image.
    """
    root = expanded(path)
    left_out: Counter[str] = Counter()
    paths = []
    for file in _files_below(str(root)):
        kind = kind_of(file)
        if kind is None:
            paths.append(os.path.join(str(root), file))
        elif not is_passed_over(os.path.basename(file)):
            left_out[kind] += 1
    if not paths:
        raise InputError(f"the folder {root} has no image at any depth; add some or name another folder")
    return Unlabeled(FolderImages(paths, np.zeros(len(paths), dtype=np.int64)), left_out)


def subfolders(path: str | Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones and those of systems.

    Raises:
        InputError: it cannot be listed.
    """
    root = expanded(path)
    return [root / name for name in _listing(str(root))[0]]


def has_image(path: Path) -> bool:
    """Whether an image lies in a folder, at any depth.

    Raises:
        InputError: it cannot be listed.
    """
    return any(kind_of(file) is None for file in _walk(str(path), ""))


def files_in(path: str | Path) -> Iterator[str]:
    """The files at any depth below a folder, relative to it, in no order; nothing hidden.

    Raises:
        InputError: it cannot be listed.
    """
    return _walk(str(expanded(path)), "")


def _files_below(root: str) -> list[str]:
    """The files at any depth, relative to the root, sorted by path; nothing hidden."""
    return sorted(_walk(root, ""))


def _walk(root: str, below: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the files at any depth. `above` is the way down to here, to end loops of symbolic links."""
    folder = os.path.join(root, below) if below else root
    here = os.path.realpath(folder)
    if here in above:
        return
    folders, files = _listing(folder)
    for name in files:
        yield os.path.join(below, name)
    for name in folders:
        yield from _walk(root, os.path.join(below, name), (*above, here))


def _listing(folder: str) -> tuple[list[str], list[str]]:
    """Return the names of the sub-folders, sorted, and of the files in a folder, without what is passed over.

    A folder with the name of an image counts as a file: it is named among the images that cannot be used.
    """
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not is_passed_over(entry.name):
                    (folders if entry.is_dir() and kind_of(entry.name) is not None else files).append(entry.name)
    except OSError as error:
        raise InputError(
            f"cannot list the folder {folder} ({error.strerror}); check the path and its permissions"
        ) from error
    return sorted(folders), files
