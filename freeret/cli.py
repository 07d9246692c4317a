"""The command `freeret`: probe a backbone, check it, retrieve with it.

Commands import what they need when they run, and check what was typed before they load a model.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number

from freeret import cli_evaluate, preflight, scene_command
from freeret.options import (
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
from freeret.output import complain, messages, print_lines, print_table, say
from probes.errors import BadSetting, FreeRetError
from probes.loading import Loading

if TYPE_CHECKING:
    from freeret.ann import Recall
    from freeret.retriever import FreeRet

app = App(
    name="freeret",
    help="Look inside a language model, then retrieve with the same untouched weights.",
)
cli_evaluate.register(app)
app.command(scene_command.scenes)


@app.command
def probe(
    model: Model,
    /,
    *,
    out: Path = Path("out"),
    seed: int = 0,
    loading: Settings = AS_USUAL,
) -> None:
    """Measure where a backbone lexicalizes and how its labels are biased.

    The report is also kept in the cache, where every other command finds it.

    Args:
        out: Folder for report.json, recipe.json, summary.md and the figures (PNG and SVG).
        seed: Seed of the bootstrap intervals.
    """
    preflight.check_writable(out)
    from freeret.probing import write_report
    from freeret.reports import probe_and_keep
    from probes import Backbone

    recipe = write_report(probe_and_keep(Backbone.load(model, loading), seed=seed), out)
    _print_recipe(recipe.reasons)
    say(f"Report, recipe, summary and figures are in {out}")


@app.command
def check(model: Model, /, *, loading: Settings = AS_USUAL, json: bool = False) -> None:
    """Check a new backbone before deploying it: anatomy, text, batches, labels and media.

    The exit code is 1 when a line has FAILED; a note is a limitation that makes nothing wrong.

    Args:
        json: Print the lines as one JSON list.
    """
    from freeret.check import check as run_checks
    from freeret.output import json_line
    from probes import Backbone

    checks = run_checks(Backbone.load(model, loading))
    if json:
        print_lines(iter([json_line([c.as_dict() for c in checks])]))
    else:
        print_table(
            f"Check of {model}",
            ["check", "found", "result"],
            [[c.what, c.found, c.status] for c in checks],
        )
    if not all(c.passed for c in checks):
        sys.exit(1)


@app.command
def demo(
    *, model: Model = "smolsight", out: Path = Path("out"), loading: Settings = AS_USUAL
) -> None:
    """Choose a recipe for the embedded default, and search passages, pictures and clips with it.

    A backbone whose weights have no probe report yet is probed first.

    Args:
        out: Folder for everything that is written; open its index.html.
    """
    preflight.check_writable(out)
    from freeret.demo import built_in_corpus, run_all, write_hits
    from freeret.demo_pictures import HITS, search_everything
    from freeret.evaluate.metrics import figure
    from freeret.gallery import Table, write_page
    from freeret.probing import write_report
    from freeret.reports import report_of
    from freeret.retriever import FreeRet
    from probes import Backbone

    backbone = Backbone.load(model, loading)
    recipe = write_report(report_of(backbone), out / "probe")
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
        "Passages, pictures and clips in one store, searched without examples of what is asked",
        ["search", "found first [95% interval]", f"among the first {HITS}"],
        [[gallery.title, str(first), str(among)] for gallery, first, among in searched],
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
        [gallery for gallery, _, _ in searched],
    )
    say(f"Open {out / 'index.html'} in a browser")


@app.command
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

    A store keeps the recipe that it was made with, unless --recipe names another, and the model is
    loaded as for the first items, where no option says otherwise.

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
    from freeret.output import printable
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


@app.command
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
    """
    preflight.check_store(store)
    if not query.strip() and image is None:
        raise BadSetting("nothing to search with: give a text, --image FILE, or both")
    if image is not None and not image.is_file():
        raise BadSetting(f"there is no picture at {image}")
    from freeret.output import as_json, as_trec, summary
    from probes import Item

    asked = Item(query or None, images=[image] if image else [], id="query")
    retriever = _open(store, model, loading, memory)
    hits = retriever.search(asked, top_n=top_n, rerank=rerank, ann=ann, task=task)
    if json:
        print_lines(as_json(hit) for hit in hits)
    elif trec:
        print_lines(as_trec("q", hits, trec))
    else:
        rows = [[f"{hit.score:.3f}", hit.id, summary(hit.item)[:300]] for hit in hits]
        print_table(summary(asked), ["score", "id", "content"], rows)


@app.command
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
    from freeret.output import printable, summary

    found = _open(store, model, loading).answer(question, top_n=top_n, rerank=rerank)
    say(found.text)
    for number, hit in enumerate(found.sources, start=1):
        say(printable(f"[{number}] {hit.id}: {summary(hit.item)[:200]}"))


@app.command
def info(store: str, /, *, measure_recall: bool = False) -> None:
    """Say what a store holds and what made it.

    Args:
        store: Folder or object-store URL of the store.
        measure_recall: Compare the first hits of the approximate index with the exact ones.
    """
    preflight.check_store(store)
    from freeret import ann
    from freeret.output import store_facts
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


def _print_recipe(reasons: Sequence[str]) -> None:
    for reason in reasons:
        say(f"• {reason}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; an expected error is one clear line and exit code 1."""
    try:
        with messages():
            app(arguments, exit_on_error=False, print_error=False)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(1)
    except (FreeRetError, OSError, CycloptsError) as error:
        complain(str(error))
        sys.exit(1)
    except ImportError as error:
        complain(f"a dependency is missing ({error}); pip install 'freeret[eval,scale]' brings all")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
