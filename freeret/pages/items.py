"""Items and hits prepared for the macros of `items.html`: texts and thumbnails."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from freeret.pages.thumbnails import FRAME_SIDE, NAMES, PICTURE_SIDE, data_uri, thumbnails
from probes import Item
from probes.errors import BadItem
from probes.items import Part

if TYPE_CHECKING:
    from freeret.hits import Hit

MAX_CHARACTERS = 1000
"""Characters of a text that a page shows."""


@dataclass(frozen=True)
class Medium:
    """A picture, film strip, clip or sound on a page."""

    frames: list[str]
    """Data URIs in order; none for a sound, nor for a medium that cannot be read."""
    caption: str
    strip: bool = False
    """Whether the frames stand side by side in a film strip."""


@dataclass(frozen=True)
class ItemCard:
    """An item on a page."""

    text: str
    media: list[Medium]


@dataclass(frozen=True)
class HitCard:
    """A hit on a page, and its item with thumbnails."""

    rank: int
    hit: "Hit"
    item: ItemCard


def item_card(item: Item, side: int = PICTURE_SIDE) -> ItemCard:
    """An item with thumbnails, whose longest side is `side` pixels. Several pictures stand in one
    film strip, as the frames of a clip do. Media that are no longer readable are named in their
    place."""
    text = item.text
    if len(text) > MAX_CHARACTERS:
        text = f"{text[:MAX_CHARACTERS]} … ({len(text):,} characters)"
    several = len(item.media) > 1 and all(part.kind == "image" for part in item.media)
    side = min(side, FRAME_SIDE) if several else side
    media = [_medium(part, item.name, side) for part in item.media]
    if several and all(medium.frames for medium in media):
        frames = [frame for medium in media for frame in medium.frames]
        media = [Medium(frames, f"film strip, {len(frames)} pictures", strip=True)]
    return ItemCard(text, media)


def hit_cards(hits: "Iterable[Hit]", side: int = PICTURE_SIDE) -> list[HitCard]:
    """Hits with their ranks, counted from 1."""
    return [HitCard(rank, hit, item_card(hit.item, side)) for rank, hit in enumerate(hits, start=1)]


def _medium(part: Part, name: str, side: int) -> Medium:
    file = f" {part.value.name}" if isinstance(part.value, Path) else ""
    caption = f"{NAMES[part.kind]}{file}"
    if part.kind == "audio":
        return Medium([], caption)
    try:
        files, count = thumbnails(part, name, side)
    except BadItem:
        return Medium([], f"{caption}: no longer readable")
    frames = [data_uri(file, "webp") for file in files]
    if part.kind == "image":
        return Medium(frames, caption)
    return Medium(frames, f"{caption}, {len(frames)} of {count} frames", strip=True)
