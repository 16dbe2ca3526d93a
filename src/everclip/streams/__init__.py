"""Streams by name: `KIND:ARGUMENTS`, for example `folders:photos,paintings` or `drawn`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from everclip.data import read_embeddings, read_folder
from everclip.errors import InputError
from everclip.streams.stream import CANDIDATES, Dataset, Protocol, Stream, Task, TaskInfo, build_stream

__all__ = ["CANDIDATES", "STREAMS", "Protocol", "Stream", "Task", "TaskInfo", "open_stream"]

DRAWN_TRAIN, DRAWN_TEST = 40, 20
"""Drawn images per class."""


def _folders(names: list[str], protocol: Protocol) -> list[Dataset]:
    """Image folders, one task each: `folders:DIR1,DIR2,…`."""
    datasets = []
    for name in names:
        if not Path(name).expanduser().is_dir():
            raise InputError(
                f"'{name}' in the stream is not a folder; check the path (commas separate folders: rename or link one "
                "that has a comma in its name)."
            )
        folder = read_folder(Path(name).expanduser(), seed=protocol.seed)
        datasets.append(Dataset(folder.name, folder.class_names, folder.templates, folder.train, folder.test))
    return datasets


def _drawn(names: list[str], protocol: Protocol) -> list[Dataset]:
    """Images drawn by code, one task per style: `drawn` (all styles) or `drawn:shapes,glyphs,…`."""
    from everclip.data.drawn import DOMAINS, DrawnImages  # loads matplotlib's fonts: only where images are drawn

    datasets = []
    for name in names or list(DOMAINS):
        if name not in DOMAINS:
            raise InputError(f"there is no drawn domain '{name}'; choose from {', '.join(DOMAINS)}.")
        domain = DOMAINS[name]
        train = DrawnImages(domain, DRAWN_TRAIN, "train", protocol.seed)
        test = DrawnImages(domain, DRAWN_TEST, "test", protocol.seed)
        datasets.append(Dataset(name, domain.class_names, domain.templates, train, test))
    return datasets


def _embeddings(names: list[str], protocol: Protocol) -> list[Dataset]:
    """Precomputed image embeddings, one .npz per task: `embeddings:A.npz,B.npz,…`."""
    datasets = []
    for name in names:
        data = read_embeddings(Path(name).expanduser(), seed=protocol.seed)
        datasets.append(Dataset(data.name, data.class_names, data.templates, data.train, data.test))
    return datasets


STREAMS: dict[str, Callable[[list[str], Protocol], list[Dataset]]] = {
    "folders": _folders,
    "drawn": _drawn,
    "embeddings": _embeddings,
}


def open_stream(spec: str, protocol: Protocol) -> Stream:
    """Open a stream by its name.

    Args:
        spec: `KIND` or `KIND:A,B,…` with a kind of `STREAMS`.
        protocol: decides splits, shots, templates and seed.

    Raises:
        InputError: unknown kind, or data that cannot be used.
    """
    kind, _, rest = spec.partition(":")
    if kind not in STREAMS:
        raise InputError(f"stream '{spec}' is of no known kind; write one of: {', '.join(STREAMS)}, as KIND:A,B,…")
    names = [name.strip() for name in rest.split(",") if name.strip()]
    if not names and kind != "drawn":
        raise InputError(f"stream '{spec}' names no data set; write {kind}:A,B,…")
    datasets = STREAMS[kind](names, protocol)
    # Named by its data sets, not by where they lie: results of two machines are of the same stream.
    name = f"{kind}:{','.join(dataset.name for dataset in datasets)}"
    return build_stream(name, "embeddings" if kind == "embeddings" else "images", datasets, protocol)
