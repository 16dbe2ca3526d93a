"""Bringing data sets to disk. Nothing here reaches the network: what would download is replaced."""

from __future__ import annotations

import io
import tarfile
import urllib.error
import zipfile
from pathlib import Path

import pytest
from tests import miniatures
from tests.miniatures import SIZES, UNDIVIDED, small
from torchvision.datasets import utils

from everclip.data.published import PUBLISHED, open_published
from everclip.data.published.prepare import Counts, Prepared, prepare, published_counts
from everclip.data.published.splits import SPLIT_FILE, train_size


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No official checksums, and no network."""

    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network in tests")

    miniatures.without_md5(monkeypatch)
    monkeypatch.setattr(utils, "_urlretrieve", offline)
    monkeypatch.setattr(utils, "_get_redirect_url", offline)


def never(folder: Path) -> None:
    raise AssertionError(f"downloads {folder} again")


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def sentence(outcome: Prepared) -> str:
    assert outcome.problem.endswith(".")
    assert "\n" not in outcome.problem
    return outcome.problem


# -- what lies there ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_complete_set_is_recognized_and_left_alone(name: str, tmp_path: Path) -> None:
    miniatures.WRITERS[name](tmp_path / name)
    published = small(name, fetch=never if PUBLISHED[name].fetch else None)
    counts = published_counts(published)
    assert prepare(published, tmp_path) == Prepared("ready", counts)
    before = files(tmp_path)
    assert prepare(published, tmp_path) == Prepared("ready", counts)
    assert files(tmp_path) == before
    assert (tmp_path / name / SPLIT_FILE).exists() == (name in UNDIVIDED)
    assert len(open_published(published, tmp_path).train) == counts.train


@pytest.mark.parametrize("name", PUBLISHED)
def test_other_counts_are_told(name: str, tmp_path: Path) -> None:
    """A miniature can be opened, but it is not the published set."""
    miniatures.WRITERS[name](tmp_path / name)
    outcome = prepare(PUBLISHED[name], tmp_path)
    assert outcome.state == "incomplete"
    assert outcome.counts[1:] == SIZES[name]
    found, complete = SIZES[name][0], PUBLISHED[name].train
    assert f"{found} training images, not {complete}" in sentence(outcome)
    assert (PUBLISHED[name].by_hand.format(folder=tmp_path / name) or "remove the folder") in outcome.problem
    assert not (tmp_path / name / SPLIT_FILE).exists(), "no split of half a set"


def test_the_published_counts_of_undivided_sets_are_80_percent() -> None:
    for name in UNDIVIDED:
        counts = published_counts(PUBLISHED[name])
        assert train_size(counts.train + counts.test) == counts.train


def test_a_damaged_split_is_told_not_replaced(tmp_path: Path) -> None:
    miniatures.write("eurosat", tmp_path)
    (tmp_path / "eurosat" / SPLIT_FILE).write_text("{}")
    assert "remove it" in sentence(prepare(small("eurosat"), tmp_path))
    assert (tmp_path / "eurosat" / SPLIT_FILE).read_text() == "{}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("stanford_cars", ["cars_train", "cars_test", "devkit", "cars_test_annos_withlabels.mat", "/stanford_cars"]),
        ("imagenet", ["train", "val", "wnid"]),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_what_must_be_put_there_by_hand(name: str, words: list[str], there: bool, tmp_path: Path) -> None:
    if there:
        (tmp_path / name / "something").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    outcome = prepare(PUBLISHED[name], tmp_path)
    assert (outcome.state, outcome.counts) == ("missing", None)
    assert all(word in sentence(outcome) for word in [*words, str(tmp_path / name)])
    assert sorted(tmp_path.rglob("*")) == before


# -- downloading -------------------------------------------------------------------------------------------------------

DOWNLOADED = {
    "aircraft": "torchvision.datasets.fgvc_aircraft",
    "cifar100": "torchvision.datasets.cifar",
    "food101": "torchvision.datasets.food101",
    "sun397": "torchvision.datasets.sun397",
    "tinyimagenet": "torchvision.datasets.utils",
    "imagenet-r": "torchvision.datasets.utils",
    "cub200": "torchvision.datasets.utils",
}
"""Sets of one archive that is unpacked in the set's own folder, and who calls for it."""


@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_download_gets_its_place(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(url: str, download_root: str, filename: str | None = None, **options: object) -> None:
        asked.append(url)
        assert options.get("md5") or name == "aircraft", "torchvision has no sum of that one"
        assert Path(download_root).parent == tmp_path
        miniatures.WRITERS[name](Path(download_root) / "unpacked")
        for path in (Path(download_root) / "unpacked").iterdir():
            path.rename(Path(download_root) / path.name)
        (Path(download_root) / "unpacked").rmdir()
        (Path(download_root) / "archive.tar.gz").write_bytes(b"large")

    monkeypatch.setattr(f"{DOWNLOADED[name]}.download_and_extract_archive", download)
    published = small(name)
    for _ in range(2):
        assert prepare(published, tmp_path) == Prepared("ready", published_counts(published))
    (url,) = asked
    assert url.startswith("http")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert not (tmp_path / name / "archive.tar.gz").exists()


def interrupted(folder: Path) -> None:
    (folder / "half").mkdir()
    raise urllib.error.URLError("connection reset")


@pytest.mark.parametrize("leftovers", [False, True])
def test_a_broken_download_leaves_nothing_and_can_be_repeated(leftovers: bool, tmp_path: Path) -> None:
    if leftovers:  # of a process that was killed
        (tmp_path / "dtd.unfinished" / "dtd").mkdir(parents=True)
    (tmp_path / "dtd").mkdir()
    outcome = prepare(small("dtd", fetch=interrupted), tmp_path)
    assert (outcome.state, outcome.counts) == ("missing", None)
    assert all(words in sentence(outcome) for words in ("'dtd'", "connection reset", str(tmp_path / "dtd")))
    assert list(tmp_path.rglob("*")) == [tmp_path / "dtd"]
    assert prepare(small("dtd", fetch=miniatures.dtd), tmp_path).state == "ready"


@pytest.mark.parametrize("name", [name for name, published in PUBLISHED.items() if published.fetch])
def test_without_a_network_every_set_fails_with_a_sentence(name: str, tmp_path: Path) -> None:
    outcome = prepare(PUBLISHED[name], tmp_path)
    assert "no network in tests" in sentence(outcome)
    assert list(tmp_path.iterdir()) == []


def tar_of(member: str, link: str = "") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        info = tarfile.TarInfo(member)
        info.size = 0 if link else 4
        if link:
            info.type, info.linkname = tarfile.SYMTYPE, link
        archive.addfile(info, None if link else io.BytesIO(b"evil"))
    return content.getvalue()


def zip_of(member: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(member, "evil")
    return content.getvalue()


ARCHIVES = {
    "up": ("cub200", tar_of("../evil.txt")),
    "down and up": ("cub200", tar_of("CUB_200_2011/../../../evil.txt")),
    "link": ("cub200", tar_of("CUB_200_2011/link", link="../../..")),
    "zip": ("tinyimagenet", zip_of("../../evil.txt")),
    "no tar": ("cub200", b"no archive"),
    "no zip": ("tinyimagenet", b"no archive"),
    "cut short": ("cub200", tar_of("CUB_200_2011/evil.txt")[:40]),
}


@pytest.mark.parametrize(("name", "archive"), ARCHIVES.values(), ids=ARCHIVES)
@pytest.mark.parametrize("old", [False, True], ids=["", "old torchvision"])
def test_an_archive_cannot_reach_out_of_its_folder(
    name: str, archive: bytes, old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deliver(url: str, root: str, filename: str, md5: str) -> None:
        (Path(root) / filename).write_bytes(archive)

    def unpack(archive: str, folder: str, _: str | None) -> None:
        """As torchvision did before it asked for a filter."""
        with tarfile.open(archive) as tar:
            tar.extractall(folder)

    monkeypatch.setattr(utils, "download_url", deliver)
    if old:
        monkeypatch.setitem(utils._ARCHIVE_EXTRACTORS, ".tar", unpack)
    root = tmp_path / "deep" / "root"
    outcome = prepare(PUBLISHED[name], root)
    assert outcome.state == "missing"
    assert f"'{name}'" in sentence(outcome)
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(root / name)]
    assert outside == []
    assert not list(tmp_path.rglob("link"))


def test_a_python_that_cannot_unpack_safely_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tarfile, "data_filter")
    assert "3.11.4" in sentence(prepare(small("dtd", fetch=never), tmp_path))


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    assert "No space left on device" in sentence(prepare(small("dtd", fetch=full), tmp_path))


def test_counts_are_those_of_the_benchmarks() -> None:
    counts = {name: published_counts(published) for name, published in PUBLISHED.items()}
    assert counts["caltech101"] == Counts(classes=101, train=6941, test=1736)
    assert counts["sun397"] == Counts(classes=397, train=87003, test=21751)
    assert counts["oxford_pets"] == Counts(classes=37, train=3680, test=3669)
    assert counts["imagenet"] == Counts(classes=1000, train=1281167, test=50000)
