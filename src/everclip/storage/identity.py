"""What a thing is known by: a digest, and the digests that earlier versions of EverCLIP gave the same thing."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass


def _never_had_another() -> Collection[str]:
    return ()


@dataclass(frozen=True)
class Identity:
    """A digest that stands for a thing in files.

    Attributes:
        digest: what is written today.
        former: what files of earlier versions may call the same thing. Computing it takes time, so it is asked only
            where a file holds another digest than today's.
    """

    digest: str
    former: Callable[[], Collection[str]] = _never_had_another

    def is_called(self, digest: str) -> bool:
        """Whether a digest found in a file stands for this thing."""
        return digest == self.digest or digest in self.former()
