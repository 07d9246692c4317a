"""Thumbnails of pictures and clips, in WEBP: for pages that carry them, and for the server."""

import base64
import io

from PIL import Image

from probes.errors import BadItem
from probes.items import Part
from probes.media.images import read_image
from probes.media.sources import MediaOptions, open_part
from probes.media.videos import read_video

NAMES = {"image": "picture", "video": "clip", "audio": "sound"}
"""What readers call a medium of each modality."""
PICTURE_SIDE = 320
"""Longest side of a picture's thumbnail, pixels: sharp at half of that on a phone's screen."""
NOTEBOOK_SIDE = 96
"""The same in a notebook, which keeps the thumbnails of all its outputs."""
FRAME_SIDE = 160
"""Longest side of a frame of a clip or film strip, pixels."""
OPTIONS = MediaOptions(frames=4)
"""Four frames of a clip are shown."""


def thumbnails(part: Part, name: str, side: int = PICTURE_SIDE) -> tuple[list[bytes], int]:
    """Make thumbnails of a picture, or of some frames of a clip.

    Args:
        name: How an error calls its item.
        side: Longest side of a picture's thumbnail, pixels; frames of a clip are at most
            FRAME_SIDE.

    Returns:
        WEBP files in order, and the number of frames of the clip; 1 for a picture.

    Raises:
        BadItem: The medium is no longer readable. The message does not say where it was.
    """
    try:
        with open_part(part, OPTIONS, name) as source:
            if part.kind == "image":
                return [_webp(read_image(source, OPTIONS.limits), side)], 1
            clip = read_video(source, OPTIONS.frames, OPTIONS.limits)
            side = min(side, FRAME_SIDE)
            return [_webp(Image.fromarray(f), side) for f in clip.frames], clip.count
    except BadItem:
        raise unreadable(part, name) from None


def unreadable(part: Part, name: str) -> BadItem:
    """The error of a medium that cannot be read any more; callers must not learn where it was."""
    return BadItem(f"the {NAMES[part.kind]} of {name} is no longer readable")


def data_uri(data: bytes, subtype: str) -> str:
    """A picture's file as a data URI; `subtype` is that of its media type, such as png."""
    return f"data:image/{subtype};base64,{base64.b64encode(data).decode()}"


def _webp(picture: Image.Image, side: int) -> bytes:
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=80)
    return buffer.getvalue()
