"""Published data sets, as the benchmarks use them: one line each in `PUBLISHED`. Other packages add theirs under the
entry points `everclip.datasets`.

A set lies in `ROOT/NAME`, there in the layout that torchvision gives it, or its authors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from everclip.data.door import ImageFolder
from everclip.data.names import DEFAULT_TEMPLATES
from everclip.data.published.readers import (
    Parts,
    Reader,
    divided,
    read_cub200,
    read_imagenet,
    read_imagenet_r,
    read_tinyimagenet,
    torchvision_class,
    undivided,
)
from everclip.data.published.splits import read_coop, read_split
from everclip.errors import InputError
from everclip.registry import Registry
from everclip.system.paths import expanded

__all__ = ["DATASETS", "PUBLISHED", "Published", "data_root", "open_published"]


def _unreadable() -> tuple[type[Exception], ...]:
    """What torchvision and the formats raise for files that are missing, cut short or of another content."""
    from scipy.io.matlab import MatReadError  # torchvision and scipy load slowly: only where a set is read

    return (RuntimeError, OSError, ValueError, LookupError, TypeError, AssertionError, EOFError, MatReadError)


@dataclass(frozen=True)
class Published:
    """A published data set: its size, and how to get and read it.

    Attributes:
        classes, train, test: its counts under the published split.
        read: reads the folder `ROOT/NAME`.
        fetch: downloads into that folder; None where there is no public source any more.
        by_hand: then, what to put where; `{folder}` is that folder.
        class_names: the names that prompts use, label order; empty: those that the set itself gives.
        templates: prompt templates, the first one for training.
        spaced: underscores in the set's own names become spaces.
        coop: the name of CoOp's split and the image folder that it counts from, where it has one.
    """

    name: str
    classes: int
    train: int
    test: int
    read: Reader
    fetch: Callable[[Path], object] | None = None
    by_hand: str = ""
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    spaced: bool = False
    coop: tuple[str, str] | None = None

    def parts(self, folder: Path) -> Parts:
        """Read the set from its folder as it was published.

        Raises:
            InputError: it is not there, or not readable, or has not the classes that its names are for.
        """
        again = f"`everclip data prepare {self.name} --root {folder.parent}`"
        if not folder.is_dir():
            raise InputError(f"data set '{self.name}' is not in {folder}; get it by {again}.")
        remedy = f"remove the folder and run {again}" if self.fetch else self.by_hand.format(folder=folder)
        try:
            parts = self.read(folder)
        except _unreadable() as error:
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise InputError(f"data set '{self.name}' can't be read from {folder} ({reason}); {remedy}.") from error
        # Names are told by their place in the list: one class folder more or less would shift them silently.
        if self.class_names and parts.class_names and len(parts.class_names) != self.classes:
            raise InputError(
                f"data set '{self.name}' in {folder} has {len(parts.class_names)} classes, not {self.classes}; "
                f"{remedy}."
            )
        return parts


def open_published(
    published: Published, root: Path, splits: Literal["torchvision", "coop"] = "torchvision"
) -> ImageFolder:
    """Open a data set with the split, the class names and the templates of the benchmarks.

    Args:
        published: one of `PUBLISHED`, or one of them changed.
        root: the folder of all data sets.
        splits: with `coop` the sets that have a split of CoOp take it, and its class names; the others stay as they
            are, as in the publications.

    Raises:
        InputError: the set, or its split, is missing, damaged or not complete.
    """
    folder = root / published.name
    if splits == "coop" and published.coop:
        if not folder.is_dir():
            published.parts(folder)  # refuses, and says how to get the set
        file, images = published.coop
        parts = read_coop(folder / file, folder / images)
        names = _spaced(parts.class_names)
    else:
        parts = published.parts(folder)
        names = published.class_names or (_spaced(parts.class_names) if published.spaced else parts.class_names)
    train, test = parts.train, parts.test
    if test is None:
        train, test = read_split(folder, parts.train)
    return ImageFolder(published.name, names, published.templates, train, test)


def data_root(given: str | Path | None = None) -> Path:
    """The folder of the published data sets: the given one, else `$EVERCLIP_DATA`, else `./data`."""
    return expanded(given or os.environ.get("EVERCLIP_DATA") or "data")


def _spaced(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.replace("_", " ") for name in names)


def _download(kind: str) -> Callable[[Path], object]:
    return lambda folder: torchvision_class(kind)(str(folder), download=True)


def _archive(url: str, md5: str) -> Callable[[Path], object]:
    def fetch(folder: Path) -> None:
        from torchvision.datasets.utils import download_and_extract_archive

        download_and_extract_archive(url, str(folder), md5=md5, remove_finished=True)

    return fetch


_PROMPTS = json.loads((files("everclip.data.published") / "prompts.json").read_text(encoding="utf-8"))


def _mtil(name: str, classes: int, train: int, test: int, read: Reader, **more: Any) -> Published:
    prompts = _PROMPTS[name]
    class_names, templates = tuple(prompts.get("classes", ())), tuple(prompts["templates"])
    return Published(name, classes, train, test, read, class_names=class_names, templates=templates, **more)


_CARS_BY_HAND = (
    "put the folders cars_train, cars_test and devkit and the file cars_test_annos_withlabels.mat of the original "
    "release into {folder}/stanford_cars, then repeat"
)
_IMAGENET_BY_HAND = (
    "put the folders train and val of ILSVRC 2012, each with a folder per class called by its wnid (n01440764, …), "
    "into {folder}, then repeat"
)
_TINY_URL, _TINY_MD5 = "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
_R_URL, _R_MD5 = "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar", "a61312130a589d0ca1a8fca1f2bd3337"
_CUB_URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
_CUB_MD5 = "97eceeb196236b17998738112f37df78"

# fmt: off
_SETS = (
    _mtil("aircraft", 100, 3334, 3333, divided("FGVCAircraft", "split", "train", "test"),
          fetch=_download("FGVCAircraft")),
    _mtil("caltech101", 101, 6941, 1736, undivided("Caltech101"), fetch=_download("Caltech101"),
          coop=("split_zhou_Caltech101.json", "caltech101/101_ObjectCategories")),
    _mtil("cifar100", 100, 50000, 10000, divided("CIFAR100", "train", True, False), fetch=_download("CIFAR100"),
          spaced=True),
    _mtil("dtd", 47, 1880, 1880, divided("DTD", "split", "train", "test"), fetch=_download("DTD"),
          coop=("split_zhou_DescribableTextures.json", "dtd/dtd/images")),
    _mtil("eurosat", 10, 21600, 5400, undivided("EuroSAT"), fetch=_download("EuroSAT"),
          coop=("split_zhou_EuroSAT.json", "eurosat/2750")),
    _mtil("flowers102", 102, 1020, 6149, divided("Flowers102", "split", "train", "test"),
          fetch=_download("Flowers102"), coop=("split_zhou_OxfordFlowers.json", "flowers-102/jpg")),
    _mtil("food101", 101, 75750, 25250, divided("Food101", "split", "train", "test"), fetch=_download("Food101"),
          spaced=True, coop=("split_zhou_Food101.json", "food-101/images")),
    _mtil("mnist", 10, 60000, 10000, divided("MNIST", "train", True, False), fetch=_download("MNIST")),
    _mtil("oxford_pets", 37, 3680, 3669, divided("OxfordIIITPet", "split", "trainval", "test"),
          fetch=_download("OxfordIIITPet"), coop=("split_zhou_OxfordPets.json", "oxford-iiit-pet/images")),
    _mtil("stanford_cars", 196, 8144, 8041, divided("StanfordCars", "split", "train", "test"),
          by_hand=_CARS_BY_HAND, coop=("split_zhou_StanfordCars.json", "stanford_cars")),
    _mtil("sun397", 397, 87003, 21751, undivided("SUN397"), fetch=_download("SUN397"), spaced=True,
          coop=("split_zhou_SUN397.json", "SUN397")),
    Published("tinyimagenet", 200, 100000, 10000, read_tinyimagenet, fetch=_archive(_TINY_URL, _TINY_MD5)),
    Published("imagenet", 1000, 1281167, 50000, read_imagenet, by_hand=_IMAGENET_BY_HAND),
    Published("imagenet-r", 200, 24000, 6000, read_imagenet_r, fetch=_archive(_R_URL, _R_MD5)),
    Published("cub200", 200, 5994, 5794, read_cub200, fetch=_archive(_CUB_URL, _CUB_MD5), spaced=True),
)
# fmt: on

PUBLISHED = {published.name: published for published in _SETS}
"""The data sets that EverCLIP knows of itself, by name."""


def _checked(thing: object, name: str) -> Published:
    if not isinstance(thing, Published):
        raise InputError(f"'{name}' is no data set: a data set is an everclip.data.published.Published.")
    if thing.name != name:
        raise InputError(f"data set '{name}' calls itself '{thing.name}'; let both names be the same.")
    return thing


DATASETS: Registry[Published] = Registry("data set", "everclip.datasets", PUBLISHED, _checked)
