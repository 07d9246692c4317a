"""Synthetic pictures, clips and sounds to check a backbone with; no two are the same."""

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
"""Sampling rate of every sound, Hz."""


def picture(width: int, height: int, number: int = 0) -> Image.Image:
    """A drawn scene, rolled sideways by `number` pixels."""
    scene = np.asarray(_scene().resize((width, height)))
    return Image.fromarray(np.roll(scene, number, axis=1))


def clip(width: int, height: int, frames: int, number: int = 0) -> np.ndarray:
    """A drawn scene that moves to the right, as `[frames, height, width, 3]`."""
    scene = np.asarray(_scene().resize((width, height)))
    return np.stack([np.roll(scene, number + step * width // 8, axis=1) for step in range(frames)])


def sound(seconds: float, number: int = 0) -> dict[str, Any]:
    """A rising tone; `number` sets its pitch."""
    time = np.arange(round(seconds * RATE)) / RATE
    return {"array": 0.5 * np.sin((2000 + 100 * number + 500 * time) * time), "sampling_rate": RATE}


def three(kind: Modality) -> tuple[Part, Part, Part]:
    """Two media of one size and different content, and one of another size."""
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


def item(*parts: Part) -> Item:
    """An item that warnings call by what it is for."""
    return Item(parts=parts, id=f"sample of {', '.join(part.kind for part in parts)}")


@functools.cache
def _scene() -> Image.Image:
    return random_scene(Random(0)).draw(256)
