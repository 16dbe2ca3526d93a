"""Whatever byte of the cache changes, no feature does: what is damaged is computed again before anybody reads it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everclip.backbone import Backbone
from everclip.backbone.features import FrozenFeatures
from everclip.data import ImageSource, decoded, read_folder, verify_cache, viewed
from everclip.data.identities import identities
from everclip.selectors.alexnet import AlexNet

from .. import tiny

CHANGES = st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
"""Which file, where in it, and how a byte is changed."""


@dataclass(frozen=True)
class Everything:
    """All that is cached, of one source and one backbone, and where it lies."""

    source: ImageSource
    backbone: Backbone
    alexnet: AlexNet
    cache: Path

    def read(self) -> dict[str, np.ndarray]:
        """From the beginning, as another process would; every number of it."""
        features, views = FrozenFeatures(self.backbone), viewed(self.source, self.backbone.view)
        images = decoded(self.source, 2 * self.backbone.view.size)
        found = {
            "views": views[np.arange(len(views))],
            "images": np.concatenate([images[row].reshape(-1) for row in range(len(images))]),
            "embeddings": features.images(views).numpy(),
            "rows": features.frozen(views, "embeddings")[np.array([5, 0])].numpy(),
            "tokens": features.frozen(views, "tokens")[np.arange(len(views))].numpy(),
            "texts": features.texts(self.backbone.tokenize(["a dog", "two trees"])).numpy(),
            "identities": identities(views),
            "alexnet": self.alexnet.images(views, self.backbone).numpy().copy(),
        }
        return found | {"keys": np.array([views.key, views.content, images.key, str(views.labels.tolist())])}

    def files(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.cache)): path.read_bytes() for path in self.cache.rglob("*.*")}


@pytest.fixture(scope="module")
def everything(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everything]:
    root = tmp_path_factory.mktemp("damaged")
    torch.save(tiny.alexnet_weights(), root / "alexnet.pth")
    source = read_folder(tiny.image_folder(root / "pictures", ["red", "blue"])).train
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERCLIP_CACHE", str(root / "cache"))
        patch.setattr("everclip.backbone.features.BATCH", 5)
        yield Everything(source, Backbone.load(str(tiny_clip)), AlexNet(str(root / "alexnet.pth")), root / "cache")


@pytest.fixture(scope="module")
def intact(everything: Everything) -> tuple[dict[str, np.ndarray], dict[str, bytes]]:
    """What is read, and the files, before anything is damaged."""
    expected = everything.read()
    assert len(everything.files()) == 7
    assert [file.problem for file in verify_cache()] == [""] * 7
    return expected, everything.files()


def assert_nothing_changed(everything: Everything, intact: tuple[dict[str, np.ndarray], dict[str, bytes]]) -> None:
    found = everything.read()
    for what, expected in intact[0].items():
        assert np.array_equal(found[what], expected), what
    assert everything.files() == intact[1]


@given(change=CHANGES)
@settings(max_examples=40, deadline=None)
def test_no_changed_byte_changes_anything(everything: Everything, intact, change: tuple[float, float, int]) -> None:
    file, place, flipped = change
    path = everything.cache / sorted(intact[1])[int(file * len(intact[1]))]
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= flipped
    path.write_bytes(content)
    assert [file.path for file in verify_cache() if file.problem] == [path]
    assert_nothing_changed(everything, intact)


def other_array() -> bytes:
    """Of another type, as numpy writes it."""
    file = io.BytesIO()
    np.save(file, np.zeros((12, 32), np.float64))
    return file.getvalue()


DAMAGE: dict[str, Callable[[Path], None]] = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a byte too few": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a byte too many": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another array": lambda path: path.write_bytes(other_array()),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_no_damaged_file_changes_anything(everything: Everything, intact, kind: str) -> None:
    for name in intact[1]:
        DAMAGE[kind](everything.cache / name)
    assert_nothing_changed(everything, intact)


def test_the_file_of_another_array_changes_nothing(everything: Everything, intact) -> None:
    """Right checksums, wrong name."""
    for folder in ("embeddings", "images"):
        names = sorted(name for name in intact[1] if name.startswith(folder))
        for name, other in zip(names, [*names[1:], names[0]], strict=True):
            (everything.cache / name).write_bytes(intact[1][other])
    assert_nothing_changed(everything, intact)


@pytest.mark.parametrize("what", ["embeddings", "tokens", "alexnet"])
def test_no_feature_of_damaged_pixels_is_ever_stored(everything: Everything, intact, capsys, what: str) -> None:
    """The pixels are damaged when they are already open, and what is computed from them is not there yet."""
    shutil.rmtree(everything.cache / "embeddings")
    (path,) = (
        everything.cache / name
        for name, content in intact[1].items()
        if content.startswith(intact[0]["views"].tobytes())
    )
    features, views = FrozenFeatures(everything.backbone), viewed(everything.source, everything.backbone.view)
    with open(path, "r+b") as file:
        file.seek(2000)
        file.write(bytes(500))
    if what == "alexnet":
        got = everything.alexnet.images(views, everything.backbone).numpy()
    elif what == "tokens":
        got = features.frozen(views, "tokens")[np.arange(len(views))].numpy()
    else:
        got = features.images(views).numpy()
    assert np.array_equal(got, intact[0][what])
    assert f"{path} is damaged" in capsys.readouterr().err
    assert_nothing_changed(everything, intact)


def test_a_damaged_row_is_computed_in_the_batch_of_the_first_time(everything: Everything, intact, monkeypatch) -> None:
    """A sum is rounded otherwise in a batch of another size, and the block would not be what it was."""
    (path,) = (
        everything.cache / name for name, content in intact[1].items() if intact[0]["embeddings"].tobytes() in content
    )
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)
    sizes: list[int] = []
    encode = everything.backbone.encode_image

    def seen(pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(everything.backbone, "encode_image", seen)
    assert_nothing_changed(everything, intact)
    assert sizes == [5, 5, 2]
