"""How an item is kept: its parts as JSON, media given in memory as bytes beside it, a content hash.

Media given by path stays a reference to the file; its bytes are part of the hash, so a changed file
is a changed item.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from probes.errors import BadItem
from probes.items import Item, Part


def pack(item: Item) -> tuple[str, list[bytes]]:
    """Parts as JSON, and the bytes of those that are not text or a path."""
    parts, blobs = [], []
    for part in item.parts:
        if part.kind == "text":
            parts.append({"kind": "text", "text": part.value})
        elif isinstance(part.value, Path):
            parts.append({"kind": part.kind, "path": str(part.value)})
        elif isinstance(part.value, Image.Image):
            buffer = io.BytesIO()
            part.value.save(buffer, format="PNG")
            parts.append({"kind": part.kind, "blob": len(blobs)})
            blobs.append(buffer.getvalue())
        else:
            raise BadItem(
                f"{item.name}: {part.kind} of type {type(part.value).__name__} cannot be stored; "
                "give a path or a PIL image"
            )
    return json.dumps(parts, ensure_ascii=False), blobs


def unpack(id: str, parts: str, blobs: Sequence[bytes], metadata: str) -> Item:
    """The item that `pack` wrote."""
    restored = []
    for part in json.loads(parts):
        if "text" in part:
            value: Any = part["text"]
        elif "path" in part:
            value = Path(part["path"])
        else:
            value = Image.open(io.BytesIO(blobs[part["blob"]]))
        restored.append(Part(part["kind"], value))
    return Item(parts=restored, id=id, metadata=json.loads(metadata))


def content_hash(item: Item, parts: str, blobs: Sequence[bytes]) -> str:
    """SHA-256 over all content and metadata. Raises BadItem when a referenced file is gone."""
    digest = hashlib.sha256(parts.encode())
    for blob in blobs:
        digest.update(hashlib.sha256(blob).digest())
    for part in item.media:
        if isinstance(part.value, Path):
            try:
                digest.update(hashlib.sha256(part.value.read_bytes()).digest())
            except OSError as error:
                raise BadItem(f"{item.name}: cannot read {part.value}: {error.strerror}") from None
    digest.update(encode_metadata(item).encode())
    return digest.hexdigest()


def content_id(item: Item) -> str:
    """The id of an item that has none: the same content is the same item. Raises BadItem."""
    return content_hash(item, *pack(item))[:16]


def encode_metadata(item: Item) -> str:
    """Metadata as JSON. Raises BadItem when it has values that JSON cannot write."""
    try:
        text = json.dumps(item.metadata, sort_keys=True, ensure_ascii=False)
        text.encode("utf-8")
        return text
    except (TypeError, ValueError) as error:
        raise BadItem(f"{item.name}: metadata must be JSON values ({error})") from None
