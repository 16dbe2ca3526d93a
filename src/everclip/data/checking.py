"""What a source of images would teach, and what in it deserves a second look, before anything is learned."""

from __future__ import annotations

import numpy as np

from everclip.data.found import Found

TINY = 5
"""A class with fewer images to learn is named: a learner holds none of them out, so nobody sees what becomes of it."""
LISTED = 8
"""So many classes are listed with their counts; of more, only the smallest and the largest count are."""


def brief(found: Found) -> str:
    """What would be learned from a source, in a line: images, classes, part, what is left out, tiny classes.

    Raises:
        InputError: nothing in it may be learned.
    """
    given = found.to_learn()
    counts = np.bincount(given.source.labels, minlength=len(given.class_names)).tolist()
    named = dict(zip(given.class_names, counts, strict=True))
    if len(named) <= LISTED:
        each = ", ".join(f"{name} {count}" for name, count in named.items())
    else:
        each = f"{min(counts)} to {max(counts)} of each"
    facts = [f"{len(given.source)} images of {len(named)} class{'es' * (len(named) != 1)} to learn ({each})"]
    others = [f"{found.parts.count(part)} of {part}" for part in ("valid", "test") if found.has(part)]
    if others:
        facts.append(f"the part train, without {' and '.join(others)}")
    if found.said:
        facts.append(found.said)
    tiny = [f"{name} {count}" for name, count in named.items() if count < TINY]
    if tiny:
        shown = ", ".join(tiny[:LISTED]) + (f" and {len(tiny) - LISTED} more" if len(tiny) > LISTED else "")
        facts.append(f"fewer than {TINY} images: {shown}")
    return f"{found.where}: {'; '.join(facts)}"
