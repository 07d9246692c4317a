"""Pictures, clips and sounds to check a backbone with: drawn here, each unlike the others."""

import functools
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from probes import Item
from probes.formats import Kind
from probes.items import Part
from probes.scenes import random_scene

RATE = 16_000
"""Hertz of every sound."""


def picture(width: int, height: int, number: int = 0) -> Image.Image:
    """A drawn scene of one size, moved sideways by `number`: no two are the same."""
    drawn = np.asarray(_scene().resize((width, height)))
    return Image.fromarray(np.roll(drawn, number, axis=1))


def clip(width: int, height: int, frames: int, number: int = 0) -> np.ndarray:
    """A drawn scene that moves to the right, as `[frames, height, width, 3]`."""
    drawn = np.asarray(_scene().resize((width, height)))
    return np.stack([np.roll(drawn, number + step * width // 8, axis=1) for step in range(frames)])


def sound(seconds: float, number: int = 0) -> dict[str, Any]:
    """A tone that rises; its pitch is that of `number`."""
    time = np.arange(round(seconds * RATE)) / RATE
    return {"array": 0.5 * np.sin((2000 + 100 * number + 500 * time) * time), "sampling_rate": RATE}


def pair(kind: Kind) -> tuple[Part, Part]:
    """Two of a kind, unlike in content and in size."""
    match kind:
        case "image":
            first, second = picture(128, 96), picture(96, 160, 40)
        case "video":
            first, second = clip(128, 96, 4), clip(96, 160, 6, 40)
        case _:
            first, second = sound(0.5), sound(0.9, 20)
    return Part(kind, first), Part(kind, second)


def item(kind: Kind, value: Any) -> Item:
    """One medium and nothing else."""
    return Item(parts=[Part(kind, value)])


@functools.cache
def _scene() -> Image.Image:
    return random_scene(Random(0)).draw(256)
