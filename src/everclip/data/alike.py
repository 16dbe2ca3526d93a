"""Names that look alike: one class, written in two ways that no rule makes equal, or a slip of the finger."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

from everclip.data.names import plain_name

LONG = 6
"""Letters from which on names that differ by a single slip are alike; `cat` and `car` are not."""


def alike_names(names: Sequence[str], others: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Pairs of names that are different classes but look alike.

    They are alike if they differ only in accents, punctuation, spaces or a plural `s`; or, in long names, by one letter
    that is missing, added, wrong or changed with its neighbor. Names with different digits never are: they count.

    Args:
        names: C names; a pair has at least one of them.
        others: further names.

    Returns:
        Pairs without order among equals, in the order of names; found in time proportional to the letters.
    """
    every = list(dict.fromkeys([*names, *others]))
    own = set(names)
    holders: dict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(every):
        for key in _keys(name):
            holders[key].append(number)
    pairs = {
        (one, other)
        for numbers in holders.values()
        for place, one in enumerate(numbers)
        for other in numbers[place + 1 :]
        if own & {every[one], every[other]} and plain_name(every[one]) != plain_name(every[other])
    }
    return [(every[one], every[other]) for one, other in sorted(pairs) if _is_slip(every[one], every[other])]


def _skeleton(name: str) -> str:
    """Letters and digits alone, without accents."""
    parts = unicodedata.normalize("NFKD", plain_name(name))
    return "".join(char for char in parts if char.isalnum())


def _keys(name: str) -> Iterator[str]:
    """What two names that differ by one slip have in common: themselves with at most one letter taken out."""
    skeleton = _skeleton(name)
    if not skeleton:
        return
    yield from dict.fromkeys(
        [skeleton, skeleton.removesuffix("s"), *_shorter(skeleton)]
        if len(skeleton) >= LONG - 1
        else [skeleton, skeleton.removesuffix("s")]
    )


def _shorter(text: str) -> Iterator[str]:
    return (text[:place] + text[place + 1 :] for place in range(len(text)))


def _is_slip(one: str, other: str) -> bool:
    first, second = sorted((_skeleton(one), _skeleton(other)), key=len)
    if re.findall(r"\d", first) != re.findall(r"\d", second):
        return False
    if first.removesuffix("s") == second.removesuffix("s"):
        return True
    if len(first) < LONG - 1 or len(second) < LONG:
        return False
    if len(first) < len(second):
        return first in _shorter(second)
    wrong = [place for place, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
    if len(wrong) == 2 and wrong[1] == wrong[0] + 1:
        return first[wrong[0]] == second[wrong[1]] and first[wrong[1]] == second[wrong[0]]
    return len(wrong) == 1
