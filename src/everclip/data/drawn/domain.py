"""What a drawn domain is: classes with a name each, and a way to draw any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from everclip.data.drawn.canvas import Canvas

Painter = Callable[[Canvas, np.random.Generator], None]


@dataclass(frozen=True)
class Domain:
    """A family of drawn classes in one style.

    Attributes:
        name: Key in `DOMAINS`.
        class_names: One per class, in label order, as a caption would say it.
        templates: Prompts with one "{}" each, for a class name.
        draw: (class index, generator, size) -> RGB image of size x size pixels, a pure function of the three.
    """

    name: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    draw: Callable[[int, np.random.Generator, int], Image.Image]


def painted(
    name: str,
    templates: tuple[str, ...],
    painters: Mapping[str, Painter],
    *,
    blur: float = 0.6,
    noise: float = 7.0,
    light: float = 0.18,
) -> Domain:
    """A domain with one painter per class name; `blur`, `noise` and `light` as in `Canvas.finished`."""
    # A partial and not a closure: a domain must pickle, to be read by the worker processes of a data loader.
    draw = partial(_draw, tuple(painters.values()), blur, noise, light)
    return Domain(name, tuple(painters), templates, draw)


def _draw(
    painters: tuple[Painter, ...],
    blur: float,
    noise: float,
    light: float,
    label: int,
    rng: np.random.Generator,
    size: int,
) -> Image.Image:
    canvas = Canvas(size)
    painters[label](canvas, rng)
    return canvas.finished(rng, blur, noise, light)
