"""Painting: flat shapes on a canvas, from their placements.

Positions and radii are fractions of the picture's side, y pointing down.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
SUPERSAMPLING = 4


@dataclass(frozen=True)
class Placement:
    """A thing on the canvas: shape, centre, radius, angle in radians and colour."""

    shape: str
    x: float
    y: float
    radius: float
    angle: float
    rgb: RGB


def paint(placed: Sequence[Placement], background: RGB, size: int) -> Image.Image:
    """The picture of placements, supersampled so that edges are smooth."""
    side = size * SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), background)
    pen = ImageDraw.Draw(canvas)
    for thing in placed:
        if thing.shape in ("circle", "ring"):
            box = [
                (thing.x - thing.radius) * side, (thing.y - thing.radius) * side,
                (thing.x + thing.radius) * side, (thing.y + thing.radius) * side,
            ]  # fmt: skip
            if thing.shape == "circle":
                pen.ellipse(box, fill=thing.rgb)
            else:
                pen.ellipse(box, outline=thing.rgb, width=round(0.36 * thing.radius * side))
            continue
        cos, sin = math.cos(thing.angle), math.sin(thing.angle)
        pen.polygon(
            [
                (
                    (thing.x + thing.radius * (cos * x - sin * y)) * side,
                    (thing.y + thing.radius * (sin * x + cos * y)) * side,
                )
                for x, y in _OUTLINES[thing.shape]
            ],
            fill=thing.rgb,
        )
    return canvas.reduce(SUPERSAMPLING)


def _turns(radii: Sequence[float], start: float) -> list[tuple[float, float]]:
    """Corners at equal angles from `start` (in turns), one per radius."""
    angles = [math.tau * (start + i / len(radii)) for i in range(len(radii))]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _heart() -> list[tuple[float, float]]:
    """The curve x = 16 sin³t, y = 13 cos t − 5 cos 2t − 2 cos 3t − cos 4t, scaled to radius 1."""
    points = []
    for i in range(48):
        t = math.tau * i / 48
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((math.sin(t) ** 3, -(y + 2.5) / 15))
    return points


_ARM = 0.3
_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": _turns([1.15] * 4, 0.125),
    "diamond": [(0.75, 0.0), (0.0, 1.1), (-0.75, 0.0), (0.0, -1.1)],
    "triangle": _turns([1.15] * 3, 0.75),
    "star": _turns([1.15, 0.47] * 5, 0.75),
    "heart": _heart(),
    "cross": [
        (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
        (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
    ],
}  # fmt: skip


def between(start: float, end: float, time: float) -> float:
    return start + (end - start) * time


def blend(start: RGB, end: RGB, time: float) -> RGB:
    red, green, blue = (round(a + (b - a) * time) for a, b in zip(start, end, strict=True))
    return red, green, blue
