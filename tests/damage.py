"""Two hundred damaged pictures, videos and sounds, always the same."""

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.media.test_audio import recording, tone
from tests.media.test_videos import film
from tests.samples import picture, png

WHOLE = 12
"""Files in the folder that are not damaged: two of each kind."""


def write_damaged(folder: Path, count: int = 200) -> None:
    """`count` damaged files and WHOLE others, two of each kind."""
    draw = random.Random(0)
    whole = _whole()
    for i, (suffix, content) in enumerate(sorted(whole.items())):
        for copy in range(WHOLE // len(whole)):
            folder.joinpath(f"whole-{i}-{copy}{suffix}").write_bytes(content)
    faults = (_cut, _flipped, _zeroed, _swapped, _noise, _empty, _bomb, _hollow)
    for i in range(count):
        suffix = draw.choice(sorted(whole))
        content = faults[i % len(faults)](draw, suffix, whole)
        folder.joinpath(f"damaged-{i:03}{suffix}").write_bytes(content)


def _whole() -> dict[str, bytes]:
    jpeg = io.BytesIO()
    picture().save(jpeg, "JPEG")
    gif = io.BytesIO()
    picture().save(gif, "GIF", save_all=True, append_images=[picture(seed=1)])
    times = [4 * i for i in range(12)]
    return {
        ".png": png(picture()),
        ".jpg": jpeg.getvalue(),
        ".gif": gif.getvalue(),
        ".mp4": film(times),
        ".mkv": film(times, "matroska"),
        ".wav": recording(tone()[None], 8000, "wav", "pcm_f32le", "flt"),
    }


def _cut(draw: random.Random, suffix: str, whole: dict[str, bytes]) -> bytes:
    return whole[suffix][: draw.randrange(1, len(whole[suffix]))]


def _flipped(draw: random.Random, suffix: str, whole: dict[str, bytes]) -> bytes:
    content = bytearray(whole[suffix])
    for _ in range(draw.randrange(1, 200)):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(content)


def _zeroed(draw: random.Random, suffix: str, whole: dict[str, bytes]) -> bytes:
    content = bytearray(whole[suffix])
    start = draw.randrange(len(content))
    content[start : start + 500] = bytes(len(content[start : start + 500]))
    return bytes(content)


def _swapped(draw: random.Random, suffix: str, whole: dict[str, bytes]) -> bytes:
    """The content of another kind under this ending."""
    return whole[draw.choice([other for other in sorted(whole) if other != suffix])]


def _noise(draw: random.Random, suffix: str, whole: dict[str, bytes]) -> bytes:
    return whole[suffix][: draw.choice((0, 16))] + draw.randbytes(draw.randrange(1, 3000))


def _empty(draw: random.Random, suffix: str, whole: dict[str, bytes]) -> bytes:
    return b""


def _bomb(draw: random.Random, suffix: str, whole: dict[str, bytes]) -> bytes:
    """A few bytes that promise gigabytes: pixels, frames or seconds."""
    if suffix == ".wav":
        return recording(np.zeros((1, 8000 * 30)), 8000, "wav", "pcm_s16le", "s16")
    if suffix in (".mp4", ".mkv"):
        return film([0, 4], size=(1024, 768))
    if suffix == ".gif":
        return whole[".gif"][:6] + struct.pack("<HH", 65_535, 65_535) + whole[".gif"][10:]
    side = draw.choice((5_000, 30_000, 100_000))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (
            (b"IHDR", header),
            (b"IDAT", zlib.compress(bytes(10_000))),
            (b"IEND", b""),
        )
    )


def _hollow(draw: random.Random, suffix: str, whole: dict[str, bytes]) -> bytes:
    """A container with nothing in it, samples that are no numbers, a picture cut at its size."""
    if suffix == ".wav":
        spoilt = tone()
        spoilt[100:200] = draw.choice((np.nan, np.inf))
        return recording(spoilt[None], 8000, "wav", "pcm_f32le", "flt")
    if suffix in (".mp4", ".mkv"):
        return whole[suffix][: draw.choice((40, 300))]
    file = io.BytesIO()
    Image.new("P", (1, 1)).save(file, "GIF")
    return file.getvalue()[: draw.choice((6, 13, 40))]
