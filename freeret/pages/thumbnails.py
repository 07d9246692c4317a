"""Pictures and frames of clips, small, as data URIs that a page carries in itself."""

import base64
import io

from PIL import Image

from probes.items import Part
from probes.media.images import read_image
from probes.media.sources import MediaOptions, opened
from probes.media.videos import read_video

SIZE = 320
"""Longest side of a picture, pixels: sharp at half of that on a phone's screen."""
FRAME_SIZE = 160
"""Longest side of a clip's frame."""
OPTIONS = MediaOptions(frames=4)
"""Four frames of a clip are shown."""


def thumbnails(part: Part, name: str) -> tuple[list[str], int]:
    """A picture, or frames of a clip, made small.

    Args:
        part: A picture or a clip.
        name: How an error calls its item.

    Returns:
        Data URIs in order, and how many frames there are in all.

    Raises:
        BadItem: It cannot be read.
    """
    with opened(part, OPTIONS, name) as source:
        if part.kind == "image":
            return [_thumbnail(read_image(source, OPTIONS.limits), SIZE)], 1
        clip = read_video(source, OPTIONS.frames, OPTIONS.limits)
        frames = [Image.fromarray(frame) for frame in clip.frames]
        return [_thumbnail(frame, FRAME_SIZE) for frame in frames], clip.count


def data_uri(data: bytes, kind: str) -> str:
    """Bytes of a picture as a data URI; `kind` is the subtype, such as png."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _thumbnail(picture: Image.Image, size: int) -> str:
    small = picture.convert("RGB")
    small.thumbnail((size, size))
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=80)
    return data_uri(buffer.getvalue(), "webp")
