"""`alphabet:DIR`: the classes of a folder in alphabetical order, two at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from everclip.data import read_folder
from everclip.streams import Dataset, Protocol, StreamKind
from everclip.streams.class_incremental import cut


def _alphabetical(names: list[str], protocol: Protocol, root: Path) -> list[Dataset]:
    steps = []
    for name in names:
        folder = read_folder(name, seed=protocol.seed)
        whole = Dataset(folder.name, folder.class_names, folder.templates, folder.train, folder.test)
        order = np.argsort(folder.class_names)
        steps += cut(whole, np.array_split(order, -(-len(order) // 2)))
    return steps


ALPHABET = StreamKind("alphabet", _alphabetical, scenario="class-incremental", defaults={"candidates": "seen"})
