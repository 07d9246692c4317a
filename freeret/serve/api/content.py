"""Content of requests as items: strings, and content parts in the format of OpenAI and vLLM.

Pictures are data URIs. Web addresses and file URLs are refused: the server opens nothing that a
request names.
"""

from collections.abc import Mapping
from typing import Any

from probes import Item, Part
from probes.errors import BadItem

FORMS = (
    'a string, {"type": "text", "text": "…"}, {"type": "image_url", "image_url": {"url": '
    '"data:image/png;base64,…"}}, or {"content": [such parts]}'
)


def as_inputs(value: Any) -> list[Item]:
    """The items of `input`: one, or one per element of a list. Raises BadItem."""
    if not isinstance(value, list):
        return [as_content(value, "input")]
    if not value:
        raise BadItem("input is an empty list", "input")
    if all(isinstance(v, int) or (isinstance(v, list) and v) for v in value):
        raise BadItem(
            "input holds token ids, which belong to the tokenizer of another model; send text",
            "input",
        )
    return [as_content(v, f"input[{place}]") for place, v in enumerate(value)]


def as_content(value: Any, name: str) -> Item:
    """One item. Raises BadItem, which names its place in the request."""
    if isinstance(value, str):
        return Item(value, id=name)
    if isinstance(value, Mapping) and "content" in value:
        content = value["content"]
        if isinstance(content, str):
            return Item(content, id=name)
        if isinstance(content, list):
            return Item(parts=[_part(piece, name) for piece in content], id=name)
    elif isinstance(value, Mapping) and ("text" in value or "image_url" in value):
        return Item(parts=[_part(value, name)], id=name)
    raise BadItem(f"{name} has none of the accepted forms: {FORMS}", name)


def as_conversation(messages: list[Any]) -> Item:
    """The content of all messages, in order, as one item. Raises BadItem."""
    if not messages:
        raise BadItem("messages is an empty list", "messages")
    items = [as_content(message, f"messages[{i}]") for i, message in enumerate(messages)]
    return Item(parts=[part for item in items for part in item.parts], id="messages")


def picture(url: Any, name: str) -> Part:
    """A picture from a data URI. Raises BadItem for any other URL."""
    if not isinstance(url, str) or not url.startswith("data:"):
        raise BadItem(
            f"{name}: a picture is sent as a data URI (data:image/png;base64,…); the server opens "
            "no web address and no file",
            name,
        )
    return Part("image", url)


def _part(piece: Any, name: str) -> Part:
    """A content part; `type` may be omitted if the key implies it."""
    if isinstance(piece, str):
        return Part("text", piece)
    if isinstance(piece, Mapping):
        if piece.get("type") in (None, "text", "input_text") and "text" in piece:
            return Part("text", piece["text"])
        if piece.get("type") in (None, "image_url", "input_image") and "image_url" in piece:
            url = piece["image_url"]
            return picture(url.get("url") if isinstance(url, Mapping) else url, name)
    raise BadItem(f"{name} has none of the accepted forms: {FORMS}", name)
