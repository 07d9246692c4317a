"""Pictures as 8-bit RGB: upright, with transparency on white."""

import math
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from probes.errors import BadItem
from probes.media.sources import Limits, check_pixels

MAX_ASPECT_RATIO = 200
"""Qwen's processors refuse more elongated pictures."""


def read_image(source: Any, limits: Limits) -> Image.Image:
    """Read a picture as RGB.

    Args:
        source: An open file, a PIL image (of an animation, its current frame is read), or an array
            `[height, width]` or `[height, width, 1|3|4]` of 8-bit or 16-bit integers, bools, or
            floats in [0, 1].
        limits: Upper bounds; `pixels` is checked.

    Raises:
        BadItem: It is not a picture, or exceeds the limit. Decoders raise errors of other types on
            damaged bytes.
    """
    if isinstance(source, np.ndarray | torch.Tensor):
        return from_array(np.asarray(source), limits)
    if isinstance(source, Image.Image):
        return to_rgb(source, limits)
    if not hasattr(source, "read"):
        raise BadItem(
            f"a {type(source).__name__} is not a picture; give a path, bytes or a PIL image"
        )
    with Image.open(source) as image:
        return to_rgb(image, limits)


def shrink(image: Image.Image, pixels: int | None) -> Image.Image:
    """The picture resized to `shrunk_size`."""
    size = shrunk_size(*image.size, pixels)
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def shrunk_size(width: int, height: int, pixels: int | None) -> tuple[int, int]:
    """The size of a picture reduced to at most `pixels` (None: no bound) at its aspect ratio.

    The shorter side of a picture more elongated than MAX_ASPECT_RATIO is widened to that ratio.
    """
    width, height = (
        max(width, math.ceil(height / MAX_ASPECT_RATIO)),
        max(height, math.ceil(width / MAX_ASPECT_RATIO)),
    )
    scale = min(1.0, math.sqrt((pixels or math.inf) / (width * height)))
    width, height = (max(1, math.floor(side * scale)) for side in (width, height))
    return min(width, height * MAX_ASPECT_RATIO), min(height, width * MAX_ASPECT_RATIO)


def to_rgb(image: Image.Image, limits: Limits) -> Image.Image:
    """A new RGB image, turned upright by its EXIF orientation."""
    check_pixels(*image.size, limits)
    image.load()
    upright = _upright(image)
    if upright.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        return from_array(np.asarray(upright), limits)
    transparent = "transparency" in upright.info or upright.mode in ("RGBA", "LA", "PA", "La")
    if not transparent and upright.mode != "RGBa":
        return upright.convert("RGB")
    layer = upright.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the pixels may be intact where the EXIF block is damaged
        return image


def from_array(array: np.ndarray, limits: Limits) -> Image.Image:
    """An array `[height, width]` or `[height, width, channels]` as a picture; see `read_image`."""
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)) or array.size == 0:
        raise BadItem(
            f"an array of shape {array.shape} is not a picture; give [height, width] or "
            "[height, width, 1, 3 or 4]"
        )
    check_pixels(array.shape[1], array.shape[0], limits)
    array = _to_bytes(array)
    return to_rgb(Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array), limits)


def _to_bytes(array: np.ndarray) -> np.ndarray:
    """Values as 8-bit integers; wider integers count as 16-bit if any value exceeds 255."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if not np.isfinite(array).all():
        raise BadItem("pixel values must be finite numbers")
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind == "f":
        if low < 0 or high > 255:
            raise BadItem(f"float pixels must lie in [0, 1], not in [{low:g}, {high:g}]")
        return (array * (255 if high <= 1 else 1)).round().astype(np.uint8)
    if low < 0 or high > 65535:
        raise BadItem(f"integer pixels must lie in 0 … 65535, not in {low:.0f} … {high:.0f}")
    return (array / 257).round().astype(np.uint8) if high > 255 else array.astype(np.uint8)
