"""Item: any mix of text, images, video and audio, kept in order.

Accepted wherever an item is expected: a str (always text, never guessed to be a path), a PIL
image, a `pathlib.Path` to a text or media file, the bytes of a media file (also as a bytearray, an
open file or `{"bytes": …, "path": …}`), an array of whole pixels, a dict with `text`, `image`,
`video` or `audio`, one chat message or a list of them, or an Item. Media values are read by
`probes.media.sources` when the item is encoded.

In a dict the order of the keys is the order of the content. Lists pair up by position:
`{"text": [a, b], "image": [p, q]}` is a, p, b, q; a value that is no list stands once, at its key.
`id` and `metadata` say what they are, and any other key becomes metadata.
"""

import contextlib
import io
import itertools
import math
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from probes.errors import BadItem
from probes.files import open_text, undecoded
from probes.media.formats import MODALITIES, NEEDS, Modality, kind_of, kind_of_bytes, known_endings
from probes.metadata import as_metadata


@dataclass(frozen=True)
class Part:
    """One piece of an item: its kind and its content (a str, a PIL image, frames, samples, …)."""

    kind: Modality
    value: Any = field(repr=False)

    def __str__(self) -> str:
        """Its text, or what stands for it on a line: its kind, with the file or the address."""
        if self.kind == "text":
            return self.value
        address = isinstance(self.value, str) and self.value.startswith("http")
        where = f" {self.value}" if address or isinstance(self.value, Path) else ""
        return f"[{self.kind}{where}]"


@dataclass(frozen=True, init=False)
class Item:
    """What is embedded, stored and judged.

    `Item("a text")`, `Item(text="…", images=[pil])`, or `Item(parts=[…])` for interleaved
    content. Media given by keyword come before the text. Raises BadItem when there is no content
    or when the text is not valid Unicode. Metadata is kept as JSON values (`probes.metadata`).
    """

    parts: tuple[Part, ...]
    id: str | None
    metadata: Mapping[str, Any]
    source: str | None = field(compare=False)
    """The file that it was read from: a whole path or a URL, of a row with `:` and its line."""

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
        object.__setattr__(self, "parts", tuple(map(_plain, parts)))
        object.__setattr__(self, "id", id)
        object.__setattr__(self, "metadata", as_metadata(metadata or {}))
        object.__setattr__(self, "source", source)
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
        """Its id and what kinds of content it has; the content itself may be long or private."""
        id = "" if self.id is None else f"{self.id!r}, "
        return f"Item({id}{', '.join(part.kind for part in self.parts)})"

    def __str__(self) -> str:
        """All of it on one line: its texts, and what stands for its media."""
        return " ".join(" ".join(map(str, self.parts)).split())

    def __hash__(self) -> int:
        """Equal items hash alike; media and metadata, which may be mutable, are left out."""
        return hash((self.id, self.text, *(part.kind for part in self.parts)))

    @property
    def name(self) -> str:
        """How messages call this item."""
        return f"item {self.id!r}" if self.id is not None else "item without id"

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
        """The modality mix, such as `text`, `image` or `image+text`; geometry is fitted per one."""
        return "+".join(sorted({part.kind for part in self.parts}))

    def with_id(self, id: str) -> "Item":
        """The same content under another id."""
        return Item(parts=self.parts, id=id, metadata=self.metadata, source=self.source)


def check_text(text: Any, name: str, id: str | None = None) -> None:
    """Raise BadItem unless `text` is a str that can be written as UTF-8."""
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
    """An id as text, however it is written: 1, 1.0, "1" and b"1" are one id.

    None, NaN and nothing at all are no id. Raises BadItem for what is neither text nor a whole
    number.
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


def as_item(value: Any, id: str | None = None) -> Item:
    """Read one item from any accepted form. Raises BadItem, naming the item, for anything else.

    A stream may hold a BadItem in place of what could not be read; it is raised here.
    """
    if isinstance(value, BadItem):
        raise value
    name = f"item {id!r}" if id is not None else "item without id"
    if isinstance(value, Item):
        return value if id is None or value.id is not None else value.with_id(id)
    if isinstance(value, str):
        return Item(value, id=id)
    if isinstance(value, Image.Image):
        return Item(images=[value], id=id)
    if isinstance(value, Path):
        part = _part_from_path(value, name, id)
        return Item(parts=[part], id=id or str(value), source=whole_path(value))
    if _is_struct(value) or isinstance(value, BYTES):
        return Item(parts=[_part_from_bytes(value, name, id)], id=id)
    if isinstance(value, Mapping):
        return _from_mapping(value, id)
    if _is_array(value):
        return Item(parts=[_part_from_array(value, name, id)], id=id)
    if isinstance(value, list) and value and all(_is_message(m) for m in value):
        parts = [part for message in value for part in _message_parts(message, name, id)]
        return Item(parts=parts, id=id)
    raise BadItem(
        f"{name}: cannot read a {type(value).__name__}; give a str, a PIL image, a pathlib.Path, "
        "bytes of media, a dict with text/image/video/audio, chat messages or an Item",
        id,
    )


def as_items(values: Any) -> list[Item]:
    """Read a list of items of any mix of forms; a lone item is a list of one."""
    return [as_item(value) for value in several(values)]


BYTES = bytes | bytearray | memoryview | io.BufferedIOBase


def several(values: Any) -> Iterable[Any]:
    """What was given where several items are expected: a lone item in any form is a list of one,
    never its characters, bytes or rows. Raises BadItem for what is neither."""
    lone = str | Item | Image.Image | Path | Mapping | BYTES | BadItem
    if isinstance(values, lone) or (_is_array(values) and values.ndim > 1):
        return [values]
    if hasattr(values, "iloc") and hasattr(values, "columns"):
        raise BadItem("a data frame is read as rows: give frame.to_dict('records')")
    if not isinstance(values, Iterable):
        raise BadItem(f"cannot read a {type(values).__name__} as items; give a list of them")
    return values


def _from_mapping(value: Mapping, id: str | None) -> Item:
    id = id if (given := as_id(value.get("id"))) is None else given
    name = f"item {id!r}" if id is not None else "item without id"
    if _is_message(value):
        return Item(parts=_message_parts(value, name, id), id=id)
    metadata = value.get("metadata")
    if not isinstance(metadata, Mapping | None):
        raise BadItem(f"{name}: metadata must be a dict, not {type(metadata).__name__}", id)
    if not any(kind in value for kind in MODALITIES):
        raise BadItem(f"{name}: a dict needs at least one of the keys {', '.join(MODALITIES)}", id)
    rest = {key: v for key, v in value.items() if key not in (*MODALITIES, "id", "metadata")}
    content: dict[Any, Any] = {key: value[key] for key in value if key in MODALITIES}
    return Item(parts=in_order(content, name, id), id=id, metadata={**rest, **(metadata or {})})


def in_order(content: Mapping[Modality, Any], name: str, id: str | None) -> list[Part]:
    """Parts of `kind: value or values`: kinds in the order given, lists paired up by position.

    Raises BadItem for lists that are not of one length.
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
            "a single value that is no list, or chat messages",
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
    """Whether a list is one video, frame by frame, and not several videos."""
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
    """From the root, without `..`; links are kept, for they are names that someone has given."""
    return os.path.abspath(path)  # noqa: PTH100 (Path.resolve follows links)


def _is_struct(value: Any) -> bool:
    """Whether it is a media file as the library `datasets` hands it over."""
    return isinstance(value, Mapping) and bool(value) and set(value) <= {"bytes", "path"}


def _plain(part: Part) -> Part:
    """The part with its value as bytes or a path where it holds an open file or a struct."""
    value = part.value
    if isinstance(value, io.BytesIO):
        return Part(part.kind, value.getvalue())
    if isinstance(value, io.BufferedIOBase):
        return Part(part.kind, value.read())
    if _is_struct(value):
        content, path = value.get("bytes"), value.get("path")
        return Part(part.kind, content if content is not None or path is None else Path(path))
    return part


def _part_from_bytes(value: Any, name: str, id: str | None) -> Part:
    value = _plain(Part("image", value)).value
    if value is None:
        raise BadItem(f"{name}: neither bytes nor a path are given", id)
    if isinstance(value, Path):
        return _part_from_path(value, name, id)
    kind = kind_of_bytes(bytes(value))
    if kind is None:
        raise BadItem(
            f"{name}: cannot tell what {type(value).__name__} that begin with "
            f"{bytes(value[:8])!r} are; give "
            'a str for text, or say what it is: {"image": …}, {"video": …}, {"audio": …}',
            id,
        )
    return Part(kind, bytes(value))


def _is_array(value: Any) -> bool:
    """Whether it is an array of NumPy or a tensor of PyTorch, which need not be imported here."""
    return all(hasattr(value, name) for name in ("dtype", "ndim", "shape"))


def _part_from_array(value: Any, name: str, id: str | None) -> Part:
    """Whole pixels of 8 bits are a picture, or frames where there is one dimension more; any other
    array could be anything."""
    if str(value.dtype) in ("uint8", "torch.uint8"):
        if value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (1, 3, 4)):
            return Part("image", value)
        if value.ndim == 4 and value.shape[3] == 3:
            return Part("video", value)
    raise BadItem(
        f"{name}: an array of {value.dtype} and shape {tuple(value.shape)} may be anything; a "
        'picture is uint8 [height, width, channels], or say what it is: {"image": …}',
        id,
    )


def _part_from_path(path: Path, name: str, id: str | None) -> Part:
    kind, ending = kind_of(path), path.suffix.lower()
    if kind is None and ending in NEEDS:
        needed = NEEDS[ending]
        raise BadItem(f"{name}: {path} needs {needed}: pip install 'freeret[formats]'", id)
    if kind is None:
        raise BadItem(f"{name}: cannot tell what {path} is; known endings: {known_endings()}", id)
    try:
        if not path.is_file():
            raise BadItem(f"{name}: there is no file {path}", id)
        if kind != "text":
            return Part(kind, path)
        with path.open("rb") as file:
            return text_part(file, f"{name}: {path}", id)
    except OSError as error:
        raise BadItem(f"{name}: cannot read {path}: {error.strerror}", id) from None


def text_part(file: Any, name: str, id: str | None) -> Part:
    """The whole text of an open binary file. Raises BadItem when it is not text, OSError."""
    try:
        with open_text(file, newline=None) as lines:
            text = lines.read()
        wrong = undecoded(text)
    except UnicodeDecodeError as error:  # of UTF-16 that is cut
        text, wrong = "", str(error)
    if wrong:
        raise BadItem(f"{name} is not UTF-8 text: {wrong}", id)
    return Part("text", text)
