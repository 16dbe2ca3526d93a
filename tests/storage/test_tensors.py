"""Files of tensors are looked at before they are read, and held against what is wanted of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everclip.storage.directory import tensor_bytes
from everclip.storage.reading import Malformed
from everclip.storage.tensors import (
    LARGEST,
    MisfitError,
    Wanted,
    check_tensors,
    like,
    read_tensor_bytes,
    read_tensors,
    require,
    tensors_of,
)

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).view(2, 3),
    "b": torch.tensor([1, 2], dtype=torch.int64),
    "c": torch.tensor(True),
    "d": torch.zeros(0, 4, dtype=torch.float64),
}


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def with_header(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "x", tensor_bytes(TENSORS))
    for found in (read_tensors(path), tensors_of(read_tensor_bytes(path))):
        assert found.keys() == TENSORS.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no header"),
        (b"1234567", "no header"),
        (b"\xff" * 16, "no header"),
        (bytes(64), "no header"),
        (with_header(b"[]"), "no object"),
        (with_header(b"{]"), "not JSON"),
        (with_header(b"\xff\xff"), "not UTF-8"),
        (with_header(b'{"a":' * 5000), "deep"),
        (with_header(b'{"a": 1, "a": 2}'), "'a' twice"),
        (with_header({"a": 1}), "tensor 'a'"),
        (with_header({"a": ENTRY}, bytes(7)), "bytes, but its header speaks of"),
        (with_header({"a": ENTRY}, bytes(9)), "bytes, but its header speaks of"),
        (with_header({"a": ENTRY | {"dtype": "F8_E8M0"}}, bytes(8)), "F8_E8M0"),
        (with_header({"a": ENTRY | {"dtype": 4}}, bytes(8)), "dtype"),
        (with_header({"a": ENTRY | {"shape": [-2]}}, bytes(8)), "shape"),
        (with_header({"a": ENTRY | {"shape": [1 << 62, 1 << 62]}}, bytes(8)), "another size"),
        (with_header({"a": ENTRY | {"shape": ["2"]}}, bytes(8)), "shape"),
        (with_header({"a": ENTRY | {"data_offsets": [8, 0]}}, bytes(8)), "another size"),
        (with_header({"a": ENTRY | {"data_offsets": [0]}}, bytes(8)), "place"),
        (with_header({"a": ENTRY, "b": ENTRY}, bytes(8)), "not a safetensors file"),
        (with_header({"__metadata__": 3}), "not a safetensors file"),
    ],
)
def test_what_is_no_file_of_tensors(tmp_path: Path, content: bytes, reason: str) -> None:
    path = written(tmp_path / "x", content)
    with pytest.raises(Malformed, match=reason):
        read_tensors(path)
    with pytest.raises(Malformed, match=reason):
        tensors_of(read_tensor_bytes(path))


def test_ten_gigabytes_of_nothing_are_not_read(tmp_path: Path) -> None:
    content = tensor_bytes(TENSORS)
    for start in (b"", content):
        with open(written(tmp_path / "sparse", start), "r+b") as file:
            file.truncate(10 << 30)
        with pytest.raises(Malformed):
            read_tensor_bytes(tmp_path / "sparse")


def test_a_folder_or_a_pipe_in_the_place_of_tensors(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        check_tensors(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(Malformed, match="pipe"):
            check_tensors(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        check_tensors(tmp_path / "none")


# -- what is wanted ----------------------------------------------------------------------------------------------------

WANTED = {
    "x": Wanted(torch.float32, ("n", 3)),
    "y": Wanted(torch.int64, ("n",), low=0, below=5),
    "z": Wanted(torch.bool, (), optional=True),
}
GOOD = {"x": torch.ones(2, 3), "y": torch.tensor([0, 4])}


def test_what_fits_tells_its_sizes() -> None:
    assert require(0, GOOD, WANTED) == {"n": 2}
    assert require(0, GOOD | {"z": torch.tensor(False)}, WANTED, {"m": 7}) == {"n": 2, "m": 7}
    assert require(0, {"x": torch.ones(0, 3), "y": torch.ones(0, dtype=torch.int64)}, WANTED) == {"n": 0}
    require(0, TENSORS, like(TENSORS))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"x": None}, "'x' is missing"),
        ({"w": torch.ones(1)}, "no place for tensor 'w'"),
        ({"x": torch.ones(2, 3).double()}, "float64, not float32"),
        ({"x": torch.ones(3, 2)}, r"shape \(3, 2\), not \(n, 3\)"),
        ({"x": torch.ones(2, 3, 1)}, "shape"),
        ({"y": torch.tensor([1])}, r"shape \(1,?\), not \(2\)"),
        ({"y": torch.tensor([0, 5])}, "not below 5"),
        ({"y": torch.tensor([0, -1])}, "below 0"),
        ({"x": torch.full((2, 3), float("nan"))}, "not finite"),
        ({"x": torch.full((2, 3), -float("inf"))}, "not finite"),
        ({"x": torch.full((2, 3), 2 * LARGEST)}, "far too large"),
        ({"z": torch.tensor([True])}, "shape"),
    ],
)
def test_what_does_not_fit_names_its_tensor(change: dict[str, Tensor | None], reason: str) -> None:
    tensors = {name: tensor for name, tensor in (GOOD | change).items() if tensor is not None}
    with pytest.raises(MisfitError, match=reason) as error:
        require(3, tensors, WANTED)
    assert error.value.part == 3


def test_a_known_size_is_held() -> None:
    with pytest.raises(MisfitError, match=r"not \(4, 3\)"):
        require(0, GOOD, WANTED, {"n": 4})
    with pytest.raises(MisfitError, match="shape"):
        require(0, {"a": torch.ones(2, 3)}, {"a": Wanted(torch.float32, ("n", "n"))})
