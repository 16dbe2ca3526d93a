"""The published data sets in miniature: a few tiny images each, in the official layout on disk.

Every image says where it belongs: see `mark` and `read_mark`.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import CIFAR100, Flowers102

from everclip.data.published import PUBLISHED, Published
from everclip.data.published.splits import write_split

TRAIN, TEST = 0, 1
_serial = iter(range(1, 1 << 24))


def mark(label: int, part: int = TRAIN, size: int = 4) -> np.ndarray:
    """(S, S, 3) uint8 pixels that tell label and part, and are like no other image's."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[:] = (label % 256, label // 256, part)
    pixels[-1, -1] = list(next(_serial).to_bytes(3, "big"))
    return pixels


def read_mark(image: Image.Image) -> tuple[int, int]:
    """Label and part."""
    red, green, blue = image.getpixel((0, 0))
    return red + 256 * green, blue


def write_image(path: Path, label: int, part: int = TRAIN) -> None:
    """A PNG whatever its name says, so that no mark is lost."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    Image.fromarray(mark(label, part)).save(content, "png")
    path.write_bytes(content.getvalue())


def write_lines(path: Path, lines: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def aircraft(folder: Path) -> None:
    data, number = folder / "fgvc-aircraft-2013b" / "data", 0
    variants = ["707-320", "F-16A/B", "Cessna 172"]
    write_lines(data / "variants.txt", variants)
    for part, name in ((TRAIN, "train"), (TEST, "test")):
        lines = []
        for label in (2, 0, 1, 1):
            number += 1
            write_image(data / "images" / f"{number:07d}.jpg", label, part)
            lines.append(f"{number:07d} {variants[label]}")
        write_lines(data / f"images_variant_{name}.txt", lines)
    (data / "images_variant_trainval.txt").write_bytes((data / "images_variant_train.txt").read_bytes())


CALTECH = ["Faces", "Faces_easy", "Leopards", "Motorbikes", *(f"thing{number:02d}" for number in range(97))]


def caltech101(folder: Path) -> None:
    images = folder / "caltech101" / "101_ObjectCategories"
    write_image(images / "BACKGROUND_Google" / "image_0001.jpg", 999)
    for label, name in enumerate(CALTECH):
        for number in (1, 2):
            write_image(images / name / f"image_{number:04d}.jpg", label)


def cifar100(folder: Path) -> None:
    base = folder / "cifar-100-python"
    base.mkdir(parents=True)
    for part, name, labels in ((TRAIN, "train", [*range(100), 7]), (TEST, "test", [99, *range(99)])):
        pixels = np.stack([mark(label, part, 32) for label in labels]).transpose(0, 3, 1, 2).reshape(len(labels), -1)
        (base / name).write_bytes(pickle.dumps({"data": pixels, "fine_labels": labels}))
    names = [f"thing_{number:02d}" for number in range(100)]
    (base / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))


def dtd(folder: Path) -> None:
    base = folder / "dtd" / "dtd"
    for part, name in ((TRAIN, "train"), (TEST, "test")):
        files = [f"{kind}/{kind}_{name}_{number}.jpg" for kind in ("banded", "zigzagged") for number in (1, 2)]
        for file in files:
            write_image(base / "images" / file, int(file.startswith("zig")), part)
        write_lines(base / "labels" / f"{name}1.txt", files)


EUROSAT = [
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop", "Residential",
    "River", "SeaLake",
]  # fmt: skip


def eurosat(folder: Path) -> None:
    for label, name in enumerate(EUROSAT):
        for number in (1, 2, 10):
            write_image(folder / "eurosat" / "2750" / name / f"{name}_{number}.jpg", label)


def flowers102(folder: Path) -> None:
    base = folder / "flowers-102"
    labels = [1, 77, 102, 77, 1, 102]  # as in the file: the first class is 1
    for number, label in enumerate(labels, 1):
        write_image(base / "jpg" / f"image_{number:05d}.jpg", label - 1, TRAIN if number in (4, 1) else TEST)
    savemat(base / "imagelabels.mat", {"labels": [labels]})
    savemat(base / "setid.mat", {"trnid": [[4, 1]], "valid": [[2]], "tstid": [[3, 5, 6]]})


def food101(folder: Path) -> None:
    base = folder / "food-101"
    for part, name in ((TRAIN, "train"), (TEST, "test")):
        listed = {}
        for label, food in ((1, "pad_thai"), (0, "apple_pie")):
            listed[food] = [f"{food}/{100 * part + number}" for number in range(2)]
            for file in listed[food]:
                write_image(base / "images" / f"{file}.jpg", label, part)
        write_lines(base / "meta" / f"{name}.json", [json.dumps(listed)])


def mnist(folder: Path) -> None:
    """Gray: the mark is in the one value. The first part lies there packed as well, as its download leaves it."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, name, labels in ((TRAIN, "train", [*range(10), 3]), (TEST, "t10k", [*reversed(range(10))])):
        pixels = np.zeros((len(labels), 28, 28), np.uint8)
        for image, label in zip(pixels, labels, strict=True):
            image[:] = label + 100 * part
            image[-1, -3:] = list(next(_serial).to_bytes(3, "big"))
        images = struct.pack(">IIII", 0x803, *pixels.shape) + pixels.tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, len(labels)) + bytes(labels))


def oxford_pets(folder: Path) -> None:
    base = folder / "oxford-iiit-pet"
    kinds = ["Abyssinian", "american_bulldog", "shiba_inu"]
    for part, name, numbers in ((TRAIN, "trainval", (1, 2)), (TEST, "test", (3,))):
        files = [(f"{kind}_{number}", label) for label, kind in enumerate(kinds) for number in numbers]
        for file, label in files:
            write_image(base / "images" / f"{file}.jpg", label, part)
        write_lines(base / "annotations" / f"{name}.txt", [f"{file} {label + 1} 1 1" for file, label in files])


def stanford_cars(folder: Path) -> None:
    base = folder / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    names = ["AM General Hummer SUV 2000", "smart fortwo Convertible 2012"]
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array([names], dtype=object)})
    lists = {"cars_train": base / "devkit/cars_train_annos.mat", "cars_test": base / "cars_test_annos_withlabels.mat"}
    for part, (name, path) in enumerate(lists.items()):
        kind = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
        rows = np.array([[(39, 2, "00001.jpg"), (30, 1, "00002.jpg"), (10, 2, "00003.jpg")]], dtype=kind)
        savemat(path, {"annotations": rows})
        for _, label, file in rows[0].tolist():
            write_image(base / name / file, label - 1, part)


SUN = ["/a/abbey", "/a/airplane_cabin", "/a/apartment_building/outdoor"]


def sun397(folder: Path) -> None:
    base = folder / "SUN397"
    write_lines(base / "ClassName.txt", SUN)
    for label, name in enumerate(SUN):
        for number in "cab":
            write_image(base / name[1:] / f"sun_{number}.jpg", label)


def tinyimagenet(folder: Path, classes: int = 200) -> None:
    base = folder / "tiny-imagenet-200"
    wnids = [f"n{(7 * label) % 1000:08d}" for label in range(classes)]  # the labels are not in sorted order
    write_lines(base / "wnids.txt", wnids)
    words = [f"{wnid}\tthing {label}, other name" for label, wnid in enumerate(wnids)]
    write_lines(base / "words.txt", [*words, "n99999999\tsomething else"])
    for label, wnid in enumerate(wnids):
        write_image(base / "train" / wnid / "images" / f"{wnid}_0.JPEG", label)
        write_image(base / "val" / "images" / f"val_{label}.JPEG", label, TEST)
    noted = [f"val_{label}.JPEG\t{wnid}\t0\t0\t3\t3" for label, wnid in enumerate(wnids)]
    write_lines(base / "val" / "val_annotations.txt", noted[::-1])


IMAGENET = ["n01440764", "n01443537", "n02123045"]
"""A tench, a goldfish and a tabby cat."""


def imagenet(folder: Path, wnids: Sequence[str] = IMAGENET) -> None:
    for label, wnid in enumerate(wnids):
        write_image(folder / "train" / wnid / f"{wnid}_1.JPEG", label)
        write_image(folder / "val" / wnid / f"ILSVRC2012_val_{label:08d}.JPEG", label, TEST)


def imagenet_r(folder: Path) -> None:
    write_lines(folder / "imagenet-r" / "README.txt", ["renditions"])
    for label, wnid in enumerate(IMAGENET[1:]):
        for number in range(3):
            write_image(folder / "imagenet-r" / wnid / f"art_{number}.jpg", label)


def cub200(folder: Path, classes: int = 200) -> None:
    base = folder / "CUB_200_2011"
    birds = [f"{number:03d}.Black_footed_Bird{number}" for number in range(1, classes + 1)]
    images = [(bird, label, part) for label, bird in enumerate(birds) for part in (TEST, TRAIN)]
    for number, (bird, label, part) in enumerate(images, 1):
        write_image(base / "images" / bird / f"{number}.jpg", label, part)
    tables = {
        "classes": birds,
        "images": [f"{bird}/{number}.jpg" for number, (bird, _, _) in enumerate(images, 1)],
        "image_class_labels": [label + 1 for _, label, _ in images],
        "train_test_split": [int(part == TRAIN) for _, _, part in images],
    }
    for name, values in tables.items():
        write_lines(base / f"{name}.txt", [f"{number} {value}" for number, value in enumerate(values, 1)])


WRITERS: dict[str, Callable[[Path], None]] = {
    "aircraft": aircraft,
    "caltech101": caltech101,
    "cifar100": cifar100,
    "dtd": dtd,
    "eurosat": eurosat,
    "flowers102": flowers102,
    "food101": food101,
    "mnist": mnist,
    "oxford_pets": oxford_pets,
    "stanford_cars": stanford_cars,
    "sun397": sun397,
    "tinyimagenet": tinyimagenet,
    "imagenet": imagenet,
    "imagenet-r": imagenet_r,
    "cub200": cub200,
}

UNDIVIDED = {"caltech101": 202, "eurosat": 30, "sun397": 9, "imagenet-r": 6}
"""Images of the sets that were published without parts."""

SIZES = {
    "aircraft": (4, 4), "cifar100": (101, 100), "dtd": (4, 4), "flowers102": (2, 3), "food101": (4, 4),
    "mnist": (11, 10), "oxford_pets": (6, 3), "stanford_cars": (3, 3), "tinyimagenet": (200, 200), "imagenet": (3, 3),
    "cub200": (200, 200), **{name: (int(0.8 * n), n - int(0.8 * n)) for name, n in UNDIVIDED.items()},
}  # fmt: skip
"""Training and test images of each miniature."""

CLASSES = {
    "aircraft": 3, "dtd": 2, "food101": 2, "oxford_pets": 3, "stanford_cars": 2, "sun397": 3, "imagenet": 3,
    "imagenet-r": 2,
}  # fmt: skip
"""Classes of the miniatures that have fewer than the set."""


def small(name: str, **changed: object) -> Published:
    """The set, of which its miniature is all."""
    train, test = SIZES[name]
    published = PUBLISHED[name]
    classes = CLASSES.get(name, published.classes)
    return replace(published, classes=classes, train=train, test=test, **changed)


def write(name: str, root: Path) -> Path:
    """Write a miniature to its place below the root, with its split if it needs one; returns its folder."""
    folder = root / name
    WRITERS[name](folder)
    parts = PUBLISHED[name].parts(folder)
    if parts.test is None:
        write_split(folder, parts.train)
    return folder


def without_md5(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision read files of other content than the official ones, where it compares them by MD5."""
    monkeypatch.setattr(CIFAR100, "train_list", [["train", None]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", None]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": None})
    files = {key: (name, None) for key, (name, _) in Flowers102._file_dict.items()}
    monkeypatch.setattr(Flowers102, "_file_dict", files)
