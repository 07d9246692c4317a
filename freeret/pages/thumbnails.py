"""Pictures and frames of clips, small, as data URIs that a page carries in itself."""

import base64
import io
from contextlib import nullcontext

from PIL import Image

from probes import Item
from probes.images import read_image
from probes.items import Part
from probes.media import MediaOptions, open_source, reading
from probes.videos import read_video

SIZE = 160
"""Longest side of a thumbnail, pixels."""
OPTIONS = MediaOptions(frames=4)
"""Four frames of a clip are shown."""


def thumbnails(item: Item) -> list[list[str]]:
    """A data URI for each picture of an item, and several for each clip.

    Args:
        item: Any item; its texts and sounds have no thumbnails.

    Returns:
        A list for each picture (one URI) and each clip (its frames in order).

    Raises:
        BadItem: A picture or clip cannot be read.
    """
    seen = [part for part in item.media if part.kind in ("image", "video")]
    return [[_thumbnail(frame) for frame in _frames(part, item.name)] for part in seen]


def data_uri(data: bytes, kind: str) -> str:
    """Bytes of a picture as a data URI; `kind` is the subtype, such as png."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _frames(part: Part, name: str) -> list[Image.Image]:
    with (
        reading(name, part.kind),
        open_source(part.value, OPTIONS) or nullcontext() as source,
    ):
        content = part.value if source is None else source
        if part.kind == "image":
            return [read_image(content, OPTIONS.limits)]
        clip = read_video(content, OPTIONS.frames, OPTIONS.limits)
        return [Image.fromarray(frame) for frame in clip.frames]


def _thumbnail(picture: Image.Image) -> str:
    small = picture.convert("RGB")
    small.thumbnail((SIZE, SIZE))
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=80)
    return data_uri(buffer.getvalue(), "webp")
