"""Sources of media: options and limits, how the bytes are opened, and how errors name a medium.

A value is a `pathlib.Path`, bytes, a data URL, a web address (only when allowed), or an object
already in memory. Every error while it is read is a BadItem.
"""

import base64
import binascii
import io
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av

from probes.errors import BadItem, UnsupportedBackbone
from probes.items import Part
from probes.media.silence import silence

WEB = ("http://", "https://")
TIMEOUT = 30
"""Seconds to wait for a web address."""
NO_PROTOCOL = {"protocol_whitelist": "none"}
"""Options of ffmpeg: a playlist that poses as a medium may not open other files or addresses."""


@dataclass(frozen=True)
class Limits:
    """Upper bounds on one picture, video or audio; more is a BadItem before it is decoded."""

    pixels: int = 64_000_000
    """Width × height of a picture or of one frame."""
    seconds: float | int = 3600
    bytes: int = 512 * 2**20


@dataclass(frozen=True)
class MediaOptions:
    """How media are read and processed.

    `images`, `videos`, `frames` and `max_pixels` change vectors, so they are part of the
    fingerprint. `images` and `videos` are settings of the model's processor, which depend on its
    family:

    - Qwen2-VL to Qwen3-VL, Qwen2.5-Omni: `{"size": {"shortest_edge": P, "longest_edge": Q}}`
      (at least P, at most Q pixels per picture);
    - InternVL: `{"max_patches": N}` (tiles);
    - Idefics3, SmolVLM: `{"size": {"longest_edge": N}}` or `{"do_image_splitting": False}`;
    - Gemma 3: `{"do_pan_and_scan": True}`;
    - LLaVA: none, the model's config decides.
    """

    images: Mapping[str, Any] = field(default_factory=dict)
    videos: Mapping[str, Any] = field(default_factory=dict)
    frames: int = 8
    """Frames sampled from a video, evenly in time."""
    max_pixels: int | None = None
    """The most pixels of a picture, and of each frame of a video; larger ones are reduced, their
    aspect ratio kept. In families whose processor has a pixel budget (the Qwen families, GLM-4V and
    others) it sets that budget, and None means 1,280 tokens per picture, the bound of the MMEB
    benchmark, unless the checkpoint's bound is lower or `images` sets a `size`. In other families
    None means no bound, and a picture is reduced before the processor, which may resize it again.
    """
    limits: Limits = field(default_factory=Limits)
    urls: bool = False
    """Whether web addresses may be fetched."""
    cache_bytes: int = 2**29
    """Size of the LRU cache of processed media and tower features, in bytes; 0 turns it off."""

    def identity(self) -> dict[str, Any]:
        """The options that change vectors."""
        settings = {"images": dict(self.images), "videos": dict(self.videos), "frames": self.frames}
        return settings | ({} if self.max_pixels is None else {"max_pixels": self.max_pixels})


def open_source(value: Any, options: MediaOptions) -> io.BufferedIOBase | None:
    """The bytes of a media value as an open file; None for an object in memory.

    Raises BadItem when they exceed the limit, or for a string that is no address.
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


def open_container(file: Any) -> Any:
    """An open video or audio file as a container of ffmpeg, which a `with` statement closes."""
    return av.open(file, options=NO_PROTOCOL, metadata_errors="ignore")


def decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Frames from the current position; packets that cannot be decoded are skipped."""
    try:
        for packet in container.demux(stream):
            try:
                yield from packet.decode()
            except av.FFmpegError:
                continue
    except av.FFmpegError:
        return


def check_size(size: int, limits: Limits) -> None:
    """Raise BadItem for an empty file, or for one above the limit."""
    if size == 0:
        raise BadItem("it is empty")
    if size > limits.bytes:
        raise BadItem(f"more than {limits.bytes} bytes; raise Limits(bytes=…) to allow it")


def check_pixels(width: int, height: int, limits: Limits) -> None:
    """Raise BadItem for a picture or frame above the limit."""
    if width * height > limits.pixels:
        raise BadItem(
            f"{width} × {height} is more than {limits.pixels} pixels; make it smaller, or raise "
            "Limits(pixels=…)"
        )


def check_seconds(seconds: float, limits: Limits) -> None:
    """Raise BadItem for a video or audio above the limit."""
    if seconds > limits.seconds:
        raise BadItem(f"longer than {limits.seconds:g} seconds; cut it, or raise Limits(seconds=…)")


def label_media(parts: Sequence[Part]) -> list[str]:
    """How messages call each part of an item: `the image`, or `image 2 of 3` among several."""
    totals, counts = Counter(part.kind for part in parts), Counter[str]()
    labels = []
    for part in parts:
        counts[part.kind] += 1
        single = totals[part.kind] == 1
        place = f"{part.kind} {counts[part.kind]} of {totals[part.kind]}"
        labels.append(f"the {part.kind}" if single else place)
    return labels


@contextmanager
def open_part(
    part: Part, options: MediaOptions, name: str, label: str | None = None
) -> Iterator[Any]:
    """The value of a medium: an open file, or the object where it is in memory.

    Messages call its item by `name`, and the medium by `label`, one of `label_media`; by default
    `the image`. Raises BadItem where it cannot be opened, and for any error in the body of the
    `with` statement.
    """
    with bad_item_on_error(name, label or f"the {part.kind}"):
        file = open_source(part.value, options)
        if file is None:
            yield part.value
        else:
            with file:
                yield file


@contextmanager
def bad_item_on_error(name: str, label: str) -> Iterator[None]:
    """Turn every error into a BadItem that names the item and the medium, and silence warnings:
    decoders meet damaged bytes with exceptions and warnings of every type."""
    try:
        with silence():
            yield
    except UnsupportedBackbone:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else repr(error)
        raise BadItem(f"{name}: cannot read {label}: {reason}") from None
