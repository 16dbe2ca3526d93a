"""Images are known by what they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from tests.data.test_images import Square

from everclip.data import FolderImages, LabeledEmbeddings, viewed
from everclip.data.identities import hashed_rows, identities

RECORDED = [-8733602325793864250, -248267594205435020]


def test_numbers_are_the_same_everywhere() -> None:
    """Recorded: what is drawn on one machine is drawn on every other, and by every version."""
    rows = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert hashed_rows(rows).tolist() == RECORDED
    assert hashed_rows(np.asfortranarray(rows)).tolist() == RECORDED
    assert hashed_rows(rows[:0]).tolist() == []


def test_equal_rows_have_equal_numbers() -> None:
    rows = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    rows[7] = rows[31]
    numbers = identities(LabeledEmbeddings(rows, np.zeros(50, dtype=np.int64)))
    assert numbers.dtype == np.int64
    assert numbers[7] == numbers[31]
    assert len(set(numbers.tolist())) == 49


def test_an_image_is_known_wherever_it_lies(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 255, (3, 8, 8, 3), dtype=np.uint8)
    paths = []
    for number, name in ((0, "a.png"), (1, "b.png"), (0, "copy.bmp"), (2, "c.png")):
        paths.append(str(tmp_path / name))
        Image.fromarray(pixels[number]).save(paths[-1])
    first = identities(viewed(FolderImages(paths, np.zeros(4)), Square()))
    assert first[0] == first[2]
    assert len(set(first.tolist())) == 3
    turned = identities(viewed(FolderImages(paths[::-1], np.zeros(4)), Square()))
    assert turned.tolist() == first[::-1].tolist()
