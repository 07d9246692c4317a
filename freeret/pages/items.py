"""Items and hits as the macros of `items.html` show them: texts, thumbnails, figures in words."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freeret.pages.thumbnails import thumbnails
from probes import Item
from probes.errors import BadItem
from probes.items import Part

if TYPE_CHECKING:
    from freeret.retriever import Hit

LONGEST = 1000
"""Characters of a text that a page shows."""
NAMES = {"image": "picture", "video": "clip", "audio": "sound"}


@dataclass(frozen=True)
class Medium:
    """A picture, clip or sound on a page."""

    kind: str
    frames: list[str]
    """Data URIs in order; none of a sound, nor of what cannot be read."""
    caption: str


@dataclass(frozen=True)
class Shown:
    """An item on a page."""

    text: str
    media: list[Medium]


@dataclass(frozen=True)
class ShownHit:
    """A hit on a page, its figures in words."""

    rank: int
    id: str
    score: str
    judged: str
    """Both stages' scores; empty where the hit was not reranked."""
    metadata: dict[str, Any]
    item: Shown


def show_item(item: Item) -> Shown:
    """An item with thumbnails. Media that cannot be read are named in their place."""
    text = item.text
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} … ({len(text):,} characters)"
    return Shown(text, [_show(part, item.name) for part in item.media])


def show_hits(hits: "Iterable[Hit]") -> list[ShownHit]:
    """Hits with their ranks, counted from 1."""
    return [
        ShownHit(
            rank,
            hit.id,
            f"{hit.score:.3f}",
            "" if hit.stage2_score is None else
            f"stage 1 {hit.stage1_score:.3f}, stage 2 p(match) {hit.stage2_score:.3f}",
            dict(hit.item.metadata),
            show_item(hit.item),
        )
        for rank, hit in enumerate(hits, start=1)
    ]  # fmt: skip


def _show(part: Part, name: str) -> Medium:
    called = NAMES[part.kind]
    if part.kind == "audio":
        return Medium(part.kind, [], f"{called}{_file(part.value)}")
    try:
        frames, count = thumbnails(part, name)
    except BadItem as error:
        return Medium(part.kind, [], f"{called} not shown: {error}")
    return Medium(part.kind, frames, f"{called}, {len(frames)} of {count} frames")


def _file(value: Any) -> str:
    return f" {value.name}" if isinstance(value, Path) else ""
