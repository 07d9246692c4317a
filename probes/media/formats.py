"""Detect the kind of content of a file or of bytes.

Files are recognised by their ending: pictures by every ending that the installed Pillow decodes,
texts by the endings of prose. Bytes without a name are recognised by their magic number.
"""

import functools
import io
from pathlib import PurePath
from typing import Literal

from PIL import Image, ImageFile

from probes.media.silence import silence

Modality = Literal["text", "image", "video", "audio"]
MODALITIES: tuple[Modality, ...] = ("text", "image", "video", "audio")

ENDINGS: dict[Modality, tuple[str, ...]] = {
    "text": (".txt", ".text", ".md", ".markdown", ".rst", ".adoc", ".org", ".log"),
    "video": (
        ".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp",
        ".ogv", ".mts", ".m2ts",
    ),
    "audio": (
        ".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".wma",
    ),
}  # fmt: skip
"""Endings of every kind except pictures, whose endings are Pillow's."""
NEEDS = {".heic": "pillow-heif", ".heif": "pillow-heif", ".hif": "pillow-heif", ".pdf": "pypdfium2"}
"""Formats that need an optional package: pip install 'freeret[formats]'."""
NOT_DECODED = ("MPEG", "EPS")
"""Formats that Pillow recognises but does not decode: films, and programs for Ghostscript."""


@functools.cache
def picture_endings() -> frozenset[str]:
    """Endings of all decodable picture formats; HEIC is one where pillow-heif is installed."""
    Image.init()
    try:
        import pillow_heif

        pillow_heif.register_heif_opener()
    except ImportError:
        pass
    endings = Image.registered_extensions().items()
    return frozenset(ending for ending, format in endings if _decodes(format))


def _decodes(format: str) -> bool:
    if format == "MPO":  # opened by Pillow's JPEG reader
        return True
    if format not in Image.OPEN or format in NOT_DECODED:
        return False
    reader = Image.OPEN[format][0]
    return not (isinstance(reader, type) and issubclass(reader, ImageFile.StubImageFile))


def kind_of(name: str | PurePath) -> Modality | None:
    """The kind of a file by its ending, case-insensitively; None for an unknown ending."""
    ending = PurePath(name).suffix.lower()
    for kind, endings in ENDINGS.items():
        if ending in endings:
            return kind
    return "image" if ending in picture_endings() else None


def known_endings() -> str:
    """All known endings, for messages."""
    others = [ending for endings in ENDINGS.values() for ending in endings]
    return " ".join([*others, *sorted(picture_endings())])


def kind_of_bytes(content: bytes) -> Modality | None:
    """The kind of media by its first bytes; None where they are not recognised."""
    container = _container(content[:64])
    if container is not None:
        return container
    picture_endings()  # registers all readers
    formats = [format for format in Image.OPEN if _accepts(format, content[:16])]
    try:
        with silence():
            if formats:
                Image.open(io.BytesIO(content), formats=formats).close()
    except Image.DecompressionBombError:  # the reader checks its limits
        return "image"
    except Exception:  # decoders raise errors of every type
        return "image" if content.startswith(PICTURES) else None
    return "image" if formats else None


def _accepts(format: str, prefix: bytes) -> bool:
    """Whether a decoder recognises the first bytes; decoders without such a check never do."""
    accept = Image.OPEN[format][1]
    try:
        return accept is not None and _decodes(format) and accept(prefix) is True
    except Exception:  # fewer bytes than its header
        return False


PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")
"""Magic numbers that identify a picture even if the rest is damaged."""


def _container(head: bytes) -> Modality | None:
    """The kind of a video or audio file by the magic number of its container."""
    if head.startswith(b"RIFF"):
        kinds: dict[bytes, Modality] = {b"WAVE": "audio", b"AVI ": "video"}
        return kinds.get(head[8:12])
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
            return None  # left to Pillow
        return "audio" if brand in (b"M4A ", b"M4B ") else "video"
    if head.startswith(b"OggS"):
        return "video" if b"theora" in head else "audio"
    sounds = (b"fLaC", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\xff\xf1", b"\xff\xf9")
    if head.startswith(sounds) or (head.startswith(b"FORM") and head[8:12] in (b"AIFF", b"AIFC")):
        return "audio"
    films = (b"\x1aE\xdf\xa3", b"FLV\x01", b"\x00\x00\x01\xba")
    return "video" if head.startswith(films) else None
