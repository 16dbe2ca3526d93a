"""Streams by name: `KIND:ARGUMENTS`, for example `folders:photos,paintings` or `cil:birds:10`, or a published one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from everclip.data import read_embeddings, read_folder
from everclip.data.published import DATASETS, data_root
from everclip.errors import InputError
from everclip.registry import Registry
from everclip.streams.class_incremental import as_one, in_steps
from everclip.streams.protocol import CANDIDATES, SEEDS, Protocol, named_seeds
from everclip.streams.published import GROUPS, PUBLISHED_STREAMS, opened
from everclip.streams.stream import (
    SCENARIO_DEFAULTS,
    Dataset,
    Stream,
    StreamKind,
    Task,
    TaskInfo,
    build_stream,
)
from everclip.system.paths import expanded

__all__ = [
    "CANDIDATES",
    "GROUPS",
    "PUBLISHED_STREAMS",
    "SEEDS",
    "STREAMS",
    "Dataset",
    "Protocol",
    "Stream",
    "StreamKind",
    "Task",
    "TaskInfo",
    "in_python",
    "named_seeds",
    "open_stream",
    "stream_defaults",
]

DRAWN_TRAIN, DRAWN_TEST = 40, 20
"""Drawn images per class."""
IN_PYTHON = "python"
"""The kind that a configuration records of a stream which a program made: it can't be opened by its name."""


def _folders(names: list[str], protocol: Protocol, root: Path) -> list[Dataset]:
    """Image folders, one task each: `folders:DIR1,DIR2,…`."""
    return [_folder(name, protocol) for name in names]


def _folder(name: str, protocol: Protocol) -> Dataset:
    if not expanded(name).exists():
        raise InputError(
            f"'{name}' in the stream is not a folder; check the path, or name the place where it lies now (commas "
            "separate folders: rename or link one that has a comma in its name)."
        )
    folder = read_folder(name, seed=protocol.seed)
    return Dataset(folder.name, folder.class_names, folder.templates, folder.train, folder.test, said=folder.said)


def _class_incremental(names: list[str], protocol: Protocol, root: Path) -> list[Dataset]:
    """Steps of one growing set of classes: `cil:DIR:STEPS` cuts a folder, `cil:DIR1,DIR2,…` takes each as a step.

    Classes of one name are one class: a folder brings new ones, or more images of known ones.
    """
    steps, shuffled = [], False
    for name in names:
        path, _, count = name.rpartition(":")
        if path and not expanded(name).exists():
            if not count.isdecimal():
                raise InputError(f"'{name}' in the stream wants a number of steps after the colon, not '{count}'.")
            steps += in_steps(_folder(path, protocol), int(count), protocol.seed_of("order"))
            shuffled = True
        else:
            steps.append(_folder(name, protocol))
    if not shuffled:
        _refuse_order(protocol, "a stream of folders as they are given")
    return as_one(steps)


def _refuse_order(protocol: Protocol, stream: str) -> None:
    if protocol.order_seed is not None:
        raise InputError(
            f"order_seed={protocol.order_seed} is for streams that shuffle their classes (cil:DIR:STEPS), but the "
            f"order of {stream} is fixed; leave it out."
        )


def _drawn(names: list[str], protocol: Protocol, root: Path) -> list[Dataset]:
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


def _embeddings(names: list[str], protocol: Protocol, root: Path) -> list[Dataset]:
    """Precomputed image embeddings, one .npz per task: `embeddings:A.npz,B.npz,…`."""
    datasets = []
    for name in names:
        data = read_embeddings(name, seed=protocol.seed)
        datasets.append(Dataset(data.name, data.class_names, data.templates, data.train, data.test))
    return datasets


def _sets(names: list[str], protocol: Protocol, root: Path) -> list[Dataset]:
    """Data sets by name, one task each: `sets:aircraft,dtd,…`; see `everclip data list`."""
    return [opened(DATASETS.find(name), protocol, root) for name in names]


def _checked(thing: object, name: str) -> StreamKind:
    if not isinstance(thing, StreamKind):
        raise InputError(f"'{name}' is no kind of stream: that is an everclip.streams.StreamKind.")
    if thing.name != name:
        raise InputError(f"stream '{name}' calls itself '{thing.name}'; let both names be the same.")
    if name == IN_PYTHON:
        raise InputError(f"'{name}' is what streams are called that a program made; give yours another name.")
    if name in PUBLISHED_STREAMS:
        raise InputError(f"stream '{name}' has the name of a published benchmark; give it another one.")
    return thing


_BUILT_IN = {
    kind.name: kind
    for kind in (
        StreamKind("folders", _folders),
        StreamKind("cil", _class_incremental, scenario="class-incremental", shuffles=True),
        StreamKind("drawn", _drawn, wants=False),
        StreamKind("embeddings", _embeddings, holds="embeddings"),
        StreamKind("sets", _sets),
    )
}

STREAMS: Registry[StreamKind] = Registry("stream", "everclip.streams", _BUILT_IN, _checked)


def stream_defaults(spec: str) -> dict[str, Any]:
    """The settings in which the protocol of a stream, given by name, departs from the default one."""
    if spec in PUBLISHED_STREAMS:
        return dict(PUBLISHED_STREAMS[spec].defaults)
    name = spec.partition(":")[0]
    if name not in STREAMS:
        return {}
    kind = STREAMS.find(name)
    return {**SCENARIO_DEFAULTS[kind.scenario], **kind.defaults}


def in_python(stream: Stream) -> str:
    """What a configuration records of a stream that a program made."""
    return f"{IN_PYTHON}:{stream.name}"


def open_stream(spec: str, protocol: Protocol, root: str | None = None) -> Stream:
    """Open a stream by its name.

    Args:
        spec: `KIND` or `KIND:A,B,…` with a kind of `STREAMS`, or one of `PUBLISHED_STREAMS`.
        protocol: decides splits, shots, templates and seed.
        root: the folder of the published data sets; see `data_root` for the default.

    Raises:
        InputError: unknown kind, or data that cannot be used.
    """
    if spec in PUBLISHED_STREAMS:
        published = PUBLISHED_STREAMS[spec]
        _refuse_order(protocol, f"stream '{spec}'")
        datasets = published.datasets(protocol, data_root(root))
        return build_stream(spec, "images", datasets, protocol, published.scenario)
    name, _, rest = spec.partition(":")
    if name == IN_PYTHON:
        raise InputError(
            f"stream '{spec}' was made by a program and can't be opened by its name; give it again in Python, by "
            "everclip.run(config, out, resume=True, stream=...)."
        )
    if name not in STREAMS:
        raise InputError(
            f"stream '{spec}' is of no known kind; write one of: {', '.join(STREAMS)}, as KIND:A,B,…, or one of "
            f"{', '.join(PUBLISHED_STREAMS)}."
        )
    kind = STREAMS.find(name)
    if protocol.splits is not None and name != "sets":
        raise InputError(
            f"splits={protocol.splits} is for published data sets, but stream '{spec}' has none; leave it out."
        )
    if not kind.shuffles:
        _refuse_order(protocol, f"stream '{spec}'")
    arguments = [argument.strip() for argument in rest.split(",") if argument.strip()]
    if not arguments and kind.wants:
        raise InputError(f"stream '{spec}' names no data set; write {name}:A,B,…")
    datasets = kind.open(arguments, protocol, data_root(root))
    # Named by its data sets, not by where they lie: results of two machines are of the same stream.
    called = f"{name}:{','.join(dict.fromkeys(dataset.part_of or dataset.name for dataset in datasets))}"
    return build_stream(called, kind.holds, datasets, protocol, kind.scenario)
