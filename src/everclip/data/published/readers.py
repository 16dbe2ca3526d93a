"""How the published data sets lie on disk. They are read by torchvision's classes, where it has one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from everclip.data.arrays import ArrayImages
from everclip.data.folders import FolderImages
from everclip.data.source import ImageSource


@dataclass(frozen=True)
class Parts:
    """A data set as it was published.

    Attributes:
        class_names: as the data set spells them, label order; empty where it has no names.
        train: the training images, or all images of a set that was published undivided.
        test: the test images; None of an undivided set, see `splits`.
    """

    class_names: tuple[str, ...]
    train: ImageSource
    test: ImageSource | None


Reader = Callable[[Path], Parts]
"""Reads the data set in a folder; raises what torchvision, or the format of a damaged file, happens to raise."""


def torchvision_class(name: str) -> Any:
    """A class of `torchvision.datasets`, which loads slowly: only where a data set is read or fetched."""
    from torchvision import datasets

    return getattr(datasets, name)


def divided(kind: str, option: str, train: Any, test: Any) -> Reader:
    """Read a data set of torchvision, by the name of its class, whose `option` chooses the part."""

    def read(folder: Path) -> Parts:
        first, second = (torchvision_class(kind)(folder, **{option: value}) for value in (train, test))
        return Parts(_class_names(first), _images(first, "train"), _images(second, "test"))

    return read


def undivided(kind: str) -> Reader:
    """Read a data set of torchvision, by the name of its class, that has no parts."""

    def read(folder: Path) -> Parts:
        dataset = torchvision_class(kind)(folder)
        return Parts(_class_names(dataset), _images(dataset, "all"), None)

    return read


def read_tinyimagenet(folder: Path) -> Parts:
    """Tiny-ImageNet-200: `train/WNID/images/*`, `val/images/*` with `val_annotations.txt`; its val part is the test.

    Labels follow `wnids.txt`; a class is called by the first of its names in `words.txt`.
    """
    base = folder / "tiny-imagenet-200"
    wnids = _lines(base / "wnids.txt")
    label = {wnid: number for number, wnid in enumerate(wnids)}
    words = dict(line.split("\t", 1) for line in _lines(base / "words.txt"))
    train = torchvision_class("ImageFolder")(str(base / "train"))
    samples = [(path, label[train.classes[number]]) for path, number in train.samples]
    noted = [line.split("\t")[:2] for line in _lines(base / "val" / "val_annotations.txt")]
    test = [(str(base / "val" / "images" / name), label[wnid]) for name, wnid in noted]
    return Parts(tuple(words[wnid].split(",")[0].strip() for wnid in wnids), _files(samples), _files(test))


def read_imagenet(folder: Path) -> Parts:
    """ImageNet-1k: `train/WNID/*` and `val/WNID/*`; labels are the sorted wnids, as everywhere."""
    train, test = (torchvision_class("ImageFolder")(str(folder / part)) for part in ("train", "val"))
    if train.classes != test.classes:
        raise ValueError("train and val have different class folders")
    return Parts(_imagenet_names(train.classes), _files(train.samples), _files(test.samples))


def read_imagenet_r(folder: Path) -> Parts:
    """ImageNet-R: `imagenet-r/WNID/*`, undivided."""
    images = torchvision_class("ImageFolder")(str(folder / "imagenet-r"))
    return Parts(_imagenet_names(images.classes), _files(images.samples), None)


def read_cub200(folder: Path) -> Parts:
    """CUB-200-2011: images, labels, parts and class names in text files of `NUMBER VALUE` lines."""
    base = folder / "CUB_200_2011"
    tables = ("classes", "images", "image_class_labels", "train_test_split")
    classes, paths, labels, trained = (
        dict(line.split(" ", 1) for line in _lines(base / f"{name}.txt")) for name in tables
    )
    parts = {
        part: [
            (str(base / "images" / path), int(labels[key]) - 1) for key, path in paths.items() if trained[key] == part
        ]
        for part in ("1", "0")
    }
    names = tuple(name.partition(".")[2] for name in classes.values())
    return Parts(names, _files(parts["1"]), _files(parts["0"]))


def _imagenet_names(wnids: Sequence[str]) -> tuple[str, ...]:
    """The names that CLIP's authors gave the 1,000 classes (Radford et al. 2021), of some of them."""
    from timm.data.imagenet_info import ImageNetInfo  # as slow to load as open_clip: only where ImageNet is read

    from everclip.system.openclip import IMAGENET_CLASSNAMES

    names = dict(zip(ImageNetInfo("imagenet-1k").label_names(), IMAGENET_CLASSNAMES, strict=True))
    return tuple(names[wnid] for wnid in wnids)


def _class_names(dataset: Any) -> tuple[str, ...]:
    from torchvision.datasets import Caltech101

    if isinstance(dataset, Caltech101):
        return tuple(dataset.categories)
    return tuple(getattr(dataset, "classes", ()))  # older torchvision gives the flowers no names


def _images(dataset: Any, part: str) -> ImageSource:
    """A torchvision data set as files and labels, for which its classes have no common name, or as an array."""
    from torchvision.datasets import CIFAR100, MNIST, SUN397, Caltech101, DatasetFolder, OxfordIIITPet, StanfordCars

    if isinstance(dataset, CIFAR100 | MNIST):
        called = f"{type(dataset).__name__.lower()}/{part}"
        return ArrayImages(called, np.asarray(dataset.data), np.asarray(dataset.targets))
    if isinstance(dataset, Caltech101):
        folder = Path(dataset.root) / "101_ObjectCategories"
        numbered = zip(dataset.y, dataset.index, strict=True)
        return _files([(folder / dataset.categories[y] / f"image_{number:04d}.jpg", y) for y, number in numbered])
    if isinstance(dataset, DatasetFolder):
        return _files(dataset.samples)
    if isinstance(dataset, StanfordCars):
        return _files(dataset._samples)
    paths = dataset._images if isinstance(dataset, OxfordIIITPet) else dataset._image_files
    pairs = list(zip(paths, dataset._labels, strict=True))
    # Torchvision lists SUN397 in the order of the file system, which no two machines share.
    return _files(sorted(pairs) if isinstance(dataset, SUN397) else pairs)


def _files(pairs: Sequence[tuple[str | Path, int]]) -> FolderImages:
    return FolderImages([str(path) for path, _ in pairs], np.array([label for _, label in pairs], dtype=np.int64))


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
