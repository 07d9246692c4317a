"""Item: any mix of text, images, video and audio, kept in order.

Accepted wherever an item is expected: a str (always text, never guessed to be a path), a PIL
image, a `pathlib.Path` to a text or media file, the bytes of a media file (also as a bytearray, an
open file or `{"bytes": …, "path": …}`), an array of 8-bit pixels, a dict with `text`, `image`,
`video` or `audio`, one chat message or a list of them, or an Item. Media values are read by
`probes.media.sources` when the item is encoded.

In a dict the order of the keys is the order of the content. Lists pair up by position:
`{"text": [a, b], "image": [p, q]}` is a, p, b, q; a value that is not a list stands once, at its
key. The keys `id` and `metadata` are those of the item, and any other key becomes metadata.
"""

import contextlib
import copy
import itertools
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from probes.errors import BadItem
from probes.media.formats import MODALITIES, Modality
from probes.media.parts import (
    BYTES,
    Part,
    is_array,
    is_struct,
    part_from_array,
    part_from_bytes,
    part_from_path,
    plain,
)
from probes.metadata import as_metadata


@dataclass(frozen=True, init=False)
class Item:
    """A document, query or candidate: content of any kinds in order, with an id and metadata.

    `Item("a text")`, `Item(text="…", images=[pil])`, or `Item(parts=[…])` for interleaved content.

    Args:
        text: The text; it comes after the media.
        images: Pictures, in any form that `probes.media.sources` reads.
        videos: Videos.
        audios: Audio.
        parts: All of the content in order, in place of the arguments before.
        id: Name of the item in stores, results and messages.
        metadata: Kept as JSON values (`probes.metadata`).
        source: The file that it was read from.

    Raises:
        BadItem: There is no content, or a text is not valid Unicode.
    """

    parts: tuple[Part, ...]
    id: str | None
    metadata: Mapping[str, Any]
    source: str | None = field(compare=False)
    """An absolute path or a URL; for a row of a table, followed by `:` and its line."""
    place: str | None = field(compare=False)
    """What messages call an item without id, such as `item 3 of the list`."""

    def __init__(
        self,
        text: str | None = None,
        images: Sequence[Any] = (),
        videos: Sequence[Any] = (),
        audios: Sequence[Any] = (),
        *,
        parts: Iterable[Part] | None = None,
        id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        source: str | None = None,
        place: str | None = None,
    ):
        if parts is None:
            media: tuple[tuple[Modality, Sequence[Any]], ...] = (
                ("image", images),
                ("video", videos),
                ("audio", audios),
            )
            for kind, values in media:
                if not isinstance(values, list | tuple):
                    raise BadItem(
                        f"{kind}s= takes a list, not a {type(values).__name__}: {kind}s=[…]"
                    )
            parts = [Part(kind, value) for kind, values in media for value in values]
            parts += [Part("text", text)] if text is not None else []
        object.__setattr__(
            self, "parts", tuple(part if part.kind == "text" else plain(part) for part in parts)
        )
        object.__setattr__(self, "id", id)
        object.__setattr__(self, "metadata", as_metadata(metadata or {}))
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "place", place)
        self._validate()

    def _validate(self) -> None:
        if self.id is not None:
            check_text(self.id, self.name, self.id)
        for part in self.parts:
            if part.kind not in MODALITIES:
                raise BadItem(
                    f"{self.name}: unknown kind {part.kind!r}; use one of {MODALITIES}", self.id
                )
            if part.kind == "text":
                check_text(part.value, self.name, self.id)
        if not self.media and not self.text.strip():
            raise BadItem(f"{self.name} has no content: give it some text or media", self.id)

    def __repr__(self) -> str:
        """Its id and the kinds of its content; the content itself may be long or private."""
        id = "" if self.id is None else f"{self.id!r}, "
        return f"Item({id}{', '.join(part.kind for part in self.parts)})"

    def __str__(self) -> str:
        """Its texts on one line, with a placeholder for each medium."""
        return " ".join(" ".join(map(str, self.parts)).split())

    def __hash__(self) -> int:
        """Equal items hash alike; media and metadata, which may be mutable, are left out."""
        return hash((self.id, self.text, *(part.kind for part in self.parts)))

    @property
    def name(self) -> str:
        """What messages call this item."""
        return name_of(self.id, self.place)

    @property
    def text(self) -> str:
        """All text parts, one per line."""
        return "\n".join(part.value for part in self.parts if part.kind == "text")

    @property
    def media(self) -> tuple[Part, ...]:
        """All parts that are not text, in order."""
        return tuple(part for part in self.parts if part.kind != "text")

    @property
    def signature(self) -> str:
        """The kinds of its content, such as `text` or `image+text`; each signature has a geometry
        of its own."""
        return "+".join(sorted({part.kind for part in self.parts}))

    def with_id(self, id: str) -> "Item":
        """The same content under another id."""
        return Item(parts=self.parts, id=id, metadata=self.metadata, source=self.source)


def name_of(id: str | None, place: str | None) -> str:
    """What messages call an item: by its id, else by its place."""
    return f"item {id!r}" if id is not None else place or "the item"


def check_text(text: Any, name: str, id: str | None = None) -> None:
    """Raise BadItem unless `text` is a str that UTF-8 can encode."""
    if not isinstance(text, str):
        raise BadItem(f"{name}: text must be a str, not {type(text).__name__}", id)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadItem(
            f"{name}: text is not valid Unicode at character {error.start} "
            f"({error.reason}); repair it with text.encode('utf-8', 'replace')",
            id,
        ) from None


def as_id(value: Any) -> str | None:
    """An id as text, however it is written: 1, 1.0, "1" and b"1" are the same id.

    None, NaN and empty text are no id. Raises BadItem for any other value that is neither text nor
    a whole number.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value in ("", b"") or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str | uuid.UUID):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            pass
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):  # NaN and infinity
            if value == int(value):
                return str(int(value))
    raise BadItem(f"an id must be text or a whole number, not {str(value)[:50]!r}", str(value)[:50])


def as_item(value: Any, id: str | None = None, place: str | None = None) -> Item:
    """Read one item from any accepted form.

    Args:
        value: The item. A stream may hold a BadItem in place of an item that could not be read; it
            is raised here.
        id: The id of an item that brings none.
        place: What messages call an item without id.

    Raises:
        BadItem: It cannot be read as an item; the message names it.
    """
    if isinstance(value, BadItem):
        raise value
    name = name_of(id, place)
    if isinstance(value, Item):
        value = value if id is None or value.id is not None else value.with_id(id)
        if place is None or value.id is not None or value.place is not None:
            return value
        return _placed(value, place)
    if isinstance(value, str):
        return Item(value, id=id, place=place)
    if isinstance(value, Image.Image):
        return Item(images=[value], id=id, place=place)
    if isinstance(value, Path):
        part = part_from_path(value, name, id)
        return Item(parts=[part], id=id or str(value), source=whole_path(value))
    if is_struct(value) or isinstance(value, BYTES):
        return Item(parts=[part_from_bytes(value, name, id)], id=id, place=place)
    if isinstance(value, Mapping):
        return _from_mapping(value, id, place)
    if is_array(value):
        return Item(parts=[part_from_array(value, name, id)], id=id, place=place)
    if isinstance(value, list) and value and all(_is_message(m) for m in value):
        parts = [part for message in value for part in _message_parts(message, name, id)]
        return Item(parts=parts, id=id, place=place)
    raise BadItem(
        f"{name}: cannot read a value of type {type(value).__name__}; give a str, a PIL image, a "
        "pathlib.Path, bytes of media, a dict with text/image/video/audio, chat messages or an "
        "Item",
        id,
    )


def _placed(item: Item, place: str) -> Item:
    """A copy that messages call by its place."""
    copied = copy.copy(item)
    object.__setattr__(copied, "place", place)
    return copied


def as_items(values: Any) -> list[Item]:
    """Read a list of items of any mix of forms; a lone item is a list of one."""
    return [as_item(value, place=place) for place, value in with_places(values)]


def with_places(values: Any) -> Iterator[tuple[str | None, Any]]:
    """Each of several values after its place; a lone value has none."""
    if _is_lone(values):
        yield None, values
    else:
        for i, value in enumerate(several(values)):
            yield f"item {i} of the list", value


def several(values: Any) -> Iterable[Any]:
    """Where several items are expected, read a lone item in any form as a list of one, never as
    its characters, bytes or rows. Raises BadItem for a value that is neither."""
    if _is_lone(values):
        return [values]
    if hasattr(values, "iloc") and hasattr(values, "columns"):
        raise BadItem("a data frame is read as rows: give frame.to_dict('records')")
    if not isinstance(values, Iterable):
        raise BadItem(
            f"cannot read a value of type {type(values).__name__} as items; give a list of them"
        )
    return values


def _is_lone(values: Any) -> bool:
    lone = str | Item | Image.Image | Path | Mapping | BYTES | BadItem
    return isinstance(values, lone) or (is_array(values) and values.ndim > 1)


def _from_mapping(value: Mapping, id: str | None, place: str | None) -> Item:
    id = id if (own_id := as_id(value.get("id"))) is None else own_id
    name = name_of(id, place)
    if _is_message(value):
        return Item(parts=_message_parts(value, name, id), id=id, place=place)
    metadata = value.get("metadata")
    if not isinstance(metadata, Mapping | None):
        raise BadItem(f"{name}: metadata must be a dict, not {type(metadata).__name__}", id)
    if not any(kind in value for kind in MODALITIES):
        raise BadItem(f"{name}: a dict needs at least one of the keys {', '.join(MODALITIES)}", id)
    rest = {key: v for key, v in value.items() if key not in (*MODALITIES, "id", "metadata")}
    content: dict[Any, Any] = {key: value[key] for key in value if key in MODALITIES}
    return Item(
        parts=in_order(content, name, id),
        id=id,
        metadata={**rest, **(metadata or {})},
        place=place,
    )


def in_order(content: Mapping[Modality, Any], name: str, id: str | None) -> list[Part]:
    """The parts of a dict: kinds in the order of its keys, lists paired up by position.

    Raises BadItem for lists of unequal length.
    """
    lists: dict[Modality, list[Any]] = {
        kind: list(value)
        for kind, value in content.items()
        if isinstance(value, list | tuple) and not (kind == "video" and _are_frames(value))
    }
    lists = {kind: values for kind, values in lists.items() if values}
    if len({len(values) for values in lists.values()}) > 1:
        lengths = " and ".join(f"{len(values)} of {kind}" for kind, values in lists.items())
        raise BadItem(
            f"{name}: lists pair up by position, and here are {lengths}; give lists of one length, "
            "a single value that is not a list, or chat messages",
            id,
        )
    pairs = [[Part(kind, v) for kind, v in zip(lists, row, strict=True)]
             for row in zip(*lists.values(), strict=True)]  # fmt: skip
    parts: list[Part] = []
    for kind, value in content.items():
        if kind in lists:
            parts += itertools.chain.from_iterable(pairs)
            pairs = []
        elif value is not None and not (isinstance(value, list | tuple) and not value):
            parts.append(Part(kind, value))
    return parts


def _are_frames(values: Sequence[Any]) -> bool:
    """Whether a list holds the frames of one video, rather than several videos."""
    return bool(values) and all(
        isinstance(value, Image.Image) or getattr(value, "ndim", None) == 3 for value in values
    )


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and "role" in value and "content" in value


def _message_parts(message: Mapping, name: str, id: str | None) -> list[Part]:
    content: Any = message["content"]
    if isinstance(content, str):
        return [Part("text", content)]
    if not isinstance(content, list | tuple):
        content = [None]  # refused below
    parts = []
    for piece in content:
        kind = piece.get("type") if isinstance(piece, Mapping) else None
        if kind not in MODALITIES or kind not in piece:
            raise BadItem(
                f"{name}: message content must be a list of pieces like "
                '{"type": "text", "text": "…"} or {"type": "image", "image": …}',
                id,
            )
        parts.append(Part(kind, piece[kind]))
    return parts


def whole_path(path: Path) -> str:
    """The absolute path without `..`. Links are kept: they are names that someone has given."""
    return os.path.abspath(path)  # noqa: PTH100 (Path.resolve follows links)
