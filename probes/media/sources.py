"""What pictures, videos and audio share: options, limits, where their bytes come from.

A value is a `pathlib.Path`, bytes, a data URL, a web address (only when allowed), or an object
already in memory. Whatever goes wrong while it is read is a BadItem.
"""

import base64
import binascii
import io
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probes.errors import BadItem, UnsupportedBackbone

WEB = ("http://", "https://")
TIMEOUT = 30
"""Seconds to wait for a web address."""


@dataclass(frozen=True)
class Limits:
    """The most that one picture, video or audio may be; more is a BadItem before it is decoded."""

    pixels: int = 64_000_000
    """Width × height of a picture or of one frame."""
    seconds: float | int = 3600
    bytes: int = 512 * 2**20


@dataclass(frozen=True)
class MediaOptions:
    """How media are read and processed. `images`, `videos`, `frames` and `max_pixels` decide
    vectors, so they are part of the fingerprint.

    `images` and `videos` are the processor's own settings, by family:
    Qwen2-VL to Qwen3-VL, Qwen2.5-Omni `{"size": {"shortest_edge": P, "longest_edge": Q}}` (pixels
    of a picture, at least P, at most Q); InternVL `{"max_patches": N}` (tiles); Idefics3, SmolVLM
    `{"size": {"longest_edge": N}}` or `{"do_image_splitting": False}`; Gemma 3
    `{"do_pan_and_scan": True}`. In LLaVA the model's own config decides.
    """

    images: Mapping[str, Any] = field(default_factory=dict)
    videos: Mapping[str, Any] = field(default_factory=dict)
    frames: int = 8
    """Frames sampled from a video, evenly in time."""
    max_pixels: int | None = None
    """The most pixels of a picture, and of each frame of a video; larger ones are made smaller,
    their shape kept. Where a processor's own size is a budget of pixels (the Qwen families,
    GLM-4V and others), it counts the pixels of a picture, and None stands for 1,280 tokens of a
    picture, the MMEB benchmark's bound, unless the checkpoint's own bound is lower or `images`
    sets a `size`. In the other families None stands for no bound, and a picture is made smaller
    before the processor sees it, which may bring it to its own size again."""
    limits: Limits = field(default_factory=Limits)
    urls: bool = False
    """Whether web addresses may be fetched."""
    cache_bytes: int = 2**29
    """Bytes of processed media and tower features kept for use again; 0 keeps nothing."""

    def identity(self) -> dict[str, Any]:
        """What of this decides a vector."""
        found = {"images": dict(self.images), "videos": dict(self.videos), "frames": self.frames}
        return found if self.max_pixels is None else {**found, "max_pixels": self.max_pixels}


def open_source(value: Any, options: MediaOptions) -> io.BufferedIOBase | None:
    """The bytes of a media value as an open file; None for an object in memory.

    Raises BadItem when they are too many, or when the value is a string of another kind.
    """
    if isinstance(value, Path):
        check_size(value.stat().st_size, options.limits)
        return value.open("rb")
    if isinstance(value, bytes | bytearray | memoryview):
        check_size(len(value), options.limits)
        return io.BytesIO(value)
    if not isinstance(value, str):
        return None
    if value.startswith("data:"):
        return io.BytesIO(_decode_data_url(value, options.limits))
    if value.startswith(WEB):
        return io.BytesIO(_fetch(value, options))
    raise BadItem("a string here is a data URL or a web address; give a file as a pathlib.Path")


def _decode_data_url(url: str, limits: Limits) -> bytes:
    header, comma, body = url.partition(",")
    if not comma or not header.endswith(";base64"):
        raise BadItem("a data URL must be base64: data:image/png;base64,…")
    check_size(len(body) * 3 // 4, limits)
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise BadItem(f"the data URL is not valid base64 ({error})") from None


def _fetch(url: str, options: MediaOptions) -> bytes:
    if not options.urls:
        raise BadItem(
            f"{url[:100]} is a web address and fetching is not allowed; allow it with "
            "MediaOptions(urls=True), or give the file"
        )
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        if not response.url.startswith(WEB):
            raise BadItem(f"{url[:100]} leads to {response.url[:100]}, which is no web address")
        content = response.read(options.limits.bytes + 1)
    check_size(len(content), options.limits)
    return content


def check_size(size: int, limits: Limits) -> None:
    """Raise BadItem for a file of no bytes, or of more than are allowed."""
    if size == 0:
        raise BadItem("it is empty")
    if size > limits.bytes:
        raise BadItem(f"more than {limits.bytes} bytes; raise Limits(bytes=…) to allow it")


def check_pixels(width: int, height: int, limits: Limits) -> None:
    """Raise BadItem for a picture or frame that would fill the memory."""
    if width * height > limits.pixels:
        raise BadItem(
            f"{width} × {height} is more than {limits.pixels} pixels; make it smaller, or raise "
            "Limits(pixels=…)"
        )


@contextmanager
def bad_item_on_error(name: str, kind: str) -> Iterator[None]:
    """Decoders meet damaged bytes with errors and warnings of every type: all become a BadItem
    that names the item."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnsupportedBackbone:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else repr(error)
        raise BadItem(f"{name}: cannot read the {kind}: {reason}") from None
