"""The command `freeret`: probe a backbone, check it, retrieve with it."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from freeret import cli_evaluate
from probes.errors import FreeRetError

if TYPE_CHECKING:
    from freeret.ann import Recall
    from freeret.retriever import FreeRet

app = App(
    name="freeret",
    help="Look inside a language model, then retrieve with the same untouched weights.",
)
cli_evaluate.register(app)
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)

Model = Annotated[
    str,
    Parameter(help="Alias of an embedded default (smollm2-135m), a model folder, or a hub id."),
]


@app.command
def probe(model: Model, /, *, out: Path = Path("out"), seed: int = 0) -> None:
    """Measure where a backbone lexicalizes and how its labels are biased.

    Parameters
    ----------
    out: Folder for report.json, recipe.json, summary.md and the figures (PNG and SVG).
    seed: Seed of the bootstrap intervals.
    """
    from freeret.probing import probe_into
    from probes import Backbone

    backbone = Backbone.load(model)
    out.mkdir(parents=True, exist_ok=True)  # an impossible place is known before the work
    _, recipe = probe_into(backbone, out, seed)
    _print_recipe(recipe.reasons)
    console.print(f"Report, recipe, summary and figures are in {out}", markup=False, soft_wrap=True)


@app.command
def check(model: Model, /) -> None:
    """Check a new backbone before deploying it: anatomy, padding, prefix, labels."""
    from freeret.check import check as run_checks
    from probes import Backbone

    checks = run_checks(Backbone.load(model))
    print_table(
        f"Check of {model}",
        ["check", "found", ""],
        [[c.what, c.found, "ok" if c.passed else "FAILED"] for c in checks],
    )
    if not all(c.passed for c in checks):
        sys.exit(1)


@app.command
def demo(*, model: Model = "smolsight", out: Path = Path("out")) -> None:
    """Probe the embedded default, choose a recipe, and search passages, pictures and clips with it.

    Parameters
    ----------
    out: Everything is written under this folder; open its index.html.
    """
    from freeret.demo import built_in_corpus, run_all, write_hits
    from freeret.demo_pictures import search_everything
    from freeret.evaluate.metrics import figure
    from freeret.gallery import Table, write_page
    from freeret.probing import probe_into
    from freeret.retriever import FreeRet
    from probes import Backbone

    backbone = Backbone.load(model)
    _, recipe = probe_into(backbone, out / "probe", seed=0)
    _print_recipe(recipe.reasons)
    corpus = built_in_corpus()
    runs = run_all(backbone, recipe, corpus)
    searched = search_everything(FreeRet(backbone, recipe, progress=True), corpus)
    compared = Table(
        f"{len(corpus.queries)} questions over {len(corpus.documents)} passages",
        ["method", "Precision@1 [95% interval]"],
        [[name, str(figure(corpus, run, "P@1").interval())] for name, run in runs.items()],
    )
    mixed = Table(
        "Passages, pictures and clips in one store, each kind of query centred on its own mean",
        ["search", "Precision@1 [95% interval]"],
        [[gallery.title, str(found)] for gallery, found in searched],
    )
    for table in (compared, mixed):
        print_table(table.title, table.columns, table.rows)
    write_hits(out / "hits.csv", corpus, runs)
    curves = ("Where the state turns, and where it becomes the word", out / "probe" / "curves.png")
    write_page(
        out / "index.html",
        f"FreeRet with {backbone.name}",
        recipe.reasons,
        [curves],
        [compared, mixed],
        [gallery for gallery, _ in searched],
    )
    console.print(f"Look at {out / 'index.html'}", markup=False, soft_wrap=True)


@app.command
def index(
    *paths: str,
    store: str,
    model: Model = "smollm2-135m",
    recipe: Path | None = None,
    text_field: str = "text",
    id_field: str = "id",
    image_field: str | None = None,
    video_field: str | None = None,
    audio_field: str | None = None,
    metadata_field: list[str] | None = None,
    skip_bad: bool = False,
    prune: bool = False,
    shards: str | None = None,
    engine: Literal["local", "ray"] = "local",
    num_actors: int | None = None,
    address: str | None = None,
    ann: Literal["hnsw", "pq"] | None = None,
) -> None:
    """Embed files into a store; run it again to add, to replace what changed, or to resume.

    Parameters
    ----------
    paths: Files and folders of texts, tables (.jsonl, .csv, .tsv, .parquet) and media, here or at a
        URL: s3://, gs://, abfs://, file:///.
    store: Folder or object-store URL.
    recipe: A recipe.json of `freeret probe`; without it the backbone is probed once.
    text_field: Column of a table that holds the text.
    id_field: Column that holds the id.
    image_field: Column that holds a picture: its path beside the table, or its bytes.
    video_field: Column that holds a video, as image_field.
    audio_field: Column that holds a sound, as image_field.
    metadata_field: Column that becomes metadata; may be given several times. By default all columns
        that hold no content do.
    skip_bad: Report items that cannot be read and go on.
    prune: Remove what came from these files and folders before and is in them no more.
    shards: k/n: only part k of n, beside other processes that take the others. When all are done,
        `freeret index --store STORE` without paths fits the geometry.
    engine: ray spreads the work over actors of Ray, one backbone each.
    num_actors: How many; by default one a GPU, or one a machine that has none.
    address: Of a running Ray cluster, or auto; without it Ray is started on this machine.
    ann: Build an approximate index over everything stored.
    """
    from freeret.recipe import Recipe
    from freeret.retriever import FreeRet
    from freeret.sources import Files, said
    from probes import Backbone

    chosen = Recipe.load(recipe) if recipe else None
    retriever = FreeRet(Backbone.load(model), chosen, progress=True)
    items = Files(
        paths,
        text_field,
        id_field,
        image_field=image_field,
        video_field=video_field,
        audio_field=audio_field,
        metadata_fields=metadata_field,
    )
    on_error = "skip" if skip_bad else "raise"
    done = retriever.index(
        items,
        store,
        on_error=on_error,
        prune=prune,
        shards=shards,
        engine=engine,
        num_actors=num_actors,
        address=address,
    )
    console.print(
        f"{store}: {done.added} added, {done.replaced} replaced, {done.unchanged} unchanged, "
        f"{len(done.skipped)} skipped" + (f", {done.pruned} pruned" if prune else ""),
        markup=False,
        soft_wrap=True,
    )
    if done.passed_over:
        console.print(f"Files {said(done.passed_over)}", markup=False, soft_wrap=True)
    if ann:
        _print_recall(retriever.build_ann(ann))


@app.command
def search(
    store: str,
    query: str = "",
    /,
    *,
    image: Path | None = None,
    top_n: int = 50,
    rerank: int = 0,
    ann: bool = False,
    memory: float = 4.0,
    json: bool = False,
    trec: str | None = None,
    model: str | None = None,
) -> None:
    """Search a store, by a text, a picture or both.

    Parameters
    ----------
    image: A picture to search with.
    top_n: How many hits.
    rerank: How many of the first hits the model judges again.
    ann: Score only what the approximate index proposes.
    memory: GiB for vectors; a larger store is read block by block.
    json: One JSON object a hit, one a line.
    trec: Print TREC run lines with this run tag.
    model: Where the backbone is now, if not where it was when the store was made.
    """
    from freeret.output import as_json, as_trec, summary
    from probes import Item

    asked = Item(query or None, images=[image] if image else [], id="query")
    opened = _open(store, model, memory)
    hits = opened.search(asked, top_n=top_n, rerank=rerank, ann=ann)
    if json:
        sys.stdout.writelines(as_json(hit) + "\n" for hit in hits)
    elif trec:
        sys.stdout.writelines(line + "\n" for line in as_trec("q", hits, trec))
    else:
        rows = [[f"{hit.score:.3f}", hit.id, summary(hit.item)[:300]] for hit in hits]
        print_table(summary(asked), ["score", "id", "content"], rows)


@app.command
def answer(
    store: str, question: str, /, *, top_n: int = 5, rerank: int = 0, model: str | None = None
) -> None:
    """Answer a question from what the store holds, naming the sources.

    Parameters
    ----------
    top_n: How many hits the model reads.
    rerank: How many of the first hits the model judges before.
    model: Where the backbone is now, if not where it was when the store was made.
    """
    from freeret.output import summary

    found = _open(store, model).answer(question, top_n=top_n, rerank=rerank)
    console.print(found.text, markup=False, soft_wrap=True)
    for number, hit in enumerate(found.sources, start=1):
        console.print(
            f"[{number}] {hit.id}: {summary(hit.item)[:200]}", markup=False, soft_wrap=True
        )


@app.command
def info(store: str, /, *, measure_recall: bool = False) -> None:
    """Say what a store holds and what made it.

    Parameters
    ----------
    measure_recall: Compare the first hits of the approximate index with the exact ones.
    """
    from freeret import ann
    from freeret.output import store_facts
    from freeret.store import Store

    opened = Store.open(store)
    print_table(f"Store {store}", ["", ""], store_facts(opened))
    for n in (10, 100) if measure_recall else ():
        _print_recall(ann.measure_recall(opened, n))


app.command("freeret.scene_command:scenes", name="scenes")


def _open(store: str, model: str | None, memory: float = 4.0) -> "FreeRet":
    from freeret.retriever import FreeRet
    from probes import Backbone

    backbone = Backbone.load(model) if model else None
    return FreeRet.load(store, backbone, progress=True, memory=memory)


def _print_recall(found: "Recall") -> None:
    console.print(
        f"recall@{found.n} of the approximate index: {found.recall:.3f} "
        f"({found.queries} documents as queries, against exact search)",
        soft_wrap=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; an expected error is one clear line and exit code 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    for noisy in ("huggingface_hub", "bm25s"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        app(arguments)
    except (FreeRetError, OSError) as error:
        Console(stderr=True, highlight=False).print(
            f"freeret: {error}", markup=False, soft_wrap=True
        )
        sys.exit(1)
    except ImportError as error:
        Console(stderr=True, highlight=False).print(
            f"freeret: a dependency is missing ({error}); reinstall with pip install freeret",
            markup=False,
            soft_wrap=True,
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _print_recipe(reasons: Sequence[str]) -> None:
    for reason in reasons:
        console.print(f"• {reason}", markup=False, soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=Text(title), title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # content is not markup
    console.print(table)
