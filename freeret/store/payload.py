"""Record: an item as a row of the store, and the item that a row was made from.

Its parts are JSON, and media in memory are bytes beside them. Media given by path or web address
stay a reference. The content hash covers the bytes of a file, so a changed file is a changed item.
Pictures in memory are stored as PNG, frames and samples as NPZ.
"""

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, get_type_hints

import numpy as np
import pyarrow as pa
from jaxtyping import Float
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
"""No limits: media that are in memory already may be stored, however large."""

ARROW = {str: pa.string(), list[bytes]: pa.list_(pa.binary())}
"""Arrow type of each type of a field of `Record`, except the vector."""
PRIMARY_KEY = {b"lance-schema:unenforced-primary-key": b"true"}
"""Makes Lance detect that two concurrent commits insert the same id, and retry the later one;
without it both rows would stay. A primary key cannot be null."""


@dataclass(frozen=True)
class Record:
    """One row: an item's payload and its raw vector. Its fields are the columns of the table."""

    id: str
    hash: str
    signature: str
    parts: str
    blobs: list[bytes]
    metadata: str
    vector: Float[np.ndarray, " hidden"] = field(default_factory=lambda: np.empty(0, np.float32))
    """Empty until the item is embedded."""
    words: str = ""
    """The text that lexical search reads."""

    @property
    def nbytes(self) -> int:
        """Bytes of its payload and vector, but for a few short columns."""
        blobs = sum(map(len, self.blobs))
        texts = len(self.parts) + len(self.metadata) + len(self.words)
        return texts + blobs + self.vector.nbytes


def record_schema(dimension: int, metadata: dict[bytes, bytes]) -> pa.Schema:
    """The Arrow schema of `Record` with vectors of `dimension` float32 values."""
    vector = pa.list_(pa.float32(), dimension)
    types = {name: ARROW.get(hint, vector) for name, hint in get_type_hints(Record).items()}
    key = pa.field("id", types.pop("id"), nullable=False, metadata=PRIMARY_KEY)
    return pa.schema([key, *(pa.field(name, type) for name, type in types.items())], metadata)


def record_of(item: Item) -> Record:
    """The row of an item, without its vector. An item without an id gets one from its content.
    Raises BadItem for media that cannot be read."""
    packed = pack(item)
    hash = content_hash(item, packed)
    id = item.id if item.id is not None else id_from(hash)
    return Record(id, hash, item.signature, *with_place(item, packed), words=item.text)


class Packed(NamedTuple):
    """The content and metadata of an item as columns of a store."""

    parts: str
    """JSON list of the parts; media in memory are numbers of blobs."""
    blobs: list[bytes]
    metadata: str


UNPACKED = ("id", *Packed._fields)
"""The columns that `unpack` reads."""


def pack(item: Item) -> Packed:
    """The columns of an item. Raises BadItem for media that cannot be read."""
    parts, blobs = [], []
    for number, part in enumerate(item.parts):
        if part.kind == "text":
            parts.append({"kind": "text", "text": part.value})
        elif isinstance(part.value, Path):
            parts.append({"kind": part.kind, "path": str(part.value.absolute())})
        elif isinstance(part.value, str) and part.value.startswith(WEB):
            parts.append({"kind": part.kind, "url": part.value})
        else:
            with bad_item_on_error(item.name, label_media(item.parts)[number]):
                format, blob = _to_bytes(part)
            parts.append({"kind": part.kind, "format": format, "blob": len(blobs)})
            blobs.append(blob)
    return Packed(json.dumps(parts, ensure_ascii=False), blobs, encode_metadata(item.metadata))


def unpack(id: str, parts: str, blobs: Sequence[bytes], metadata: str) -> Item:
    """The item that `pack` was given, with PIL images for pictures and arrays for frames and
    samples."""
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


def content_hash(item: Item, packed: Packed) -> str:
    """SHA-256 over all content and metadata, the bytes of referenced files included. Raises BadItem
    when such a file is gone."""
    digest = hashlib.sha256(packed.parts.encode())
    for blob in packed.blobs:
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
    digest.update(packed.metadata.encode())
    return digest.hexdigest()


def id_from(hash: str) -> str:
    """The id of an item that was given none, from its content hash."""
    return hash[:16]


def content_id(item: Item) -> str:
    """The id of an item that was given none: the same content is the same item. Raises BadItem."""
    return id_from(content_hash(item, pack(item)))


def with_place(item: Item, packed: Packed) -> Packed:
    """The columns with where the item was read from. A place is no content, so it is not hashed.

    Parts get the source. Metadata of an item that is named by its place get `file` and `folder`,
    such as `docs/cats/a.txt` and `docs/cats`, unless the item has metadata of those names.
    """
    if item.source is None:
        return packed
    parts, metadata = [*json.loads(packed.parts), {"source": item.source}], packed.metadata
    if item.id is not None and by_place(item.id, item.source):
        file = file_of(item.id)
        place = {"file": file, "folder": str(PurePosixPath(file).parent)}
        metadata = encode_metadata({**place, **item.metadata})
    return Packed(json.dumps(parts, ensure_ascii=False), packed.blobs, metadata)


def source_of(parts: str) -> str | None:
    """The source in packed parts, or None."""
    *_, last = json.loads(parts)
    return last.get("source")


def text_of(parts: str) -> str:
    """The text of packed parts, equal to `Item.text`."""
    return "\n".join(part["text"] for part in json.loads(parts) if "text" in part)


def source_condition(places: Sequence[str]) -> str:
    """SQL condition on packed parts: the item was read from one of these places, or below it."""
    written = [json.dumps({"source": place}, ensure_ascii=False)[:-2] for place in places]
    quoted = ["'" + text.replace("'", "''") + "'" for text in written]
    return " OR ".join(f"contains(parts, {text})" for text in quoted) or "false"


def by_place(id: str, source: str | None) -> bool:
    """Whether an id is the place of its item, and not a name that a user has given."""
    return source is not None and source.endswith(f"/{id}")


def file_of(place: str) -> str:
    """The file of a row or page, whose place ends with `:` and a number."""
    return re.sub(r":\d+$", "", place)


def encode_metadata(metadata: Mapping[str, Any]) -> str:
    """Metadata of an item, which holds JSON values only, as JSON."""
    return json.dumps(metadata, sort_keys=True, ensure_ascii=False)


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


def _from_bytes(kind: str, format: str, blob: bytes) -> Any:
    if format == "file":
        return blob
    if format == "png":
        return Image.open(io.BytesIO(blob))
    with np.load(io.BytesIO(blob), allow_pickle=False) as arrays:
        if kind == "video":
            return arrays["frames"]
        return {"array": arrays["array"], "sampling_rate": int(arrays["sampling_rate"])}
