"""How an item is kept: its parts as JSON, media given in memory as bytes beside it, a content hash.

Media given by path or web address stay a reference; a file's bytes are part of the hash, so a
changed file is a changed item. Pictures in memory are kept as PNG, frames and samples as NPZ.
"""

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from probes.errors import BadItem
from probes.items import Item, Part
from probes.media.audio import in_memory
from probes.media.images import read_image
from probes.media.sources import (
    WEB,
    Limits,
    MediaOptions,
    bad_item_on_error,
    label_media,
    open_source,
)

IN_MEMORY = Limits(pixels=2**62, bytes=2**62)
"""What is in memory already may be kept, however large."""


def pack(item: Item) -> tuple[str, list[bytes]]:
    """Parts as JSON, and the bytes of those that are not text or a reference.

    Raises BadItem for media that cannot be read.
    """
    parts, blobs = [], []
    for part, label in zip(item.parts, label_media(item.parts), strict=True):
        if part.kind == "text":
            parts.append({"kind": "text", "text": part.value})
        elif isinstance(part.value, Path):
            parts.append({"kind": part.kind, "path": str(part.value.absolute())})
        elif isinstance(part.value, str) and part.value.startswith(WEB):
            parts.append({"kind": part.kind, "url": part.value})
        else:
            with bad_item_on_error(item.name, label):
                format, blob = _to_bytes(part)
            parts.append({"kind": part.kind, "format": format, "blob": len(blobs)})
            blobs.append(blob)
    return json.dumps(parts, ensure_ascii=False), blobs


def with_source(parts: str, source: str | None) -> str:
    """Packed parts with where the item was read from, which is no content: it is not hashed."""
    if source is None:
        return parts
    return json.dumps([*json.loads(parts), {"source": source}], ensure_ascii=False)


def source_of(parts: str) -> str | None:
    """What `with_source` added."""
    *_, last = json.loads(parts)
    return last.get("source")


def text_of(parts: str) -> str:
    """The text of packed parts, as `Item.text` is."""
    return "\n".join(part["text"] for part in json.loads(parts) if "text" in part)


def source_condition(places: Sequence[str]) -> str:
    """SQL that holds for packed parts of items that were read from one of these places, or from
    below it."""
    written = [json.dumps({"source": place}, ensure_ascii=False)[:-2] for place in places]
    quoted = ["'" + text.replace("'", "''") + "'" for text in written]
    return " OR ".join(f"contains(parts, {text})" for text in quoted) or "false"


def by_place(id: str, source: str | None) -> bool:
    """Whether an id says where its item stands, and not what someone has called it."""
    return source is not None and source.endswith(f"/{id}")


def file_of(place: str) -> str:
    """The file of a row or page, whose place ends with `:` and a number."""
    return re.sub(r":\d+$", "", place)


def _to_bytes(part: Part) -> tuple[str, bytes]:
    file = open_source(part.value, MediaOptions(limits=IN_MEMORY))
    if file is not None:
        return "file", file.read()
    buffer = io.BytesIO()
    if part.kind == "image":
        read_image(part.value, IN_MEMORY).save(buffer, format="PNG")
        return "png", buffer.getvalue()
    if part.kind == "audio":
        samples, rate = in_memory(part.value)
        np.savez_compressed(buffer, array=samples, sampling_rate=rate)
        return "npz", buffer.getvalue()
    if isinstance(part.value, Image.Image):
        raise BadItem("an animation in memory cannot be stored; give its path or its bytes")
    frames = [np.asarray(read_image(frame, IN_MEMORY)) for frame in part.value]
    np.savez_compressed(buffer, frames=np.stack(frames))
    return "npz", buffer.getvalue()


UNPACKED = ("id", "parts", "blobs", "metadata")
"""The columns that `unpack` reads."""


def unpack(id: str, parts: str, blobs: Sequence[bytes], metadata: str) -> Item:
    """The item that `pack` wrote: pictures as PIL images, frames and samples as arrays."""
    restored, source = [], None
    for part in json.loads(parts):
        if "source" in part:
            source = part["source"]
            continue
        if "text" in part:
            value: Any = part["text"]
        elif "path" in part:
            value = Path(part["path"])
        elif "url" in part:
            value = part["url"]
        else:
            value = _from_bytes(part["kind"], part["format"], blobs[part["blob"]])
        restored.append(Part(part["kind"], value))
    return Item(parts=restored, id=id, metadata=json.loads(metadata), source=source)


def _from_bytes(kind: str, format: str, blob: bytes) -> Any:
    if format == "file":
        return blob
    if format == "png":
        return Image.open(io.BytesIO(blob))
    with np.load(io.BytesIO(blob), allow_pickle=False) as arrays:
        if kind == "video":
            return arrays["frames"]
        return {"array": arrays["array"], "sampling_rate": int(arrays["sampling_rate"])}


def content_hash(item: Item, parts: str, blobs: Sequence[bytes]) -> str:
    """SHA-256 over all content and metadata. Raises BadItem when a referenced file is gone."""
    digest = hashlib.sha256(parts.encode())
    for blob in blobs:
        digest.update(hashlib.sha256(blob).digest())
    for part in item.media:
        if isinstance(part.value, Path):
            try:
                with part.value.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise BadItem(
                    f"{item.name}: cannot read {part.value}: {error.strerror}", item.id
                ) from None
    digest.update(encode_metadata(item).encode())
    return digest.hexdigest()


def content_id(item: Item) -> str:
    """The id of an item that has none: the same content is the same item. Raises BadItem."""
    return content_hash(item, *pack(item))[:16]


def place_metadata(item: Item) -> str:
    """The metadata that is stored: that of the item, and for one that is called by its place
    `file` and `folder`, such as `docs/cats/a.txt` and `docs/cats`.

    Where an item stands is no content, so the hash does not depend on it; metadata of those names
    stays as it is.
    """
    if item.id is None or not by_place(item.id, item.source):
        return encode_metadata(item)
    file = file_of(item.id)
    place = {"file": file, "folder": str(PurePosixPath(file).parent)}
    return _written({**place, **item.metadata})


def encode_metadata(item: Item) -> str:
    """Metadata as JSON; an item holds nothing that JSON cannot write."""
    return _written(item.metadata)


def _written(metadata: Mapping[str, Any]) -> str:
    return json.dumps(metadata, sort_keys=True, ensure_ascii=False)
