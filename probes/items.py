"""Item: any mix of text, images, video and audio, kept in order.

Accepted wherever an item is expected: a str (always text, never guessed to be a path), a PIL
image, a `pathlib.Path` to a text or media file, a dict with `text`/`image`/`video`/`audio`
(values may be lists), one chat message or a list of them, or an Item. Media values are read by
`probes.media` when the item is encoded.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from probes.errors import BadItem

Kind = Literal["text", "image", "video", "audio"]
KINDS: tuple[Kind, ...] = ("text", "image", "video", "audio")
SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "text": (".txt", ".md"),
    "image": (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    "video": (".mp4", ".mkv", ".webm", ".mov", ".avi"),
    "audio": (".wav", ".mp3", ".flac", ".ogg", ".m4a"),
}


@dataclass(frozen=True)
class Part:
    """One piece of an item: its kind and its content (a str, a PIL image, frames, samples, …)."""

    kind: Kind
    value: Any = field(repr=False)


@dataclass(frozen=True, init=False)
class Item:
    """What is embedded, stored and judged.

    `Item("a text")`, `Item(text="…", images=[pil])`, or `Item(parts=[…])` for interleaved
    content. Media given by keyword come before the text. Raises BadItem when there is no content
    or when the text is not valid Unicode.
    """

    parts: tuple[Part, ...]
    id: str | None
    metadata: Mapping[str, Any]

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
    ):
        if parts is None:
            media: tuple[tuple[Kind, Sequence[Any]], ...] = (
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
        object.__setattr__(self, "parts", tuple(parts))
        object.__setattr__(self, "id", id)
        object.__setattr__(self, "metadata", dict(metadata or {}))
        self._validate()

    def _validate(self) -> None:
        if self.id is not None:
            check_text(self.id, self.name)
        for part in self.parts:
            if part.kind not in KINDS:
                raise BadItem(f"{self.name}: unknown kind {part.kind!r}; use one of {KINDS}")
            if part.kind == "text":
                check_text(part.value, self.name)
        if not self.media and not self.text.strip():
            raise BadItem(f"{self.name} has no content: give it some text or media")

    def __hash__(self) -> int:
        """Equal items hash alike; media and metadata, which may be mutable, are left out."""
        return hash((self.id, self.text, *(part.kind for part in self.parts)))

    @property
    def name(self) -> str:
        """How messages call this item."""
        return f"item {self.id!r}" if self.id is not None else "item without id"

    @property
    def text(self) -> str:
        """All text parts, one a line."""
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
        return Item(parts=self.parts, id=id, metadata=self.metadata)


def check_text(text: Any, name: str) -> None:
    """Raise BadItem unless `text` is a str that can be written as UTF-8."""
    if not isinstance(text, str):
        raise BadItem(f"{name}: text must be a str, not {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadItem(
            f"{name}: text is not valid Unicode at character {error.start} "
            f"({error.reason}); repair it with text.encode('utf-8', 'replace')"
        ) from None


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
        return Item(parts=[_part_from_path(value, name)], id=id or str(value))
    if isinstance(value, Mapping):
        return _from_mapping(value, id, name)
    if isinstance(value, list) and value and all(_is_message(m) for m in value):
        parts = [part for message in value for part in _message_parts(message, name)]
        return Item(parts=parts, id=id)
    raise BadItem(
        f"{name}: cannot read a {type(value).__name__}; give a str, a PIL image, a pathlib.Path, "
        "a dict with text/image/video/audio, chat messages or an Item"
    )


def as_items(values: Any) -> list[Item]:
    """Read a list of items of any mix of forms; a lone item is a list of one."""
    if isinstance(values, str | Item | Image.Image | Path | Mapping):
        return [as_item(values)]
    if not isinstance(values, Iterable) or isinstance(values, bytes):
        raise BadItem(f"cannot read a {type(values).__name__} as items; give a list of them")
    return [as_item(value) for value in values]


def _from_mapping(value: Mapping, id: str | None, name: str) -> Item:
    if _is_message(value):
        return Item(parts=_message_parts(value, name), id=id)
    if id is None and value.get("id") is not None:
        name = f"item {value['id']!r}"
    if not isinstance(value.get("metadata", {}), Mapping | type(None)):
        raise BadItem(f"{name}: metadata must be a dict, not {type(value['metadata']).__name__}")
    unknown = set(value) - {*KINDS, "id", "metadata"}
    if unknown or not any(kind in value for kind in KINDS):
        raise BadItem(
            f"{name}: a dict needs at least one of the keys {', '.join(KINDS)}"
            + (
                f" and cannot have {', '.join(map(repr, sorted(map(str, unknown))))}"
                if unknown
                else ""
            )
        )
    own_id = value.get("id", id)
    parts = [
        Part(kind, content)
        for kind in ("image", "video", "audio", "text")
        for content in _as_list(value.get(kind), kind)
    ]
    return Item(
        parts=parts, id=None if own_id is None else str(own_id), metadata=value.get("metadata")
    )


def _as_list(value: Any, kind: Kind) -> list:
    if value is None:
        return []
    if not isinstance(value, list | tuple) or (kind == "video" and _are_frames(value)):
        return [value]
    return list(value)


def _are_frames(values: Sequence[Any]) -> bool:
    """Whether a list is one video, frame by frame, and not several videos."""
    return bool(values) and all(
        isinstance(value, Image.Image) or getattr(value, "ndim", None) == 3 for value in values
    )


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and "role" in value and "content" in value


def _message_parts(message: Mapping, name: str) -> list[Part]:
    content: Any = message["content"]
    if isinstance(content, str):
        return [Part("text", content)]
    if not isinstance(content, list | tuple):
        content = [None]  # refused below
    parts = []
    for piece in content:
        kind = piece.get("type") if isinstance(piece, Mapping) else None
        if kind not in KINDS or kind not in piece:
            raise BadItem(
                f"{name}: message content must be a list of pieces like "
                '{"type": "text", "text": "…"} or {"type": "image", "image": …}'
            )
        parts.append(Part(kind, piece[kind]))
    return parts


def _part_from_path(path: Path, name: str) -> Part:
    suffix = path.suffix.lower()
    for kind, suffixes in SUFFIXES.items():
        if suffix in suffixes:
            if not path.is_file():
                raise BadItem(f"{name}: there is no file {path}")
            if kind != "text":
                return Part(kind, path)
            try:
                return Part("text", path.read_text(encoding="utf-8"))
            except UnicodeDecodeError:
                raise BadItem(f"{name}: {path} is not UTF-8 text") from None
    known = " ".join(s for suffixes in SUFFIXES.values() for s in suffixes)
    raise BadItem(f"{name}: cannot tell what {path} is; known endings: {known}")
