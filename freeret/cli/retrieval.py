"""The commands that search a store: `freeret search` and `freeret answer`."""

from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from freeret import preflight
from freeret.cli.options import (
    AS_USUAL,
    Depth,
    Filters,
    ImageField,
    Kinds,
    Memory,
    Moved,
    Positive,
    Settings,
    Task,
)
from freeret.cli.output import print_lines, print_table, printable, say
from probes.errors import BadSetting
from probes.model.loading import Loading

if TYPE_CHECKING:
    from freeret.retriever import FreeRet
    from probes import Item


def register(app: App) -> None:
    """Put the commands of this file on the app."""
    app.command(search)
    app.command(answer)


def search(
    store: str,
    query: str = "",
    /,
    *,
    image: Path | None = None,
    queries: Path | None = None,
    text_field: str = "text",
    id_field: str = "id",
    image_field: ImageField = None,
    top_n: Positive = 50,
    rerank: Depth = 0,
    filter: Filters = None,
    kind: Kinds = None,
    ann: bool = False,
    task: Task = None,
    memory: Memory = 4.0,
    json: bool = False,
    trec: str | None = None,
    html: Path | None = None,
    open: bool = False,
    model: Moved = None,
    loading: Settings = AS_USUAL,
) -> None:
    """Search a store by a text, a picture or both, or by many queries from a file.

    The model is loaded as it was for indexing, where no option says otherwise.

    Args:
        store: Folder or object-store URL of the store.
        query: The text to search with.
        image: File of a picture to search with.
        queries: File of many queries, which are searched in one pass over the store: a table
            (.jsonl, .csv, .tsv, .parquet), or a .txt with a query per line.
        text_field: Column of a table of queries that holds the text.
        id_field: Column that holds the id of a query; by default a query is called by its line.
        top_n: Number of hits to show.
        ann: Score only what the approximate index proposes; with --filter a search is exact.
        json: Print one JSON object per hit (JSON Lines); query is the id of its query in a file.
        trec: Print the hits as lines of a TREC run with this run tag.
        html: File for a page that shows the hits with their pictures, in place of the table.
        open: Show that page in the browser; without --html it is a temporary file.
    """
    preflight.check_store(store)
    asked = _asked(query, image, queries, text_field, id_field, image_field)
    from freeret.store.filters import Selection, parse_filter

    wanted = parse_filter(filter or ())
    Selection.of(wanted, kind)
    if html is not None:
        preflight.check_writable(html.parent)
    from freeret.cli.output import as_json, as_trec

    retriever = _open(store, model, loading, memory)
    found = retriever.search_many(
        asked, top_n=top_n, rerank=rerank, filter=wanted, kinds=kind, ann=ann, task=task
    )
    if html or open:
        from freeret.pages.hits import show_page

        page = show_page(retriever, asked, found, html, browse=open)
        say(printable(f"The hits are on the page {page}"))
        return
    for item, hits in zip(asked, found, strict=True):
        if json:
            print_lines(as_json(hit, item.id if queries else None) for hit in hits)
        elif trec:
            print_lines(as_trec(item.id if queries else "q", hits, trec))
        else:
            rows = [[f"{hit.score:.3f}", hit.id, str(hit.item)[:300]] for hit in hits]
            print_table(str(item), ["score", "id", "content"], rows)


def answer(
    store: str,
    question: str,
    /,
    *,
    top_n: Positive = 5,
    rerank: Depth = 0,
    filter: Filters = None,
    kind: Kinds = None,
    task: Task = None,
    model: Moved = None,
    loading: Settings = AS_USUAL,
) -> None:
    """Answer a question from what the store holds, naming the sources.

    The model is loaded as it was for indexing, where no option says otherwise.

    Args:
        store: Folder or object-store URL of the store.
        question: The question in words.
        top_n: Number of hits that the model reads.
    """
    preflight.check_store(store)
    if not question.strip():
        raise BadSetting("the question is empty")
    from freeret.store.filters import parse_filter

    wanted = parse_filter(filter or ())
    found = _open(store, model, loading).answer(
        question, top_n=top_n, rerank=rerank, filter=wanted, kinds=kind, task=task
    )
    say(found.text)
    for number, hit in enumerate(found.sources, start=1):
        say(printable(f"[{number}] {hit.id}: {str(hit.item)[:200]}"))


def _asked(
    query: str,
    image: Path | None,
    queries: Path | None,
    text_field: str,
    id_field: str,
    image_field: str | None,
) -> "list[Item]":
    """What is searched with, each with an id. Raises BadSetting for nothing, for a picture that is
    not there, and for a query beside a file of queries."""
    if queries is not None:
        if query.strip() or image is not None:
            raise BadSetting("give either a query or a file of them by --queries, not both")
        from freeret.sources.queries import read_queries

        return read_queries(
            queries, text_field=text_field, id_field=id_field, image_field=image_field
        )
    if not query.strip() and image is None:
        raise BadSetting(
            "nothing to search with: give a text, --image FILE, or both; or --queries FILE"
        )
    if image is not None and not image.is_file():
        raise BadSetting(f"there is no picture at {image}")
    from probes import Item

    return [Item(query if query.strip() else None, images=[image] if image else [], id="query")]


def _open(store: str, model: str | None, loading: Loading, memory: float = 4.0) -> "FreeRet":
    from freeret.retriever import FreeRet

    return FreeRet.load(store, model, loading=loading, progress=True, memory=memory)
