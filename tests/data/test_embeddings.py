from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from everclip.data.embeddings import read_embeddings
from everclip.errors import InputError

random = np.random.default_rng(0)
WHOLE = {
    "embeddings": random.normal(size=(10, 4)).astype(np.float32),
    "labels": np.array([0, 1] * 5),
    "class_names": np.array(["cat", "dog"]),
}
DIVIDED = {
    "train_embeddings": random.normal(size=(6, 4)).astype(np.float16),
    "train_labels": np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8),
    "test_embeddings": random.normal(size=(2, 4)),
    "test_labels": np.array([2, 2]),
    "class_names": np.array(["a", "b", "c"]),
    "templates": np.array(["a {}.", "the {}."]),
}


def written(tmp_path: Path, arrays: dict) -> Path:
    path = tmp_path / "pets.npz"
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def test_one_set_is_split(tmp_path: Path):
    data = read_embeddings(written(tmp_path, WHOLE), seed=1, test_fraction=0.4)
    assert (data.name, data.class_names, data.templates) == ("pets", ("cat", "dog"), ("a photo of a {}.",))
    assert data.train.labels.tolist().count(0) == 3
    assert data.test.labels.tolist().count(1) == 2
    rows = np.concatenate([data.train.embeddings, data.test.embeddings])
    assert sorted(rows[:, 0].tolist()) == sorted(WHOLE["embeddings"][:, 0].tolist())
    for row, label in zip(data.test.embeddings, data.test.labels, strict=True):
        (position,) = np.flatnonzero((WHOLE["embeddings"] == row).all(axis=1))
        assert WHOLE["labels"][position] == label


def test_train_and_test(tmp_path: Path):
    data = read_embeddings(written(tmp_path, DIVIDED))
    assert data.templates == ("a {}.", "the {}.")
    assert np.array_equal(data.train.embeddings, DIVIDED["train_embeddings"].astype(np.float32))
    for part in (data.train, data.test):
        assert part.embeddings.dtype == np.float32
        assert part.labels.dtype == np.int64
    assert data.test.labels.tolist() == [2, 2]


def changed(key: str, position, value) -> np.ndarray:
    array = DIVIDED[key].copy()
    array[position] = value
    return array


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"class_names": None}, "lacks class_names; it holds templates, test_embeddings, test_labels"),
        ({"test_labels": None, "train_labels": None}, "lacks train_labels, test_labels"),
        ({"class_names": np.array([1, 2, 3])}, "class_names must be a one-dimensional array of strings"),
        ({"class_names": np.array(["a", "A ", "c"])}, "'a' and 'A '"),
        ({"class_names": np.array(["a", "b", "c"], dtype=object)}, "not a file of plain arrays"),
        ({"class_names": np.array(["a", "b", "c", "d"])}, "no training embedding of the class 'd'"),
        ({"class_names": np.array(["a"])}, "at least two"),
        ({"templates": np.array(["photo"])}, "exactly one {}"),
        ({"templates": np.array(0)}, "templates must be"),
        ({"train_embeddings": np.zeros((6, 4), dtype=np.int64)}, "floating-point"),
        ({"train_embeddings": np.zeros(6)}, r"array \(N, D\)"),
        ({"train_embeddings": np.zeros((5, 4))}, "has 5 rows but train_labels has 6"),
        ({"test_embeddings": np.zeros((2, 3))}, "train_embeddings of 4 columns and test_embeddings of 3"),
        ({"test_embeddings": np.zeros((0, 4)), "test_labels": np.zeros(0, dtype=int)}, "test_embeddings is empty"),
        ({"test_labels": np.array([0.0, 1.0])}, "array .* of integers"),
        ({"test_labels": np.array([[0], [1]])}, "array .* of integers"),
        ({"train_labels": changed("train_labels", 4, 3)}, r"train_labels\[4\] is 3; labels go from 0 to 2"),
        ({"test_labels": np.array([0, -1])}, r"test_labels\[1\] is -1"),
        ({"train_embeddings": changed("train_embeddings", (5, 1), np.nan)}, "row 5 of train_embeddings"),
        ({"test_embeddings": changed("test_embeddings", (1, 0), np.inf)}, "row 1 of test_embeddings"),
        ({"test_embeddings": changed("test_embeddings", (0, 0), 1e300)}, "row 0 of test_embeddings"),
    ],
)
def test_refusals(tmp_path: Path, change, match):
    path = written(tmp_path, DIVIDED | change)
    with pytest.raises(InputError, match=match) as caught:
        read_embeddings(path)
    assert str(path) in str(caught.value)


def test_an_empty_archive(tmp_path: Path):
    with pytest.raises(InputError, match="lacks class_names, embeddings, labels; it holds nothing"):
        read_embeddings(written(tmp_path, {}))


def test_files_that_are_no_npz(tmp_path: Path):
    path = written(tmp_path, WHOLE)
    content = path.read_bytes()
    with pytest.raises(InputError, match="No such file"):
        read_embeddings(tmp_path / "gone.npz")
    with pytest.raises(InputError, match="Is a directory"):
        read_embeddings(tmp_path)
    path.write_bytes(b"text")
    with pytest.raises(InputError, match=r"not an \.npz file"):
        read_embeddings(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"not an \.npz file"):
        read_embeddings(tmp_path / "one.npy")
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"not an \.npz file"):
        read_embeddings(path)
    path.write_bytes(content[:150] + b"\xff" * 50 + content[200:])
    with pytest.raises(InputError, match="not a file of plain arrays"):
        read_embeddings(path)
