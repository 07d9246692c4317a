"""Pictures, clips and sounds to check a backbone with: drawn here, each unlike the others."""

import functools
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from probes import Item
from probes.items import Part
from probes.media.formats import Modality
from probes.scenes.generator import random_scene

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


def three(kind: Modality) -> tuple[Part, Part, Part]:
    """Two of one size and unlike content, and one of another size."""
    values: list[Any]
    match kind:
        case "image":
            values = [picture(128, 96), picture(128, 96, 40), picture(96, 160)]
        case "video":
            values = [clip(128, 96, 4), clip(128, 96, 4, 40), clip(96, 160, 6)]
        case _:
            values = [sound(0.5), sound(0.5, 20), sound(0.9)]
    first, second, third = (Part(kind, value) for value in values)
    return first, second, third


def item(kind: Modality, value: Any) -> Item:
    """One medium and nothing else."""
    return Item(parts=[Part(kind, value)])


@functools.cache
def _scene() -> Image.Image:
    return random_scene(Random(0)).draw(256)
