"""The demo's page: searches, recipe, curve and figures in one self-contained HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from freeret.demo.searches import SHOWN, Search, Searches
from freeret.pages.items import Medium, Shown, show_item
from freeret.pages.render import render
from freeret.pages.thumbnails import data_uri
from probes import Item
from probes.files import write_atomic

EXAMPLES = 3
"""Searches of each kind that the page shows."""


@dataclass(frozen=True)
class Table:
    """A titled table of text, and how to read it."""

    title: str
    explanation: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Page:
    """The page so far; the demo adds to it, and writes it again after every step."""

    model: str
    recipe: str
    """One sentence."""
    reasons: Sequence[str]
    to_come: list[str]
    """Steps that are not on the page yet."""
    examples: list[Searches] = field(default_factory=list)
    """One search each; they stand first."""
    curve: Path | None = None
    """A PNG."""
    turn: str = ""
    """What the curve shows, in a sentence."""
    probe: str = ""
    """Where the probe report is, from the page."""
    tables: list[Table] = field(default_factory=list)
    galleries: list[Searches] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Replace the file in one step. All content is escaped."""
        content = {
            **vars(self),
            "title": f"FreeRet with {self.model}",
            "folder": path.parent,
            "shown": SHOWN,
            "examples": [_gallery(searches) for searches in self.examples],
            "curve": self.curve and data_uri(self.curve.read_bytes(), "png"),
            "galleries": [_gallery(searches) for searches in self.galleries],
        }
        write_atomic(path, render("demo/page.html", **content))


def _gallery(searches: Searches) -> tuple[str, list[dict[str, Any]]]:
    return searches.title, [_search(search) for search in searches.searches[:EXAMPLES]]


def _search(search: Search) -> dict[str, Any]:
    """The first hits, and the right answer with its rank where it is not among them."""
    hits = [
        {"item": _shown(hit.item), "score": hit.score, "right": hit.id == search.right.id}
        for hit in search.hits[:SHOWN]
    ]
    missed = None if any(hit["right"] for hit in hits) else _shown(search.right)
    return {"query": _shown(search.query), "hits": hits, "missed": missed, "rank": search.rank}


def _shown(item: Item) -> Shown:
    """An item as macros show it: several pictures are a clip, and stand in one strip."""
    shown = show_item(item)
    if len(shown.media) < 2:
        return shown
    frames = [frame for medium in shown.media for frame in medium.frames]
    return replace(shown, media=[Medium("video", frames, f"clip, {len(frames)} frames")])
