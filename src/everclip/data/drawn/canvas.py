"""A small antialiased canvas, and the colors and outlines that every drawn domain shares.

Everything is drawn `SUPERSAMPLE` times larger than asked and reduced at the end, since PIL has no antialiasing of
its own. Coordinates are x to the right and y down. A new canvas uses unit coordinates, (0, 0) top left and (1, 1)
bottom right; `place` switches to the frame of one object, which fills about [-1, 1] x [-1, 1] of it.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SUPERSAMPLE = 3

Color = tuple[int, int, int]
Span = tuple[float, float]
Points = np.ndarray | Sequence[Sequence[float] | np.ndarray]

WHITE: Color = (255, 255, 255)
BLACK: Color = (0, 0, 0)


def tone(
    rng: np.random.Generator, hue: Span = (0.0, 1.0), saturation: Span = (0.6, 1.0), value: Span = (0.6, 0.95)
) -> Color:
    """A random color from a box of hue (1.0 = a full turn, may be exceeded), saturation and value (0 to 1)."""
    rgb = colorsys.hsv_to_rgb(rng.uniform(*hue) % 1.0, rng.uniform(*saturation), rng.uniform(*value))
    return (round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2]))


def mix(first: Color, second: Color, amount: float) -> Color:
    """The color `amount` (0 to 1) of the way from `first` to `second`."""
    r, g, b = (round(x + (y - x) * amount) for x, y in zip(first, second, strict=True))
    return (r, g, b)


def near(rng: np.random.Generator, color: Color, spread: int = 16) -> Color:
    """`color` with every channel moved by at most `spread` levels."""
    r, g, b = (x + d for x, d in zip(color, rng.integers(-spread, spread + 1, 3).tolist(), strict=True))
    return (min(max(r, 0), 255), min(max(g, 0), 255), min(max(b, 0), 255))


def ground_and_ink(rng: np.random.Generator) -> tuple[Color, Color]:
    """Two colors that are easy to tell apart: dark on pale, or light on dark."""
    pale, deep = tone(rng, saturation=(0.02, 0.3), value=(0.85, 1.0)), tone(rng, value=(0.2, 0.6))
    return (pale, deep) if rng.random() < 0.65 else (deep, pale)


def disk(
    rx: float = 1.0,
    ry: float | None = None,
    start: float = 0.0,
    stop: float = 360.0,
    at: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Points (32, 2) of an ellipse around `at`, or of an arc of it; degrees run clockwise from the right."""
    angle = np.radians(np.linspace(start, stop, 32))
    x, y = rx * np.cos(angle), (rx if ry is None else ry) * np.sin(angle)
    return np.stack([at[0] + x, at[1] + y], axis=1)


_CIRCLE = disk()


def regular(corners: int, radius: float = 1.0, inner: float | None = None) -> np.ndarray:
    """Points of a regular polygon with its first corner up; with `inner`, a star of that many tips."""
    count = corners if inner is None else 2 * corners
    radii = np.full(count, radius)
    if inner is not None:
        radii[1::2] = inner
    angle = 2 * np.pi * np.arange(count) / count
    return np.stack([radii * np.sin(angle), -radii * np.cos(angle)], axis=1)


def rounded(points: Points, rounds: int = 3) -> np.ndarray:
    """A closed outline with its corners cut `rounds` times (Chaikin 1974): a polygon becomes a curve."""
    outline = np.asarray(points, dtype=float)
    for _ in range(rounds):
        after = np.roll(outline, -1, axis=0)
        outline = np.stack([0.75 * outline + 0.25 * after, 0.25 * outline + 0.75 * after], axis=1).reshape(-1, 2)
    return outline


def fractal(rng: np.random.Generator, side: int, cells: tuple[int, ...] = (3, 6, 12)) -> np.ndarray:
    """Smooth noise (side, side) in about [0, 1]: random cells in layers, each half as strong as the last."""
    total = np.zeros((side, side), dtype=np.float32)
    for layer, count in enumerate(cells):
        patch = Image.fromarray(rng.random((count, count), dtype=np.float32))
        total += np.asarray(patch.resize((side, side), Image.Resampling.BICUBIC)) / 2**layer
    return total / (2 - 0.5 ** (len(cells) - 1))


class Canvas:
    """A square RGB picture of `size` pixels, drawn `SUPERSAMPLE` times larger."""

    def __init__(self, size: int) -> None:
        self.side = size * SUPERSAMPLE
        self.image = Image.new("RGB", (self.side, self.side), WHITE)
        self._draw = ImageDraw.Draw(self.image)
        self._matrix = np.eye(2) * self.side
        self._origin = np.zeros(2)
        self._unit = float(self.side)  # pixels per unit of length, for line widths

    def place(
        self, x: float, y: float, scale: float, angle: float = 0.0, stretch: float = 1.0, mirror: bool = False
    ) -> None:
        """Draw in the frame of an object from now on.

        Args:
            x: Center of the object, in unit coordinates.
            y: Center of the object, in unit coordinates.
            scale: Half the object's extent, in unit coordinates.
            angle: Clockwise turn in degrees.
            stretch: Width over height.
            mirror: Swap left and right.
        """
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        wide = np.sqrt(stretch)
        self._matrix = self.side * scale * np.array([[c, -s], [s, c]]) @ np.diag([-wide if mirror else wide, 1 / wide])
        self._origin = self.side * np.array([x, y])
        self._unit = float(self.side * scale)

    def place_freely(
        self, rng: np.random.Generator, scale: Span = (0.27, 0.43), tilt: float = 20.0, mirror: bool = False
    ) -> None:
        """`place` at random, inside the picture: scale, tilt (± degrees), stretch, mirrored or not."""
        half = rng.uniform(*scale)
        x, y = 0.5 + rng.uniform(-1, 1, 2) * (0.5 - half)
        flip = mirror and rng.random() < 0.5
        self.place(x, y, half, rng.uniform(-tilt, tilt), rng.uniform(0.9, 1.12), flip)

    def _pixels(self, points: Points) -> list[float]:
        """The points in pixels, flat: [x0, y0, x1, y1, ...]."""
        if isinstance(points, np.ndarray):
            placed: np.ndarray = points @ self._matrix.T + self._origin
            flat: list[float] = placed.ravel().tolist()
            return flat
        # Most outlines have four corners: for those plain Python is several times quicker than an array.
        ((a, b), (c, d)), (left, top) = self._matrix.tolist(), self._origin.tolist()
        return [pixel for x, y in points for pixel in (a * x + b * y + left, c * x + d * y + top)]

    def polygon(self, points: Points, fill: Color) -> None:
        """Fill the polygon `points` (K, 2)."""
        self._draw.polygon(self._pixels(points), fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Color) -> None:
        """Fill an upright rectangle (upright in the current frame)."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill)

    def ellipse(self, x: float, y: float, rx: float, ry: float | None = None, *, fill: Color) -> None:
        """Fill an ellipse around (x, y); a circle without `ry`."""
        self.polygon(_CIRCLE * (rx, rx if ry is None else ry) + np.array([x, y]), fill)

    def stroke(self, points: Points, fill: Color, width: float) -> None:
        """Draw a line through `points` (K, 2) with round ends; `width` in units of the current frame."""
        pixels = self._pixels(points)
        thick = max(1.0, width * self._unit)
        self._draw.line(pixels, fill, round(thick), joint="curve")
        if thick > 2:
            for x, y in (pixels[:2], pixels[-2:]):
                half = thick / 2 - 0.5
                self._draw.ellipse((x - half, y - half, x + half, y + half), fill)

    def outlined(self, points: Points, fill: Color, edge: Color, width: float) -> None:
        """Fill the polygon `points` (K, 2) and draw its outline."""
        self.polygon(points, fill)
        self.stroke(np.concatenate([points, points[:1]]), edge, width)

    def gradient(self, top: Color, bottom: Color, start: float = 0.0, stop: float = 1.0) -> None:
        """Fill the band from y = `start` to y = `stop` (unit coordinates) with a vertical color ramp."""
        first, last = round(start * self.side), round(stop * self.side)
        ramp = Image.linear_gradient("L").crop((0, 0, 1, 256)).resize((self.side, max(1, last - first)))
        band = Image.composite(Image.new("RGB", ramp.size, bottom), Image.new("RGB", ramp.size, top), ramp)
        self.image.paste(band, (0, first))

    def fill(self, color: Color) -> None:
        """Cover the canvas with one color."""
        self.image.paste(color, (0, 0, self.side, self.side))

    def blend(self, field: np.ndarray, color: Color) -> None:
        """Cover the canvas with `color` as far as `field` (H, W) in [0, 1] says; it is resized to fit."""
        mask = Image.fromarray((np.clip(field, 0, 1) * 255).astype(np.uint8))
        if mask.size != self.image.size:
            mask = mask.resize(self.image.size, Image.Resampling.BICUBIC)
        self.image.paste(color, (0, 0, self.side, self.side), mask)

    def clouds(self, rng: np.random.Generator, color: Color, cells: int = 3, strength: float = 1.0) -> None:
        """Blend `color` in by smooth random patches, about `cells` of them along a side."""
        self.blend(strength * rng.random((cells, cells)), color)

    def clutter(self, rng: np.random.Generator, color: Color, most: int = 5) -> None:
        """Up to `most` thin lines and small disks anywhere, as things that mean nothing."""
        for _ in range(rng.integers(0, most + 1)):
            x, y = rng.random(2)
            if rng.random() < 0.5:
                self.ellipse(x, y, rng.uniform(0.01, 0.04), fill=near(rng, color))
            else:
                self.stroke([(x, y), tuple(rng.random(2))], near(rng, color), rng.uniform(0.006, 0.02))

    def finished(
        self, rng: np.random.Generator, blur: float = 0.6, noise: float = 7.0, light: float = 0.18
    ) -> Image.Image:
        """The picture (size x size, RGB), reduced and then seen through an imperfect camera.

        Args:
            rng: Source of all that is random here.
            blur: Largest Gaussian blur, in 1/64 of the side; half of the pictures stay sharp.
            noise: Largest standard deviation of the pixel noise, in gray levels.
            light: How much brighter or darker the light may be from one side to the other.
        """
        image = self.image.reduce(SUPERSAMPLE)
        size = image.width
        if rng.random() < 0.5:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, blur) * size / 64))
        ramp = np.linspace(-1, 1, size, dtype=np.float32)
        tilt_x, tilt_y, overall = rng.uniform(-light, light, 3).astype(np.float32)
        gain = 1 + (overall + tilt_x * ramp[None, :] + tilt_y * ramp[:, None]) / 2
        grain = rng.uniform(1, noise) * rng.standard_normal((size, size, 3), dtype=np.float32)
        pixels = np.asarray(image, dtype=np.float32) * gain[..., None] + grain
        return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
