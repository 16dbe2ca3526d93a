from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everclip.data import check, contact_sheet, read
from everclip.data.alike import alike_names


@pytest.fixture
def messy(write_images, tmp_path: Path) -> Path:
    """A divided folder with all that deserves a second look."""
    train = [f"pets/train/{name}/{number}.png" for name in ("tabby cat", "dog") for number in range(6)]
    root = write_images(*train, "pets/train/Tabby_Cat/9.png", "pets/train/hen/1.png", "pets/test/dog/7.png")
    shutil.copy(root / "train/dog/1.png", root / "train/tabby cat/copy.png")  # of two classes
    shutil.copy(root / "train/dog/2.png", root / "test/dog/copy.png")  # learned and judged on
    Image.open(root / "train/dog/3.png").save(root / "train/dog/other.png", compress_level=0)  # other bytes
    (root / "train/dog/bad.png").write_bytes(b"words")
    cut = (root / "train/dog/4.png").read_bytes()
    (root / "train/dog/cut.png").write_bytes(cut[: len(cut) // 2])
    (root / "train/dog/film.mov").write_bytes(b"film")
    (root / "train/wolf").mkdir()
    (root / "train/wolf/raw.cr2").write_bytes(b"raw")
    return root


def test_headers_and_files_say_what_is_there(messy: Path) -> None:
    steps = []
    checked = check(read(messy), {"pets": ["DOG", "hens"], "farm": ["dog"]}, progress=lambda *step: steps.append(step))
    assert checked.classes == {
        "Tabby Cat": {"train": 8},
        "dog": {"train": 9, "test": 2},
        "hen": {"train": 1},
    }
    assert (checked.images, checked.parts) == (20, {"train": 18, "test": 2})
    assert (checked.learned, checked.judged) == ("train", "test")
    assert checked.read_as == "divided into test, train; in there every folder is a class"
    assert checked.left_out_in_words == "2 files left out: 1 .cr2, 1 .mov"
    assert checked.empty == ["wolf"]
    assert [(Path(name).name, reason[:14]) for name, reason in checked.broken] == [("bad.png", "the content is")]
    found = [([Path(name).name for name in each.names], each.classes, each.parts) for each in checked.copies]
    assert found == [
        (["1.png", "copy.png"], ("dog", "Tabby Cat"), ("train",)),
        (["2.png", "copy.png"], ("dog",), ("train", "test")),
    ]
    assert checked.tiny == {"hen": 1}
    assert checked.alike == [("hen", "hens")]
    assert checked.spellings == {"Tabby Cat": ("Tabby_Cat", "tabby cat")}
    assert checked.known == {"Tabby Cat": [], "dog": ["pets", "farm"], "hen": []}
    assert steps == [(done, 20) for done in range(1, 21)]


def test_decoding_finds_what_headers_and_bytes_do_not_tell(messy: Path) -> None:
    checked = check(read(messy), decode=True)
    assert {Path(name).name for name, _ in checked.broken} == {"bad.png", "cut.png"}
    assert {tuple(Path(name).name for name in each.names) for each in checked.copies} == {
        ("1.png", "copy.png"),
        ("2.png", "copy.png"),
        ("3.png", "other.png"),
    }
    assert checked.known is None


def test_what_is_no_folder_is_checked_too() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    pictures[4] = pictures[1]
    pairs = [(picture, "cat" if number < 3 else "dog") for number, picture in enumerate(pictures)]
    for source in (pairs, (pictures, np.array([label for _, label in pairs]))):
        checked = check(read(source))
        assert (checked.learned, checked.judged, checked.parts) == ("all", "all", {"all": 6})
        assert [each.classes for each in checked.copies] == [("cat", "dog")]
        assert contact_sheet(read(source), checked).count("data:image/jpeg") == 8


def test_the_sheet_holds_all_it_shows(messy: Path) -> None:
    (messy / "train/<b>hare&").mkdir()
    shutil.copy(messy / "train/dog/5.png", messy / "train/<b>hare&/5.png")
    found = read(messy)
    page = contact_sheet(found, check(found, {"farm": ["dog"]}))
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "&lt;b&gt;hare&amp;" in page
    assert "<b>" not in page
    for words in ("known to farm", "few to learn: 1", "of different classes", "2 files left out", "no image of wolf"):
        assert words in page
    assert page.count("<img ") >= len(found) - 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("golden retriever", "golden retreiver"),
        ("golden retriever", "goldenretriever"),
        ("golden retriever", "golden-retriever"),
        ("golden retriever", "golden retrievers"),
        ("golden retriever", "golden retrievr"),
        ("golden retriever", "golden retrievet"),
        ("cat", "cats"),
        ("caf\u00e9", "cafe"),
        ("bulldog", "buldog"),
    ],
)
def test_names_that_look_alike(one: str, other: str) -> None:
    for first, second in ((one, other), (other, one)):
        assert alike_names([first, "zebra", second]) == [(first, second)]
        assert alike_names([first, "zebra"], [second]) == [(first, second)]
    assert alike_names(["zebra"], [one, other]) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [("cat", "car"), ("class 1", "class 2"), ("mouse", "house"), ("Cat", "cat"), ("red_fox", "red fox"), ("a", "b")],
)
def test_names_that_do_not(one: str, other: str) -> None:
    assert alike_names([one, other]) == []
