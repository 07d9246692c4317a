"""A picture is read upright, opaque and with its colours, from any form."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from probes.errors import BadItem
from probes.media.images import read_image
from probes.media.sources import Limits

LIMITS = Limits(pixels=10_000)
RED, WHITE = (255, 0, 0), (255, 255, 255)


def saved(image: Image.Image, format: str, **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, format=format, **options)
    file.seek(0)
    return file


def pixel(source: Any, x: int = 0, y: int = 0) -> tuple[int, ...]:
    image = read_image(source, LIMITS)
    assert image.mode == "RGB"
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return tuple(map(int, value))


def corner() -> Image.Image:
    """A landscape picture, red in the upper left corner and blue elsewhere."""
    image = Image.new("RGB", (12, 8), "blue")
    image.paste("red", (0, 0, 4, 4))
    return image


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_a_file_is_read_as_it_was_saved(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    assert np.array_equal(read_image(saved(corner(), format, **options), LIMITS), corner())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_picture_upright(orientation: int) -> None:
    """Pixels stored in each of the eight orientations that EXIF knows."""
    turns = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = corner()
    for turn in turns.get(orientation, []):
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = read_image(saved(stored, "PNG", exif=exif), LIMITS)
    assert np.array_equal(upright, corner())


def palette(transparent: bool) -> Image.Image:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 255, 0, 0] + [0] * 750)
    if transparent:
        image.info["transparency"] = 1
    return image


def keyed() -> Image.Image:
    """RGB in which one colour is transparent."""
    image = Image.new("RGB", (4, 4), (9, 9, 9))
    image.info["transparency"] = (9, 9, 9)
    return image


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), WHITE),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 255)), RED),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 128)), (255, 127, 127)),
        (Image.new("LA", (4, 4), (0, 0)), WHITE),
        (palette(transparent=False), RED),
        (palette(transparent=True), WHITE),
        (keyed(), WHITE),
        (Image.new("L", (4, 4), 7), (7, 7, 7)),
        (Image.new("1", (4, 4), 1), WHITE),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), RED),
        (Image.fromarray(np.full((4, 4), 0x8080, np.uint16)), (128, 128, 128)),
        (Image.fromarray(np.full((4, 4), 65535, np.int32)), WHITE),
        (Image.fromarray(np.full((4, 4), 0.5, np.float32)), (128, 128, 128)),
    ],
)
def test_every_mode_becomes_rgb(image: Image.Image, colour: tuple[int, ...]) -> None:
    """Transparency becomes white; 16 bits are scaled, which Pillow would clip to white."""
    assert pixel(image) == colour


def test_sixteen_bits_and_transparency_survive_a_file() -> None:
    deep = Image.fromarray(np.full((4, 4), 0x4040, np.uint16))
    assert pixel(saved(deep, "PNG")) == (64, 64, 64)
    assert pixel(saved(palette(True), "PNG", transparency=1)) == WHITE
    assert pixel(saved(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF")) == RED


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_shows_its_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if format == "WEBP" else {}
    file = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert pixel(file) == RED


def test_the_given_picture_is_not_modified() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    read = read_image(image, LIMITS)
    assert image.mode == "RGBA"
    opaque = Image.new("RGB", (4, 4), "red")
    read = read_image(opaque, LIMITS)
    read.paste("blue", (0, 0, 4, 4))
    assert opaque.getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    ("array", "colour"),
    [
        (np.full((4, 4, 3), 200, np.uint8), (200, 200, 200)),
        (np.full((4, 4), 200, np.uint8), (200, 200, 200)),
        (np.full((4, 4, 1), 200, np.uint8), (200, 200, 200)),
        (np.full((4, 4, 4), (255, 0, 0, 0), np.uint8), WHITE),
        (np.full((4, 4, 3), 0.5), (128, 128, 128)),
        (np.full((4, 4, 3), 65535, np.uint16), WHITE),
        (np.full((4, 4, 3), 200, np.int64), (200, 200, 200)),
        (np.ones((4, 4), bool), WHITE),
        (torch.full((4, 4, 3), 0.5), (128, 128, 128)),
    ],
)
def test_arrays_are_pictures(array: Any, colour: tuple[int, ...]) -> None:
    assert pixel(array) == colour


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (np.zeros(4, np.uint8), "shape"),
        (np.full((4, 4, 3), np.nan), "finite"),
        (np.full((4, 4, 3), -1.0), r"\[0, 1\]"),
        (np.full((4, 4, 3), 70_000), "65535"),
        (np.zeros((200, 200, 3), np.uint8), "more than 10000 pixels"),
        (Image.new("1", (200, 200)), "more than 10000 pixels"),
        (saved(Image.new("1", (200, 200)), "PNG"), "more than 10000 pixels"),
        (3, "int is not a picture"),
        (Path("a.png"), "not a picture"),
    ],
)
def test_invalid_pictures_are_refused(bad: Any, reason: str) -> None:
    with pytest.raises(BadItem, match=reason):
        read_image(bad, LIMITS)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    """A header of 900 million pixels, whose decoding would take gigabytes."""
    file = saved(Image.new("1", (30_000, 30_000)), "PNG")
    with pytest.raises((BadItem, Image.DecompressionBombError)):
        read_image(file, Limits())
