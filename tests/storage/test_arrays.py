"""Archives of arrays: what they would become is known before any of it is unpacked."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

from everclip.storage import arrays
from everclip.storage.arrays import read_arrays
from everclip.storage.reading import Malformed

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array(["größe", ""]),
    "c": np.asfortranarray(np.arange(6).reshape(3, 2)),
    "d": np.zeros((0, 4)),
    "e": np.array(3.5),
}


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    packed = io.BytesIO()
    npy.write_array_header_1_0(packed, {"shape": shape, "fortran_order": False, "descr": descr})
    return packed.getvalue()


def packed(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(tmp_path: Path, write) -> None:
    write(tmp_path / "x.npz", **ARRAYS, more=np.ones(3))
    found = read_arrays(tmp_path / "x.npz", ARRAYS)
    assert found.keys() == {*ARRAYS, "more"}
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    assert not found["more"].size, "what nobody asked for is not read"


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "PLAIN_BYTES", plain := 1 << 22)
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        member.write(header((plain // 4 + 1,)) + bytes(plain + 4))
    assert path.stat().st_size < plain / 500
    with pytest.raises(Malformed, match="would become 4,194,"):
        read_arrays(path, ["a"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (header((10**18,)), "larger than its bytes"),
        (header((10**18, 10**18, 10**18)), "larger than its bytes"),
        (header((3,)) + bytes(8), "cut short"),
        (header((1,)) + bytes(8), "more bytes"),
        (header((1,), "|O") + bytes(8), "Python objects"),
        (header((1,), "|V8") + bytes(8), None),
        (b"", "plain arrays"),
        (b"\x93NUMPY\x03\x00" + bytes(8), "format"),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16, "plain arrays"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "plain arrays"),
        (b"\x93NUMPY\x01\x00\x46\x00" + b"{'descr': '<f4', 'fortran_order': 0, 'shape': ()}".ljust(70), "plain arrays"),
    ],
)  # fmt: skip
def test_headers_that_lie(tmp_path: Path, content: bytes, reason: str | None) -> None:
    path = packed(tmp_path / "x.npz", a=content)
    if reason is None:
        assert read_arrays(path, ["a"])["a"].dtype.kind == "V"
        return
    with pytest.raises(Malformed, match=reason):
        read_arrays(path, ["a"])


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.npz", a=header((0,)))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.npy", header((0,)))
    with pytest.raises(Malformed, match="'a' twice"):
        read_arrays(path, ["a"])


def test_what_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read_arrays(tmp_path, ["a"])
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "x.npz", ["a"])
    with open(tmp_path / "x.npz", "wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(Malformed, match=r"not an \.npz file"):
        read_arrays(tmp_path / "x.npz", ["a"])
