"""What the embedded CLIP is trained on: drawn images with captions, and photographs that hold what it knows already."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sklearn.datasets
from matplotlib import cbook
from open_clip import IMAGENET_CLASSNAMES
from PIL import Image, ImageEnhance

from everclip.data import FolderImages, ImageSource, cache_key, load_rgb
from everclip.data.drawn import DOMAINS, Domain, DrawnImages
from everclip.data.names import DEFAULT_TEMPLATES
from everclip.errors import InputError

HELD_BACK_STYLE = "scenes"
"""The domain that is never drawn for training: zero-shot on it is zero-shot on a new style."""

HELD_BACK_EVERY = 9
"""Of every other domain, classes 5, 14, 23, … are never drawn for training: of the balls, never one whole color."""

DRAWING_SEED = 1_000_003
"""Added to the seed of the training drawings, so that no stream with a usual seed shows one of them."""

CAPTIONS = ("{}", "an image of {}.")
"""Captions beside the templates of each domain."""

HELD_TEXTS = [[caption.format(name) for caption in (*DEFAULT_TEMPLATES, *CAPTIONS)] for name in IMAGENET_CLASSNAMES]
"""Names of things that photographs show, each in several captions: what the text tower must not forget."""

LEAST_CROP = 24
"""Side of the smallest crop of a photograph, in pixels."""


def held_back(domain: Domain) -> frozenset[int]:
    """Labels of the domain's classes that are never drawn for training."""
    classes = range(len(domain.class_names))
    if domain.name == HELD_BACK_STYLE:
        return frozenset(classes)
    return frozenset(label for label in classes if label % HELD_BACK_EVERY == 5)


class DrawnClasses:
    """The drawn classes that are not held back.

    Args:
        size: S, side of the images in pixels.
        steps: how many batches are drawn at most; no image is drawn twice.
        seed: 0 or larger.

    Attributes:
        captions: per class, the texts that say what its images show.
        domains: per class, the number of its domain.
        key: says which drawings they are.
    """

    def __init__(self, size: int, steps: int, seed: int) -> None:
        sources = [DrawnImages(domain, steps, "train", DRAWING_SEED + seed, size) for domain in DOMAINS.values()]
        self._classes = [
            (source, label)
            for source in sources
            for label in range(len(source.domain.class_names))
            if label not in held_back(source.domain)
        ]
        self.captions = [
            [caption.format(source.domain.class_names[label]) for caption in (*source.domain.templates, *CAPTIONS)]
            for source, label in self._classes
        ]
        self.domains = [sources.index(source) for source, _ in self._classes]
        self.key = cache_key(*(source.digest(label) for source, label in self._classes))

    def batch(self, step: int, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw `count` images of as many classes: pixels (B, 3, S, S) uint8 and labels (B,) into `captions`."""
        chosen = random.choice(len(self._classes), count, replace=False)
        pixels = [self._draw(step, *self._classes[index]) for index in chosen]
        return np.stack(pixels), chosen

    @staticmethod
    def _draw(step: int, source: DrawnImages, label: int) -> np.ndarray:
        image = source.decode(step * len(source.domain.class_names) + label)
        return np.asarray(image).transpose(2, 0, 1)


class Photographs:
    """Random crops of photographs.

    Args:
        source: the photographs.
        class_names: of the labels; none where nothing is known of what they show.
        size: S, side of the crops in pixels.

    Attributes:
        captions: per class, the texts that say what its images show.
        key: says which photographs they are.
    """

    def __init__(self, source: ImageSource, class_names: Sequence[str], size: int) -> None:
        self._source = source
        self._size = size
        names = sorted(Path(source.name(index)).name for index in range(len(source)))
        self.key = cache_key(size, *class_names, *names)
        self.captions = [[caption.format(name) for caption in (*DEFAULT_TEMPLATES, *CAPTIONS)] for name in class_names]

    def batch(self, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Crop `count` times: pixels (B, 3, S, S) uint8 and labels (B,), those into `captions` where there are any.

        Crops that have no caption are blended with others half of the time, and patched with others a quarter: a few
        photographs then stand for many.
        """
        chosen = random.integers(len(self._source), size=count)
        crops = [self._crop(self._source.decode(int(index)), random) for index in chosen]
        if not self.captions:
            crops = [self._mixed(crop, crops[int(random.integers(count))], random) for crop in crops]
        return np.stack([crop.transpose(2, 0, 1) for crop in crops]), self._source.labels[chosen]

    def _crop(self, image: Image.Image, random: np.random.Generator) -> np.ndarray:
        """A square of a log-uniform side, perhaps mirrored, in other light: (S, S, 3) uint8."""
        short = min(image.size)
        side = round(math.exp(random.uniform(math.log(min(LEAST_CROP, short)), math.log(short))))
        left, top = (int(random.integers(length - side + 1)) for length in image.size)
        crop = image.crop((left, top, left + side, top + side)).resize((self._size,) * 2, Image.Resampling.BICUBIC)
        if random.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            crop = change(crop).enhance(random.uniform(0.6, 1.4))
        return np.asarray(crop)

    @staticmethod
    def _mixed(crop: np.ndarray, other: np.ndarray, random: np.random.Generator) -> np.ndarray:
        fate = random.random()
        if fate < 0.5:
            share = random.uniform(0.3, 0.7)
            return (share * crop + (1 - share) * other).astype(np.uint8)
        if fate < 0.75:
            (top, bottom), (left, right) = np.sort(random.integers(len(crop) + 1, size=(2, 2)))
            crop = crop.copy()
            crop[top:bottom, left:right] = other[top:bottom, left:right]
        return crop


class _InMemory(ImageSource):
    """Images that are decoded already."""

    def __init__(self, images: dict[str, Image.Image]) -> None:
        self._names = list(images)
        self._images = list(images.values())
        self.labels = np.zeros(len(images), dtype=np.int64)

    def name(self, index: int) -> str:
        return self._names[index]

    def digest(self, index: int) -> str:
        return self._names[index]

    def decode(self, index: int) -> Image.Image:
        return self._images[index]


def bundled_photographs() -> ImageSource:
    """The three photographs that come with scikit-learn and matplotlib, which the package depends on."""
    photographs = sklearn.datasets.load_sample_images()
    names = [Path(name).name for name in photographs.filenames]
    images = dict(zip(names, map(Image.fromarray, photographs.images), strict=True))
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        images["grace_hopper.jpg"] = load_rgb(file.read(), "grace_hopper.jpg")
    return _InMemory(images)


def tiny_imagenet(folder: Path, part: str) -> tuple[FolderImages, list[str]]:
    """Read one part of a folder in the layout of Tiny-ImageNet.

    `words.txt` names the classes; `train/WNID/images/*` are the training images, and `val/val_annotations.txt` says
    which class each of `val/images/*` shows.

    Args:
        folder: the data set.
        part: "train" or "val".

    Returns:
        The images and the class names: of several synonyms the first, as a caption would say it.

    Raises:
        InputError: a file is missing, or this part has no image.
    """
    try:
        words = dict(line.split("\t") for line in (folder / "words.txt").read_text("utf-8").splitlines())
        classes = (folder / "wnids.txt").read_text("utf-8").split()
        if part == "train":
            files = [(path, path.parts[-3]) for path in sorted((folder / "train").glob("*/images/*"))]
        else:
            rows = [line.split("\t") for line in (folder / "val/val_annotations.txt").read_text("utf-8").splitlines()]
            files = [(folder / "val/images" / row[0], row[1]) for row in rows]
        names = [words[wnid].split(",")[0] for wnid in classes]
        labels = np.array([classes.index(wnid) for _, wnid in files], dtype=np.int64)
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{folder} is not laid out as Tiny-ImageNet is ({error}); name such a folder.") from error
    if not files:
        raise InputError(f"{folder / part} has no image; add the images of that part, or leave the option out.")
    return FolderImages([str(path) for path, _ in files], labels), names
