"""The command `freeret`: probe a backbone, check it, retrieve with it."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from probes.errors import FreeRetError

app = App(
    name="freeret",
    help="Look inside a language model, then retrieve with the same untouched weights.",
)
console = Console(highlight=False)

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

    _, recipe = probe_into(Backbone.load(model), out, seed)
    _print_recipe(recipe.reasons)
    console.print(f"Report, recipe, summary and figures are in {out}")


@app.command
def check(model: Model, /) -> None:
    """Check a new backbone before deploying it: anatomy, padding, prefix, labels."""
    from freeret.check import check as run_checks
    from probes import Backbone

    checks = run_checks(Backbone.load(model))
    _print_table(
        f"Check of {model}",
        ["check", "found", ""],
        [[c.what, c.found, "ok" if c.passed else "FAILED"] for c in checks],
    )
    if not all(c.passed for c in checks):
        sys.exit(1)


@app.command
def demo(*, model: Model = "smollm2-135m", out: Path = Path("out")) -> None:
    """Probe the embedded default, choose a recipe, and search a small built-in corpus with it.

    Parameters
    ----------
    out: Everything is written under this folder.
    """
    from freeret.demo import built_in_corpus, run_bm25, run_embedding, write_hits
    from freeret.probing import probe_into
    from freeret.recipe import Recipe
    from probes import Backbone

    backbone = Backbone.load(model)
    _, recipe = probe_into(backbone, out / "probe", seed=0)
    _print_recipe(recipe.reasons)
    corpus = built_in_corpus()
    runs = [
        run_embedding("recipe", backbone, recipe, corpus),
        run_embedding("E5-V extraction", backbone, Recipe.e5v(), corpus),
        run_bm25(corpus),
    ]
    for question in range(3):
        first = runs[0].order[question, 0]
        console.print(f"\n[bold]{corpus.questions[question]}[/bold]\n  {corpus.passages[first]}")
    _print_table(
        f"{len(corpus.questions)} questions over {len(corpus.passages)} passages",
        ["method", "Precision@1 [95% interval]"],
        [[run.name, str(run.precision(corpus))] for run in runs],
    )
    write_hits(out / "hits.csv", corpus, runs)
    console.print(f"Figures, report and hits are in {out}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; an error of this project is one clear line and exit code 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        app(arguments)
    except FreeRetError as error:
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


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    console.print(table)
