"""The commands on a store: `freeret index`, `freeret search`, `freeret answer`, `freeret info`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from freeret import preflight
from freeret.cli.options import (
    AS_USUAL,
    Actors,
    Address,
    Count,
    Engine,
    Model,
    Moved,
    Positive,
    RecipeName,
    Settings,
)
from freeret.cli.output import print_lines, print_table, say
from probes.errors import BadSetting
from probes.loading import Loading

if TYPE_CHECKING:
    from freeret.ann import Recall
    from freeret.retriever import FreeRet


def register(app: App) -> None:
    """Put the commands of this file on the app."""
    app.command(index)
    app.command(search)
    app.command(answer)
    app.command(info)


def index(
    *paths: str,
    store: str,
    model: Model = "smollm2-135m",
    recipe: RecipeName = "auto",
    text_field: str = "text",
    id_field: str = "id",
    image_field: str | None = None,
    video_field: str | None = None,
    audio_field: str | None = None,
    metadata_field: list[str] | None = None,
    task: str | None = None,
    skip_bad: bool = False,
    prune: bool = False,
    shards: str | None = None,
    engine: Engine = "local",
    num_actors: Actors = None,
    address: Address = None,
    ann: Literal["hnsw", "pq"] | None = None,
    loading: Settings = AS_USUAL,
) -> None:
    """Embed files into a store; run it again to add, to replace what changed, or to resume.

    A store keeps the recipe that it was made with, unless --recipe names another. The model is
    loaded as it was for the first items, where no option says otherwise.

    Args:
        paths: Files and folders of texts, tables (.jsonl, .csv, .tsv, .parquet) and media, on this
            machine or at a URL (s3://, gs://, abfs://, file:///). Without any, the geometry of an
            existing store is fitted again.
        store: Folder or object-store URL of the store.
        text_field: Column of a table that holds the text.
        id_field: Column that holds the id.
        image_field: Column that holds a picture: its path beside the table, or its bytes.
        video_field: Column that holds a video, in the same way as --image-field.
        audio_field: Column that holds a sound, in the same way as --image-field.
        metadata_field: Column that becomes metadata; may be given several times. By default all
            columns that hold no content do.
        task: What the store will be searched for (same meaning, question, caption, …, or a sentence
            of your own): the task prior of a recipe with the control prompt.
        skip_bad: Report items that cannot be read, and go on with the others.
        prune: Remove what came from these files and folders before and is no longer in them.
        shards: Index only part k of n, written k/n, while other processes index the other parts.
            When all are done, fit the geometry with `freeret index --store STORE`.
        ann: Build an approximate index over everything stored.
    """
    preflight.check_engine(engine, num_actors, address)
    preflight.check_writable(store)
    preflight.check_recipe(recipe)
    if not paths and not preflight.store_exists(store):
        raise BadSetting("name at least one file or folder to index")
    from freeret.cli.output import printable
    from freeret.sharding import Shard
    from freeret.sources import Files, said

    if shards is not None:
        Shard.parse(shards)
    items = Files(
        paths,
        text_field,
        id_field,
        image_field=image_field,
        video_field=video_field,
        audio_field=audio_field,
        metadata_fields=metadata_field,
    )
    replace(items, keep_bad=skip_bad).listing()  # raises BadItem before a model is loaded
    from freeret.opening import Opening
    from freeret.reports import named_recipe

    opening = Opening(store, model, loading, named_recipe(recipe), task)
    how: Any = {"on_error": "skip" if skip_bad else "raise", "prune": prune, "shards": shards}
    if engine == "ray":
        from freeret.ray_engine import index_without_weights

        how |= {"num_actors": num_actors, "address": address}
        done, recall = index_without_weights(opening, items, ann=ann, progress=True, **how)
    else:
        retriever = opening.retriever()
        done = retriever.index(items, store, **how)
        recall = retriever.build_ann(ann) if ann else None
    say(
        f"{store}: {done.added} added, {done.replaced} replaced, {done.unchanged} unchanged, "
        f"{len(done.skipped)} skipped" + (f", {done.pruned} pruned" if prune else "")
    )
    if done.passed_over:
        say(printable(f"Files {said(done.passed_over)}"))
    if recall is not None:
        _print_recall(recall)


def search(
    store: str,
    query: str = "",
    /,
    *,
    image: Path | None = None,
    top_n: Positive = 50,
    rerank: Count = 0,
    ann: bool = False,
    task: str | None = None,
    memory: Annotated[float, Parameter(validator=Number(gte=0))] = 4.0,
    json: bool = False,
    trec: str | None = None,
    html: Path | None = None,
    open: bool = False,
    model: Moved = None,
    loading: Settings = AS_USUAL,
) -> None:
    """Search a store by a text, a picture or both.

    The model is loaded as it was for indexing, where no option says otherwise.

    Args:
        store: Folder or object-store URL of the store.
        query: The text to search with.
        image: File of a picture to search with.
        top_n: Number of hits to show.
        rerank: Number of first hits that the model judges again.
        ann: Score only what the approximate index proposes.
        task: What is searched for (same meaning, question, caption, …, or a sentence of your own),
            where the store's prompt states a task.
        memory: GiB that the vectors may take in memory; a larger store is read block by block.
        json: Print one JSON object per hit (JSON Lines).
        trec: Print the hits as lines of a TREC run with this run tag.
        html: File for a page that shows the hits with their pictures, in place of the table.
        open: Show that page in the browser; without --html it is a temporary file.
    """
    preflight.check_store(store)
    if not query.strip() and image is None:
        raise BadSetting("nothing to search with: give a text, --image FILE, or both")
    if image is not None and not image.is_file():
        raise BadSetting(f"there is no picture at {image}")
    from freeret.cli.output import as_json, as_trec, printable, summary
    from probes import Item

    asked = Item(query or None, images=[image] if image else [], id="query")
    retriever = _open(store, model, loading, memory)
    hits = retriever.search(asked, top_n=top_n, rerank=rerank, ann=ann, task=task)
    if json:
        print_lines(as_json(hit) for hit in hits)
    elif trec:
        print_lines(as_trec("q", hits, trec))
    elif html or open:
        from freeret.pages.hits import show_page

        page = show_page(retriever, [asked], [hits], html, browse=open)
        say(printable(f"The hits are on the page {page}"))
    else:
        rows = [[f"{hit.score:.3f}", hit.id, summary(hit.item)[:300]] for hit in hits]
        print_table(summary(asked), ["score", "id", "content"], rows)


def answer(
    store: str,
    question: str,
    /,
    *,
    top_n: Positive = 5,
    rerank: Count = 0,
    model: Moved = None,
    loading: Settings = AS_USUAL,
) -> None:
    """Answer a question from what the store holds, naming the sources.

    The model is loaded as it was for indexing, where no option says otherwise.

    Args:
        store: Folder or object-store URL of the store.
        question: The question in words.
        top_n: Number of hits that the model reads.
        rerank: Number of first hits that the model judges again before it reads.
    """
    preflight.check_store(store)
    if not question.strip():
        raise BadSetting("the question is empty")
    from freeret.cli.output import printable, summary

    found = _open(store, model, loading).answer(question, top_n=top_n, rerank=rerank)
    say(found.text)
    for number, hit in enumerate(found.sources, start=1):
        say(printable(f"[{number}] {hit.id}: {summary(hit.item)[:200]}"))


def info(store: str, /, *, measure_recall: bool = False) -> None:
    """Say what a store holds and what made it.

    Args:
        store: Folder or object-store URL of the store.
        measure_recall: Compare the first hits of the approximate index with the exact ones.
    """
    preflight.check_store(store)
    from freeret import ann
    from freeret.cli.output import store_facts
    from freeret.store import Store

    opened = Store.open(store)
    print_table(f"Store {store}", ["", ""], store_facts(opened))
    for n in (10, 100) if measure_recall else ():
        _print_recall(ann.measure_recall(opened, n))


def _open(store: str, model: str | None, loading: Loading, memory: float = 4.0) -> "FreeRet":
    from freeret.retriever import FreeRet

    return FreeRet.load(store, model, loading=loading, progress=True, memory=memory)


def _print_recall(found: "Recall") -> None:
    say(
        f"recall@{found.n} of the approximate index: {found.recall:.3f} "
        f"({found.queries} documents as queries, against exact search)"
    )
