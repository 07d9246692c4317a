"""The demo's page: curves, recipe and searches with their hits, in one self-contained HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freeret.pages.items import show_item
from freeret.pages.render import render
from freeret.pages.thumbnails import data_uri
from freeret.retriever import Hit
from probes import Item
from probes.files import write_atomic


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
    write_atomic(
        path,
        render(
            "demo/page.html",
            title=title,
            reasons=reasons,
            figures=[(caption, data_uri(file.read_bytes(), "png")) for caption, file in figures],
            tables=tables,
            galleries=[
                {"title": g.title, "searches": [_search(s) for s in g.searches]} for g in galleries
            ],
        ),
    )


def _search(search: Search) -> dict[str, Any]:
    hits = [
        {"item": show_item(hit.item), "score": hit.score, "right": hit.id in search.right}
        for hit in search.hits
    ]
    return {"query": show_item(search.query), "hits": hits}
