"""The demo's page: curves, recipe and searches with their hits, in one self-contained HTML file."""

import base64
import io
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from PIL import Image

from freeret.retriever import Hit
from probes import Item
from probes.files import write_atomic
from probes.images import read_image
from probes.items import Part
from probes.media import MediaOptions, open_source, reading
from probes.videos import read_video

SIZE = 160
"""Longest side of a thumbnail, pixels."""
OPTIONS = MediaOptions(frames=4)
"""Four frames of a clip are shown."""


@dataclass(frozen=True)
class Search:
    """One query with its hits; `right` are the ids that answer it."""

    query: Item
    hits: Sequence[Hit]
    right: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Gallery:
    """Searches of one kind under a title."""

    title: str
    searches: Sequence[Search]


@dataclass(frozen=True)
class Table:
    """A titled table of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_page(
    path: Path,
    title: str,
    reasons: Sequence[str],
    figures: Sequence[tuple[str, Path]],
    tables: Sequence[Table],
    galleries: Sequence[Gallery],
) -> None:
    """Write the page; `figures` are captions with PNG files. All content is escaped."""
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        (files("freeret") / "data" / "gallery.html").read_text(encoding="utf-8")
    )
    write_atomic(
        path,
        page.render(
            title=title,
            reasons=reasons,
            figures=[(caption, _uri(file.read_bytes(), "png")) for caption, file in figures],
            tables=tables,
            galleries=[
                {"title": g.title, "searches": [_search(s) for s in g.searches]} for g in galleries
            ],
        ),
    )


def _search(search: Search) -> dict[str, Any]:
    hits = [
        {"item": _item(hit.item), "score": hit.score, "right": hit.id in search.right}
        for hit in search.hits
    ]
    return {"query": _item(search.query), "hits": hits}


def _item(item: Item) -> dict[str, Any]:
    """An item's text, and for each picture or clip its thumbnails as data URIs."""
    seen = [part for part in item.media if part.kind in ("image", "video")]
    return {
        "text": item.text,
        "media": [[_thumbnail(frame) for frame in _frames(p, item.name)] for p in seen],
    }


def _frames(part: Part, name: str) -> list[Image.Image]:
    """A picture, or some frames of a clip. Raises BadItem, naming the item."""
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
    return _uri(buffer.getvalue(), "webp")


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
