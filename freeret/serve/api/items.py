"""`/items`: stored items and their media, by id only. No path or address in a request is opened."""

import io
import mimetypes
import wave
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from fastapi import APIRouter
from fastapi.responses import FileResponse, Response
from PIL import Image
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from freeret.pages.thumbnails import OPTIONS, thumbnails, unreadable
from freeret.serve.service import Service
from freeret.store.payload import pack
from probes import Item, Part
from probes.errors import BadItem, NotStored
from probes.media.audio import in_memory
from probes.media.sources import bad_item_on_error, check_size, open_source

SCRIPTED = ("image/svg+xml",)
"""Media types whose files a browser may execute."""


class Medium(BaseModel):
    kind: str
    url: str
    thumbnails: list[str]


class ItemView(BaseModel):
    """An item; the paths of its media are left out."""

    id: str
    kind: str
    text: str
    metadata: dict[str, Any]
    url: str
    media: list[Medium]


def view(item: Item) -> ItemView:
    """The view of a stored item."""
    url = f"/items/{quote(item.id or '', safe='')}"
    media = [
        Medium(
            kind=part.kind,
            url=f"{url}/media/{n}",
            thumbnails=[f"{url}/media/{n}/thumbnails/{frame}" for frame in range(_frames(part))],
        )
        for n, part in enumerate(item.media)
    ]
    return ItemView(
        id=item.id or "",
        kind=item.signature,
        text=item.text,
        metadata=dict(item.metadata),
        url=url,
        media=media,
    )


def routes(service: Service) -> APIRouter:
    """The endpoints over a service. Ids come percent-encoded, as one segment of the path."""
    router = APIRouter(tags=["Items"])

    @router.get("/items/{id}")
    async def item(id: str) -> ItemView:
        """An item with its metadata and the URLs of its media."""
        return view(await _stored(service, id))

    @router.get("/items/{id}/media/{n}", response_class=Response)
    async def medium(id: str, n: int) -> Response:
        """The bytes of a picture, clip or sound."""
        part = _part(await _stored(service, id), n)
        return await run_in_threadpool(_served, part, unquote(id))

    @router.get("/items/{id}/media/{n}/thumbnails/{frame}", response_class=Response)
    async def thumbnail(id: str, n: int, frame: int) -> Response:
        """A picture, at most 320 pixels wide and high, or a frame of a clip, at most 160 (WEBP).
        The last frame of a clip that has fewer frames is repeated."""
        part = _part(await _stored(service, id), n)
        if not 0 <= frame < _frames(part):
            raise NotStored(f"medium {n} of item {unquote(id)!r} has no thumbnail {frame}")
        frames = await run_in_threadpool(_thumbnails, part, unquote(id))
        return Response(frames[min(frame, len(frames) - 1)], media_type="image/webp")

    return router


async def _stored(service: Service, id: str) -> Item:
    [item] = await run_in_threadpool(service.store.items, [unquote(id)])
    return item


def _part(item: Item, n: int) -> Part:
    if not 0 <= n < len(item.media):
        raise NotStored(f"item {item.id!r} has no medium {n}")
    return item.media[n]


def _frames(part: Part) -> int:
    return {"image": 1, "video": OPTIONS.frames}.get(part.kind, 0)


def _thumbnails(part: Part, id: str) -> list[bytes]:
    try:
        return thumbnails(part, f"item {id!r}")[0]
    except BadItem as error:
        raise NotStored(str(error)) from None


def _served(part: Part, id: str) -> Response:
    """A medium as the store has it. Raises NotStored where it is no longer readable."""
    name = f"item {id!r}"
    try:
        with bad_item_on_error(name, f"the {part.kind}"):
            if isinstance(part.value, Path):
                check_size(part.value.stat().st_size, OPTIONS.limits)
                with part.value.open("rb") as file:
                    type = _media_type(part, file.read(64), part.value.name)
                return FileResponse(part.value, media_type=type)
            content = _bytes(part)
            return Response(content, media_type=_media_type(part, content, ""))
    except BadItem:
        raise NotStored(str(unreadable(part, name))) from None


def _bytes(part: Part) -> bytes:
    """A medium in memory as a file that browsers can show."""
    if part.kind == "audio" and not isinstance(part.value, bytes | str):
        return _as_wave(*in_memory(part.value))
    if part.kind == "video" and isinstance(part.value, np.ndarray):
        return _as_animation(part.value)
    file = open_source(part.value, OPTIONS)
    if file is not None:
        return file.read()
    [content] = pack(Item(parts=[part])).blobs
    return content


def _as_wave(samples: np.ndarray, rate: int) -> bytes:
    """Samples `[time]` or `[channels, time]`, floats in [-1, 1] or integers of any width, as a WAV
    file of 16 bits."""
    whole = samples.dtype.kind in "iu"
    channels = np.atleast_2d(samples / np.iinfo(samples.dtype).max if whole else samples)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((channels.T.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def _as_animation(frames: np.ndarray) -> bytes:
    """Frames `[frames, height, width, 3]` as an animated WEBP of two frames a second."""
    first, *others = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    first.save(buffer, "WEBP", save_all=True, append_images=others, duration=500, loop=0)
    return buffer.getvalue()


def _media_type(part: Part, head: bytes, name: str) -> str:
    """The media type by the file's name or its first bytes; never one that a browser executes."""
    guess = mimetypes.guess_type(name)[0] or _by_magic(head) or ""
    safe = guess.split("/")[0] in ("image", "video", "audio") and guess not in SCRIPTED
    return guess if safe else "application/octet-stream"


def _by_magic(head: bytes) -> str | None:
    magics = (
        (b"\x89PNG", 0, "image/png"),
        (b"\xff\xd8\xff", 0, "image/jpeg"),
        (b"GIF8", 0, "image/gif"),
        (b"WEBP", 8, "image/webp"),
        (b"BM", 0, "image/bmp"),
        (b"WAVE", 8, "audio/wav"),
        (b"fLaC", 0, "audio/flac"),
        (b"OggS", 0, "audio/ogg"),
        (b"ID3", 0, "audio/mpeg"),
        (b"ftyp", 4, "video/mp4"),
        (b"\x1aE\xdf\xa3", 0, "video/webm"),
    )
    return next((t for magic, at, t in magics if head[at:].startswith(magic)), None)
