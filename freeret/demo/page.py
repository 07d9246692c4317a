"""The demo's page: searches, recipe, curve and tables in one self-contained HTML file."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from freeret.demo.searches import SHOWN, Search, Searches
from freeret.pages.items import item_card
from freeret.pages.render import render
from freeret.pages.thumbnails import data_uri
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
    """The recipe in one sentence."""
    reasons: Sequence[str]
    to_come: list[str]
    """Steps whose results are not on the page yet."""
    command: str
    """How to call the program, such as `.venv/bin/freeret`."""
    scores: str = ""
    """What the scores are relative to, in one sentence."""
    examples: list[Searches] = field(default_factory=list)
    """One search each, at the top of the page."""
    curve: Path | None = None
    """The lexicalization curve, a PNG."""
    turn: str = ""
    """What the curve shows, in one sentence."""
    probe: str = ""
    """Path of the probe report, relative to the page."""
    tables: list[Table] = field(default_factory=list)
    galleries: list[Searches] = field(default_factory=list)
    credits: Sequence[str] = ()
    """Who made the pictures, and under which licence."""

    def write(self, path: Path) -> None:
        """Write the page atomically. All content is escaped."""
        content = {
            **vars(self),
            "title": f"FreeRet with {self.model}",
            "store": shlex.quote(str(path.parent / "store")),
            "shown": SHOWN,
            "examples": [_gallery(searches) for searches in self.examples],
            "curve": self.curve and data_uri(self.curve.read_bytes(), "png"),
            "galleries": [_gallery(searches) for searches in self.galleries],
        }
        write_atomic(path, render("demo/page.html", **content))


def _gallery(searches: Searches) -> tuple[str, list[dict[str, Any]]]:
    return searches.title, [_search(search) for search in searches.searches[:EXAMPLES]]


def _search(search: Search) -> dict[str, Any]:
    """The first hits, and the right answer with its rank if it is not among them."""
    hits = [
        {"item": item_card(hit.item), "score": hit.score, "right": hit.id == search.right.id}
        for hit in search.hits[:SHOWN]
    ]
    missed = None if any(hit["right"] for hit in hits) else item_card(search.right)
    return {"query": item_card(search.query), "hits": hits, "missed": missed, "rank": search.rank}
