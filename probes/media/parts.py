"""Part: one piece of an item, a text or a medium, and how each is told from a bare value.

Media values are only recognised here; `probes.media.sources` opens them when the item is encoded.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probes.errors import BadItem
from probes.files import open_text, undecoded
from probes.media.formats import NEEDS, Modality, kind_of, kind_of_bytes, known_endings

BYTES = bytes | bytearray | memoryview | io.BufferedIOBase
"""Types that hold the bytes of a media file."""


@dataclass(frozen=True)
class Part:
    """A text, picture, video or audio of an item; its value in any form that is accepted."""

    kind: Modality
    value: Any = field(repr=False)

    def __str__(self) -> str:
        """The text, or a placeholder for a medium: its kind, with its file or address."""
        if self.kind == "text":
            return self.value
        address = isinstance(self.value, str) and self.value.startswith("http")
        where = f" {self.value}" if address or isinstance(self.value, Path) else ""
        return f"[{self.kind}{where}]"


def is_struct(value: Any) -> bool:
    """Whether it is a media file in the form of the library `datasets`."""
    return isinstance(value, Mapping) and bool(value) and set(value) <= {"bytes", "path"}


def plain(part: Part) -> Part:
    """The part with its value as bytes or a path where it holds an open file or a struct."""
    value = part.value
    if isinstance(value, io.BytesIO):
        return Part(part.kind, value.getvalue())
    if isinstance(value, io.BufferedIOBase):
        return Part(part.kind, value.read())
    if is_struct(value):
        content, path = value.get("bytes"), value.get("path")
        return Part(part.kind, content if content is not None or path is None else Path(path))
    return part


def part_from_bytes(value: Any, name: str, id: str | None) -> Part:
    """A medium whose kind its first bytes tell. Raises BadItem where they do not."""
    value = plain(Part("image", value)).value
    if value is None:
        raise BadItem(f"{name}: neither bytes nor a path are given", id)
    if isinstance(value, Path):
        return part_from_path(value, name, id)
    kind = kind_of_bytes(bytes(value))
    if kind is None:
        raise BadItem(
            f"{name}: cannot tell what {type(value).__name__} that begin with "
            f"{bytes(value[:8])!r} are; give "
            'a str for text, or say what it is: {"image": …}, {"video": …}, {"audio": …}',
            id,
        )
    return Part(kind, bytes(value))


def is_array(value: Any) -> bool:
    """Whether it is an array of NumPy or a tensor of PyTorch, which need not be imported here."""
    return all(hasattr(value, name) for name in ("dtype", "ndim", "shape"))


def part_from_array(value: Any, name: str, id: str | None) -> Part:
    """A picture of 8-bit pixels, or a video where there is one dimension more. Raises BadItem for
    any other array, which could be anything."""
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


def part_from_path(path: Path, name: str, id: str | None) -> Part:
    """A text file as its text, a media file as its path. Raises BadItem, which names the file."""
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
    """The text of an open binary file. Raises BadItem where it is not UTF-8 text, and OSError."""
    try:
        with open_text(file, newline=None) as lines:
            text = lines.read()
        wrong = undecoded(text)
    except UnicodeDecodeError as error:  # truncated UTF-16
        text, wrong = "", str(error)
    if wrong:
        raise BadItem(f"{name} is not UTF-8 text: {wrong}", id)
    return Part("text", text)
