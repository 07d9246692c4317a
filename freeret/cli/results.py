"""Results on the screen: what `freeret eval` prints at its end, and `freeret table` at any time."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from freeret.cli.output import print_lines, print_table, say
from probes.errors import BadSetting
from probes.files import read_json

if TYPE_CHECKING:
    from freeret.evaluate.results.tables import ResultTable
    from freeret.evaluate.skipping import Skipped

Markdown = Annotated[bool, Parameter(help="Print the tables in Markdown, and nothing else.")]
SHOWN = 5
"""Skipped items of a dataset that are printed; the result file lists all."""


def table(*results: Path, paper: bool = False, markdown: Markdown = False) -> None:
    """Print saved results as tables; no model is loaded.

    Args:
        results: JSON files of runs, as `freeret eval` wrote them.
        paper: Print the values of the paper, each beside the result that it can be compared with,
            if there is one.
    """
    if not results and not paper:
        raise BadSetting("name at least one result file, such as out/eval/recipe.json, or --paper")
    for file in results:
        read_json(file)
    if not paper:
        show_results(results, markdown=markdown)
        return
    from freeret.evaluate.results.file import Result
    from freeret.evaluate.results.tables import published_table

    _print([published_table([Result.load(file) for file in results])], markdown)


def show_results(files: Sequence[Path], *, markdown: bool = False) -> None:
    """Print what some runs measured, what they skipped, and their files."""
    from freeret.evaluate.results.file import Result
    from freeret.evaluate.results.tables import result_tables

    results = [Result.load(file) for file in files]
    if not results:
        return
    _print(result_tables(results), markdown)
    if markdown:
        return
    for result in results:
        for name, entry in result.datasets.items():
            if entry.skipped:
                say(f"{result.run} on {name}: {_skipped(entry.skipped)}")
    for file in files:
        say(str(file))


def _print(tables: "Sequence[ResultTable]", markdown: bool) -> None:
    for one in tables:
        if markdown:
            print_lines(iter(one.markdown().split("\n")))
        else:
            print_table(one.title, one.columns, one.rows)


def _skipped(skipped: "Sequence[Skipped]") -> str:
    """How many of each side were left out, and the first of them with the reason."""
    sides = {"query": "queries", "document": "documents", "pair": "pairs"}
    counts = {side: sum(one.side == side for one in skipped) for side in sides}
    told = [f"{n} {side if n == 1 else sides[side]}" for side, n in counts.items() if n]
    listed = "".join(f"\n  {one.side} {one.id}: {one.reason}" for one in skipped[:SHOWN])
    more = f"\n  and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else ""
    return f"skipped {', '.join(told)}{listed}{more}"
