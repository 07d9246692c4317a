"""The page of a search: each query with its hits, and how they were found."""

import shlex
import sys
import tempfile
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from freeret.hits import Hit
from freeret.pages.items import hit_cards, item_card
from freeret.pages.render import render
from freeret.retriever import FreeRet
from probes import Item
from probes.files import write_atomic


def hits_page(
    retriever: FreeRet, queries: Sequence[Item], hits: Sequence[Sequence[Hit]], command: str = ""
) -> str:
    """Queries with their hits as one self-contained HTML page.

    Args:
        queries: The queries, in the order of `hits`.
        hits: A list of hits per query, as `FreeRet.search_many` returns.
        command: The command line that searched, if the page is to show it.

    Returns:
        The page. Pictures and clips that are no longer readable are named in their place.
    """
    pairs = zip(queries, hits, strict=True)
    return render(
        "pages/hits.html",
        title="Search results",
        searches=[
            {"id": q.id, "query": item_card(q), "hits": hit_cards(ranked)} for q, ranked in pairs
        ],
        recipe=retriever.recipe,
        store=retriever.store and retriever.store.location,
        model=retriever.backbone.name,
        command=command,
    )


def show_page(
    retriever: FreeRet,
    queries: Sequence[Item],
    hits: Sequence[Sequence[Hit]],
    path: Path | None = None,
    *,
    browse: bool = False,
) -> Path:
    """Write the page of a search that was made on the command line."""
    path = path or Path(tempfile.mkdtemp(prefix="freeret-"), "hits.html")
    command = shlex.join(["freeret", *sys.argv[1:]])
    write_atomic(path, hits_page(retriever, queries, hits, command))
    if browse:
        webbrowser.open(path.resolve().as_uri())
    return path
