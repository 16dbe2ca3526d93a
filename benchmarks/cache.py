"""What it costs to verify what is read from the cache, against reading without a check.

Embeddings and views are read from files that the system holds in memory, the case in which a check counts most. Each is
read in two ways, in turns within one process: through the package, by which every block is checked, and as numpy maps
the same file, which checks nothing. Times are the least of some rounds, so that other work on the machine counts as
little as can be: on the clock, and of the processors.

`alone` is nothing but the bytes, copied into memory. `as used` is what a command does with them anyway: embeddings are
normalized and compared with the classes; for views every image file is hashed, by which the cache finds them, and the
pixels become the numbers that the tower takes. The tower itself, which takes a hundred times as long, is left out.

The last lines compare the checksum with what the standard library has.

    python benchmarks/cache.py --rounds 7
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from everclip.backbone import Backbone
from everclip.data import FolderImages, ViewedImages, embedding_cache, view_pixels, viewed
from everclip.data.pixels import open_pixels
from everclip.storage.checksums import BLOCK, checksum

BATCH = 256
PHOTO = 60_000
"""Bytes of an image file: a JPEG of 500 x 375 pixels."""


class Photos(FolderImages):
    """Files as large as photos. What they show is made up, for nothing is decoded while the cache is read."""

    def __init__(self, folder: Path, count: int, side: int) -> None:
        random = np.random.default_rng(0)
        paths = [folder / f"{number:06}.jpg" for number in range(count)]
        for path in paths:
            path.write_bytes(random.bytes(PHOTO))
        self.side, self.noise = side, random.integers(0, 256, (64 + side, side, 3), dtype=np.uint8)
        super().__init__([str(path) for path in paths], np.zeros(count, np.int64))

    def decode(self, index: int) -> Image.Image:
        return Image.fromarray(self.noise[index % 64 :][: self.side])


class Whole:
    """A view that keeps the image as it is."""

    key = "whole"

    def __init__(self, side: int) -> None:
        self.size = side

    def __call__(self, image: Image.Image) -> Image.Image:
        return image


def compared(cases: dict[str, tuple[Callable[[], object], Callable[[], object]]], rounds: int) -> None:
    """Measure pairs of plain and verified reading in turns."""
    print(f"{'':28}{'plain':>9}{'verified':>10}{'ratio':>7}   processor{'':>8}{'ratio':>7}")
    for name, pair in cases.items():
        clock: tuple[list[float], list[float]] = ([], [])
        processor: tuple[list[float], list[float]] = ([], [])
        for number in range(rounds + 1):
            for way, work in enumerate(pair):
                start, used = time.perf_counter(), time.process_time()
                work()
                if number:  # the first round fills the caches of the system
                    clock[way].append(time.perf_counter() - start)
                    processor[way].append(time.process_time() - used)
        row = []
        for times in (clock, processor):
            plain, verified = (min(each) for each in times)
            row += [plain, verified, verified / plain]
        print(
            f"{name:28}{row[0]:7.3f} s{row[1]:8.3f} s{row[2]:7.2f}   {row[3]:7.3f} s{row[4]:7.3f} s{row[5]:7.2f}",
            flush=True,
        )


def embedding_cases(count: int, width: int) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    array = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    classes = F.normalize(torch.randn(100, width), dim=-1)
    embedding_cache("embeddings", lambda: array)
    path = Path(os.environ["EVERCLIP_CACHE"]) / "embeddings" / "embeddings.npy"

    def plain() -> np.ndarray:
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))

    def verified() -> np.ndarray:
        return embedding_cache("embeddings", lambda: array).copy()

    def used(read: Callable[[], np.ndarray]) -> torch.Tensor:
        return (F.normalize(torch.from_numpy(read()), dim=-1) @ classes.T).argmax(dim=1)

    return {
        f"{count:,} embeddings, alone": (plain, verified),
        f"{count:,} embeddings, as used": (lambda: used(plain), lambda: used(verified)),
    }


def view_cases(
    folder: Path, count: int, backbone: Backbone
) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    side = backbone.view.size
    source, view = Photos(folder, count, side), Whole(side)
    built = viewed(source, view)
    (path,) = (Path(os.environ["EVERCLIP_CACHE"]) / "images").iterdir()
    rows = np.arange(len(built))

    def mapped() -> np.ndarray:
        return np.memmap(path, np.uint8, "r", shape=(count, 3, side, side)).view(np.ndarray)

    def batches(images: ViewedImages | np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, count, BATCH):
            yield images[rows[start : start + BATCH]]

    def alone(images: ViewedImages | np.ndarray) -> None:
        for _ in batches(images):
            pass

    def used(images: ViewedImages | np.ndarray) -> None:
        for batch in batches(images):
            backbone.pixels(torch.from_numpy(batch))

    def fresh() -> ViewedImages:
        """As opened by another process: nothing of it is checked yet."""
        pixels = open_pixels(path, source, partial(view_pixels, view=view))
        assert pixels is not None
        return ViewedImages(source, pixels, built.content)

    def found() -> ViewedImages:
        return viewed(source, view)

    return {
        f"{count:,} views, alone": (lambda: alone(mapped()), lambda: alone(fresh())),
        f"{count:,} views, as used": (lambda: (found(), used(mapped())), lambda: used(found())),
    }


def rates() -> None:
    """Gigabytes per second of checksums, of one thread on a block that the processor has at hand."""
    block = np.random.default_rng(0).integers(0, 256, BLOCK, dtype=np.uint8)
    kinds: dict[str, Callable[[], object]] = {
        "checksum of the cache": lambda: checksum(block),
        "CRC-32 (zlib)": lambda: zlib.crc32(block.data),
        "BLAKE2b": lambda: hashlib.blake2b(block.data).digest(),
        "copy": lambda: block.copy(),
    }
    best: dict[str, float] = {}
    for _ in range(30):
        for name, work in kinds.items():
            start = time.process_time()
            for _ in range(10):
                work()
            best[name] = min(best.get(name, float("inf")), (time.process_time() - start) / 10)
    for name, seconds in best.items():
        print(f"{name:28}{BLOCK / seconds / 1e9:7.1f} GB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--views", type=int, default=20_000)
    parser.add_argument("--backbone", default="embedded", help="whose view and normalization the views are for")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    backbone = Backbone.load(options.backbone)
    print(f"views of {backbone.view.size} pixels; {torch.get_num_threads()} threads of torch")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EVERCLIP_CACHE"] = f"{folder}/cache"
        (Path(folder) / "photos").mkdir()
        compared(embedding_cases(options.embeddings, options.width), options.rounds)
        compared(view_cases(Path(folder) / "photos", options.views, backbone), options.rounds)
    rates()


if __name__ == "__main__":
    main()
