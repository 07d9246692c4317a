"""Images, video and audio of an item, read and handed to the model's own processor."""

from pathlib import Path
from typing import Any

from PIL import Image

from probes.errors import BadItem
from probes.items import Part


def load_media(
    processor: Any, text: str, media: list[Part], name: str, add_special_tokens: bool
) -> dict[str, Any]:
    """The processor's outputs for rendered text and its media, in order.

    Raises BadItem, naming the item.
    """
    images = [load_image(part.value, name) for part in media if part.kind == "image"]
    others = [part.kind for part in media if part.kind != "image"]
    if others:
        raise BadItem(f"{name}: {others[0]} content cannot be read yet; give images or text")
    # Nested: a flat list means one image a row to some processors.
    outputs = processor(
        text=[text],
        images=[images],
        return_tensors="pt",
        text_kwargs={"add_special_tokens": add_special_tokens},
    )
    return dict(outputs)


def load_image(value: Any, name: str) -> Image.Image:
    """A PIL image or a path as an RGB image. Raises BadItem when it cannot be read."""
    try:
        image = Image.open(value) if isinstance(value, Path) else value
        return image.convert("RGB")
    except (OSError, AttributeError, ValueError) as error:
        raise BadItem(f"{name}: cannot read the image: {error}") from None
