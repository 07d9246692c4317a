"""The commands that fill and maintain a store: `index`, `fit`, `delete`, `export`, `info`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from freeret import preflight
from freeret.cli.options import (
    AS_USUAL,
    USUAL_COLUMNS,
    Actors,
    Address,
    ColumnNames,
    EngineName,
    Filters,
    Moved,
    RecipeName,
    Settings,
    skip_bad_hint,
)
from freeret.cli.output import note, note_why_no_items, print_table, printable, resumable, say
from freeret.search import Index
from probes.embedded import SEEING
from probes.errors import BadItem, BadSetting

if TYPE_CHECKING:
    from freeret.search.ann import Recall
    from freeret.store.indexing import Indexed

Ann = Annotated[
    Index | None,
    Parameter(help="Build an approximate index of this kind over everything stored."),
]


def index(
    *paths: str,
    store: str,
    model: str | None = None,
    recipe: RecipeName = "auto",
    columns: ColumnNames = USUAL_COLUMNS,
    metadata_field: list[str] | None = None,
    task: str | None = None,
    passage: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    skip_bad: bool = False,
    prune: bool = False,
    shards: str | None = None,
    engine: EngineName = "local",
    num_actors: Actors = None,
    address: Address = None,
    ann: Ann = None,
    loading: Settings = AS_USUAL,
) -> None:
    """Embed files into a store; run it again to add, to replace what changed, or to resume.

    A store keeps the recipe that it was made with, unless --recipe names another. The model is
    loaded with the settings of the first run, unless options say otherwise.

    Args:
        paths: Files and folders of texts, tables (.jsonl, .csv, .tsv, .parquet) and media, on this
            machine or at a URL (s3://, gs://, abfs://, file:///).
        store: Folder or object-store URL of the store.
        model: Alias of an embedded backbone (see `freeret models`), a model folder, or a hub id;
            by default that of the store. For a new store it is smollm2-135m, or smolsight where
            pictures or clips are among the files.
        metadata_field: Column that becomes metadata; may be given several times. By default all
            columns that hold no content do.
        task: What the store will be searched for (same meaning, question, caption, …, or a sentence
            of your own). Needs a recipe with the control prompt.
        passage: Read long texts in passages of about this many words, such as 50, and average their
            vectors: a text is still one item. By default they are read whole.
        skip_bad: Report items that cannot be read, and continue with the others.
        prune: Delete stored items of these files and folders whose file or row no longer exists.
        shards: Index only part k of n, written k/n, while other processes index the other parts.
            When all are done, run `freeret fit STORE`.
    """
    preflight.check_engine(engine, num_actors, address)
    preflight.check_writable(store)
    preflight.check_recipe(recipe)
    if not paths:
        raise BadSetting(
            "name at least one file or folder to index; `freeret fit STORE` fits the geometry of "
            "a store, and builds its approximate index, without adding to it"
        )
    from freeret.sources.sharding import Shard

    if shards is not None:
        Shard.parse(shards)
    listing = columns.listing(paths, skip_bad=skip_bad, metadata_field=metadata_field)
    from freeret.reports import named_recipe
    from freeret.scale.opening import Opening, model_for
    from freeret.store.table import Store

    named = model_for(store, model, listing)
    if model is None and named == SEEING and not Store.exists(store):
        note(f"{SEEING} reads the pictures: everyday things, roughly. --model names a better one")
    opening = Opening(store, named, loading, named_recipe(recipe), task, passage)
    how: Any = {"on_error": "skip" if skip_bad else "raise", "prune": prune, "shards": shards}
    with skip_bad_hint(skip_bad), resumable(lambda: _count(store)):
        if engine == "ray":
            from freeret.scale.ray import Cluster, index_without_weights

            done, recall = index_without_weights(
                opening, listing, Cluster(num_actors, address), ann=ann, progress=True, **how
            )
            _print_indexed(done, store, paths, prune)
        else:
            from freeret.retriever import FreeRet

            retriever = FreeRet(*opening.load(), progress=True)
            _print_indexed(retriever.index(listing, store, **how), store, paths, prune)
            recall = retriever.build_ann(ann) if ann else None
    if recall is not None:
        _print_recall(recall)


def _print_indexed(done: "Indexed", store: str, paths: Sequence[str], prune: bool) -> None:
    from freeret.sources.files import passed_over_in_words

    say(
        f"{store}: {done.added} added, {done.replaced} replaced, {done.unchanged} unchanged, "
        f"{len(done.skipped)} skipped" + (f", {done.pruned} pruned" if prune else "")
    )
    if done.passed_over:
        say(printable(passed_over_in_words(done.passed_over)))
    if done.gone:
        items_are = "stored item is" if done.gone == 1 else "stored items are"
        it = "it" if done.gone == 1 else "them"
        where = ", ".join(paths)
        say(printable(f"{done.gone} {items_are} no longer in {where}: --prune removes {it}"))


def fit(
    store: str,
    /,
    *,
    recipe: RecipeName = "auto",
    model: Moved = None,
    ann: Ann = None,
    loading: Settings = AS_USUAL,
) -> None:
    """Fit the geometry of a store on everything in it, once all shards are indexed.

    `freeret index` does this itself, except for a shard. The store's files are compacted too.
    --recipe may change the geometry or the frame; another prompt or site needs a new store.

    Args:
        store: Folder or object-store URL of the store.
    """
    preflight.check_store(store)
    preflight.check_recipe(recipe)
    from freeret.reports import named_recipe
    from freeret.retriever import FreeRet
    from freeret.scale.opening import Opening, model_for

    if ann is not None:
        from freeret.search.ann import check_size
        from freeret.store.table import Store

        check_size(Store.open(store))
    opening = Opening(store, model_for(store, model), loading, named_recipe(recipe))
    retriever = FreeRet(*opening.load(), progress=True)
    retriever.index([], store)
    geometry = retriever.recipe.geometry
    if geometry == "none":
        say(f"{store}: the recipe uses plain cosines; nothing to fit")
    else:
        say(f"{store}: the geometry ({geometry}) is fitted on {len(retriever)} items")
    if ann is not None:
        _print_recall(retriever.build_ann(ann))


def delete(store: str, /, *ids: str, filter: Filters = None) -> None:
    """Delete items from a store, by their ids or by their metadata.

    The files they were read from stay; the next `freeret index` of those adds them again.

    Args:
        store: Folder or object-store URL of the store.
        ids: The ids of the items, as `freeret search` shows them.
    """
    preflight.check_store(store)
    from freeret.store.filters import Selection, parse_filter

    conditions = parse_filter(filter or ())
    if bool(ids) == bool(conditions):
        raise BadSetting("name the items to delete: by their ids, or by --filter key=value")
    from freeret.store.table import Store

    opened = Store.open(store)
    stored = opened.selected(Selection.of(conditions)) if conditions else list(opened.hashes(ids))
    if conditions and not stored:
        note_why_no_items(opened, Selection.of(conditions))
    deleted = opened.delete(sorted(stored))
    say(f"{store}: {deleted} deleted, {len(opened)} left")
    missing = [id for id in ids if id not in stored]
    if missing:
        raise BadItem(f"{store} holds no item {', '.join(map(repr, missing))}", missing[0])


def export(
    store: str,
    /,
    *,
    to: Literal["parquet", "npy"],
    out: Path,
    geometry: Literal["raw", "fitted"] = "raw",
    filter: Filters = None,
    model: Moved = None,
) -> None:
    """Write the vectors of a store, with ids, texts and metadata, to files for other programs.

    Items are written block by block in the order of the store. Files appear only when complete.

    Args:
        store: Folder or object-store URL of the store.
        to: The format: parquet is one file with a row per item; npy is a matrix of float32, with a
            JSON Lines file of ids, texts and metadata beside it, line by line.
        out: The file to write, .parquet or .npy; the JSON Lines file ends in .jsonl instead.
        geometry: Vectors as the model gave them (raw), or unit vectors in the geometry of the
            store (fitted), whose dot products are the stage-1 cosines. Where items have changed
            since, the geometry is fitted first, which loads the model.
    """
    preflight.check_store(store)
    preflight.check_writable(out.parent)
    from freeret.store.filters import Selection, parse_filter

    selection = Selection.of(parse_filter(filter or ()))
    from freeret.store.export import write_npy, write_parquet
    from freeret.store.table import Store

    write = write_parquet if to == "parquet" else write_npy
    opened = Store.open(store)
    if geometry == "fitted" and opened.geometry() is None:
        note(f"{store}: the geometry is fitted on the present items first")
        from freeret.retriever import FreeRet

        FreeRet.load(store, model, progress=True).fit()
    count, files = write(Store.open(store), out, fitted=geometry == "fitted", selection=selection)
    if not count:
        note_why_no_items(opened, selection)
    say(printable(f"{count} items in {' and '.join(map(str, files))}"))


def info(store: str, /, *, measure_recall: bool = False) -> None:
    """Show what a store holds and what made it.

    Args:
        store: Folder or object-store URL of the store.
        measure_recall: Measure recall@10 and recall@100 of the approximate index.
    """
    preflight.check_store(store)
    from freeret.cli.output import store_facts
    from freeret.search import ann
    from freeret.store.table import Store

    opened = Store.open(store)
    print_table(f"Store {store}", ["", ""], store_facts(opened))
    for n in (10, 100) if measure_recall else ():
        _print_recall(ann.measure_recall(opened, n))


def _count(store: str) -> str:
    """How many items a store holds, as a clause."""
    from freeret.store.table import Store

    count = len(Store.open(store)) if Store.exists(store) else 0
    return f"{count} {'item is' if count == 1 else 'items are'} stored"


def _print_recall(measured: "Recall") -> None:
    say(
        f"recall@{measured.n} of the approximate index: {measured.recall:.3f} "
        f"({measured.queries} documents as queries, against exact search)"
    )
