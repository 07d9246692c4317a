"""The commands that search: `freeret search` and `answer` a store, `demo` built-in items."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from freeret import preflight
from freeret.cli.options import (
    AS_STORED,
    AS_USUAL,
    USUAL_SEARCH,
    ImageField,
    Memory,
    Model,
    Positive,
    Reopened,
    Searching,
    Settings,
    Task,
)
from freeret.cli.output import (
    as_json,
    as_trec,
    note_why_no_items,
    print_lines,
    print_table,
    printable,
    resumable,
    say,
    summary,
    this_command,
)
from freeret.search import MEMORY
from probes.embedded import SEEING
from probes.errors import BadSetting, StoreError
from probes.model.locate import check_model

if TYPE_CHECKING:
    from freeret.hits import Hits
    from probes import Item

TITLE, CONTENT, SOURCE = 200, 300, 200
"""Most characters of a query above its table, of an item in it, and of an answer's source."""


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
    top_n: Positive = 10,
    searching: Searching = USUAL_SEARCH,
    ann: bool = False,
    task: Task = None,
    memory: Memory = MEMORY,
    json: bool = False,
    trec: str | None = None,
    html: Path | None = None,
    open: bool = False,
    stored: Reopened = AS_STORED,
) -> None:
    """Search a store by a text, a picture or both, or by many queries from a file.

    The model is loaded with the settings used for indexing, unless overridden.

    Args:
        store: Folder or object-store URL of the store.
        query: The text to search with.
        image: File of a picture to search with.
        queries: File of many queries, which are answered in one pass over the store: a table
            (.jsonl, .csv, .tsv, .parquet), or a .txt with a query per line.
        text_field: Column of a table of queries that holds the text.
        id_field: Column that holds the id of a query; defaults to the line number.
        top_n: Number of hits to show.
        ann: Score only what the approximate index proposes; with --filter a search is exact.
        json: Print one JSON object per hit (JSON Lines), with query and query_text for a file.
        trec: Print the hits as lines of a TREC run with this run tag.
        html: File for a page that shows the hits with their pictures, in place of the table.
        open: Show that page in the browser; without --html it is a temporary file.
    """
    preflight.check_store(store)
    items = _read_queries(query, image, queries, text_field, id_field, image_field)
    arguments = searching.arguments()
    if html is not None:
        preflight.check_writable(html.parent)
    retriever = stored.open(store, memory)
    hits = retriever.search_many(items, top_n=top_n, ann=ann, task=task, **arguments)
    if not any(hits):
        from freeret.store.filters import Selection

        selection = Selection.of(arguments["filter"], arguments["kinds"])
        note_why_no_items(retriever.corpus.store, selection)
    if html or open:
        from freeret.pages.hits import show_page

        say(printable(f"Wrote {show_page(retriever, items, hits, html, browse=open)}"))
    elif json:
        for item, ranked in zip(items, hits, strict=True):
            print_lines(as_json(hit, item if queries else None) for hit in ranked)
    elif trec:
        ids = [item.id or "" for item in items] if queries else ["q"]
        print_lines(as_trec(dict(zip(ids, hits, strict=True)), trec))
    else:
        for item, ranked in zip(items, hits, strict=True):
            _print_hits(item, ranked)


def _print_hits(query: "Item", hits: "Hits") -> None:
    title = summary(query, TITLE)
    if not hits:
        say(f"{title}: no hits")
        return
    columns = ["score", "id", "content"]
    rows = [[f"{hit.score:.3f}", hit.id, summary(hit.item, CONTENT)] for hit in hits]
    if any(hit.legs for hit in hits):
        columns.append("found by")
        rows = [[*row, str(hit.legs or "")] for row, hit in zip(rows, hits, strict=True)]
    print_table(title, columns, rows)


def answer(
    store: str,
    question: str,
    /,
    *,
    top_n: Positive = 5,
    searching: Searching = USUAL_SEARCH,
    task: Task = None,
    stored: Reopened = AS_STORED,
) -> None:
    """Answer a question from what the store holds, naming the sources.

    The model is loaded with the settings used for indexing, unless overridden.

    Args:
        store: Folder or object-store URL of the store.
        question: The question in words.
        top_n: Number of hits that the model reads.
    """
    preflight.check_store(store)
    if not question.strip():
        raise BadSetting("the question is empty")
    arguments = searching.arguments()
    retriever = stored.open(store)
    try:
        made = retriever.answer(question, top_n=top_n, task=task, **arguments)
    except StoreError as error:
        from freeret.store.filters import Selection
        from freeret.store.hints import why_no_items

        selection = Selection.of(arguments["filter"], arguments["kinds"])
        reason = why_no_items(retriever.corpus.store, selection)
        raise StoreError(f"{error}{f' ({reason})' if reason else ''}") from None
    say(made.text)
    for number, hit in enumerate(made.sources, start=1):
        say(printable(f"[{number}] {hit.id}: {summary(hit.item, SOURCE)}"))


def demo(
    *, model: Model = SEEING, out: Path = Path("out/demo"), loading: Settings = AS_USUAL
) -> None:
    """Search built-in passages, pictures and clips, and write a page that explains the results.

    The first result comes within seconds. Run an interrupted demo again to resume. A backbone whose
    weights have no probe report yet is probed first.

    Args:
        out: Folder for everything that is written; open its index.html.
    """
    preflight.check_writable(out)
    check_model(model, loading)
    say(f"Loading {model}")
    from freeret.demo.run import Demo
    from freeret.reports import report_of
    from probes import Backbone

    with resumable(lambda: f"what was embedded is stored in {out}"):
        backbone = Backbone.load(model, loading)
        page = Demo(backbone, report_of(backbone), out, this_command()).run()
    search = f'{this_command()} search {shlex.quote(str(out / "store"))} "a question"'
    say(f"\nOpen {page} in a browser, or search again: {search}")


def _read_queries(
    query: str,
    image: Path | None,
    queries: Path | None,
    text_field: str,
    id_field: str,
    image_field: str | None,
) -> "list[Item]":
    """The queries; those of a file have an id.

    Raises:
        BadSetting: There is no query, the picture is not there, or there are a query and a file.
    """
    if queries is not None:
        if query.strip() or image is not None:
            raise BadSetting("give a query or --queries FILE, not both")
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

    text, images = query if query.strip() else None, [image] if image else []
    return [Item(text, images=images, place="the query")]
