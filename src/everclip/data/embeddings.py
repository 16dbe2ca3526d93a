"""A dataset given as embeddings in one `.npz` file, for learning without images or an image model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from everclip.data.names import DEFAULT_TEMPLATES, check_class_names, check_encodable, check_templates
from everclip.data.source import split
from everclip.errors import InputError
from everclip.storage.arrays import read_arrays
from everclip.storage.reading import Malformed
from everclip.system.paths import expanded

_WHOLE = ("embeddings", "labels")
_DIVIDED = ("train_embeddings", "train_labels", "test_embeddings", "test_labels")
KNOWN = frozenset({"class_names", "templates", *_WHOLE, *_DIVIDED})
"""What is read of a file; it may hold more."""


@dataclass(frozen=True)
class LabeledEmbeddings:
    """Embeddings (N, D) float32, as stored and not normalized, and labels (N,) int64."""

    embeddings: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def content(self) -> str:
        """Hex BLAKE2b-128 of the embeddings, of their shape and float32 values."""
        numbers = np.ascontiguousarray(self.embeddings, dtype="<f4")
        return hashlib.blake2b(json.dumps(numbers.shape).encode() + numbers.tobytes(), digest_size=16).hexdigest()

    def select(self, indices: np.ndarray, labels: np.ndarray | None = None) -> LabeledEmbeddings:
        """Return the rows at `indices`, in that order; `labels` are theirs in it, by default those they have."""
        return LabeledEmbeddings(self.embeddings[indices], self.labels[indices] if labels is None else labels)


@dataclass(frozen=True)
class EmbeddingData:
    """A dataset of embeddings. `labels` of both parts index `class_names`."""

    name: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    train: LabeledEmbeddings
    test: LabeledEmbeddings


def read_embeddings(path: str | Path, seed: int = 0, test_fraction: float = 0.2) -> EmbeddingData:
    """Read a dataset of embeddings; its name is the file's, without the suffix.

    The file holds `class_names` (C strings), optionally `templates` (strings with one `{}`), and either
    `embeddings` (N, D) with `labels` (N,), which `split` then divides, or the four arrays `train_embeddings`,
    `train_labels`, `test_embeddings` and `test_labels`. Nothing in it is unpickled.

    Args:
        path: an `.npz` file.
        seed: of the split.
        test_fraction: the part held out by the split.

    Raises:
        InputError: the file cannot be read, or an array in it is missing or wrong.
    """
    path = expanded(path)
    arrays = _arrays(path)
    required = ("class_names", *(_DIVIDED if any(key in arrays for key in _DIVIDED) else _WHOLE))
    if missing := [key for key in required if key not in arrays]:
        raise InputError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays)) or 'nothing'}")
    class_names = _strings(arrays["class_names"], "class_names", path)
    check_class_names(class_names, str(path))
    templates = _strings(arrays["templates"], "templates", path) if "templates" in arrays else DEFAULT_TEMPLATES
    check_templates(templates, str(path))

    if "embeddings" in required:
        whole = _labeled(arrays, "", len(class_names), path)
        train, test = (
            LabeledEmbeddings(whole.embeddings[part], whole.labels[part])
            for part in split(whole.labels, test_fraction, seed)
        )
    else:
        train, test = (_labeled(arrays, part, len(class_names), path) for part in ("train_", "test_"))
    if train.embeddings.shape[1] != test.embeddings.shape[1]:
        raise InputError(
            f"{path} has train_embeddings of {train.embeddings.shape[1]} columns and test_embeddings of "
            f"{test.embeddings.shape[1]}; make both with the same model"
        )
    counts = np.bincount(train.labels, minlength=len(class_names))
    if not counts.all():
        empty = class_names[int(np.argmin(counts))]
        raise InputError(f"{path} has no training embedding of the class {empty!r}; add some or remove the class")
    return EmbeddingData(path.stem, class_names, templates, train, test)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_arrays(path, KNOWN)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot read {path} ({reason}); check the path and its permissions") from error
    except Malformed as error:
        raise InputError(f"{path} {error}; write it with numpy.savez") from error


def _strings(array: np.ndarray, key: str, path: Path) -> tuple[str, ...]:
    if array.ndim != 1 or array.dtype.kind != "U":
        raise InputError(f"{path}: {key} must be a one-dimensional array of strings")
    try:
        texts = tuple(array.tolist())
    except (ValueError, OverflowError, SystemError) as error:  # numbers that no letter has
        raise InputError(f"{path}: {key} holds what is no text; write it with numpy.savez") from error
    for text in texts:
        check_encodable(text, f"{path}: {key}")
    return texts


def _labeled(arrays: dict[str, np.ndarray], part: str, classes: int, path: Path) -> LabeledEmbeddings:
    return labeled_embeddings(arrays[f"{part}embeddings"], arrays[f"{part}labels"], classes, str(path), part)


def labeled_embeddings(
    embeddings: np.ndarray, labels: np.ndarray, classes: int, where: str, part: str = ""
) -> LabeledEmbeddings:
    """Embeddings from outside, checked.

    Args:
        embeddings: (N, D) of floating-point numbers.
        labels: (N,) integers, 0 to classes - 1.
        classes: how many there are.
        where: they come from, for messages.
        part: what the names of the arrays begin with.

    Raises:
        InputError: another shape or type, a label of no class, or a value that is not finite as float32.
    """
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f":
        raise InputError(f"{where}: {part}embeddings must be an array (N, D) of floating-point numbers")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(f"{where}: {part}labels must be an array (N,) of integers")
    if len(embeddings) != len(labels):
        raise InputError(
            f"{where}: {part}embeddings has {len(embeddings)} rows but {part}labels has {len(labels)}; "
            "give one label per row"
        )
    if embeddings.size == 0:
        raise InputError(f"{where}: {part}embeddings is empty; give at least one row and one column")
    if (outside := (labels < 0) | (labels >= classes)).any():
        row = int(np.argmax(outside))
        raise InputError(f"{where}: {part}labels[{row}] is {labels[row]}; labels go from 0 to {classes - 1}")
    with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite and is refused below
        embeddings = embeddings.astype(np.float32)
    if not (finite := np.isfinite(embeddings).all(axis=1)).all():
        row = int(np.argmin(finite))
        raise InputError(
            f"{where}: row {row} of {part}embeddings has a value that is not a finite float32; repair or remove the row"
        )
    return LabeledEmbeddings(embeddings, labels.astype(np.int64))
