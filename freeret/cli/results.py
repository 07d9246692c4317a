"""Results on the screen: the end of `freeret eval` and `freeret ablate`, and `freeret table`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from freeret.cli.output import print_lines, print_table, say
from probes.errors import BadSetting

if TYPE_CHECKING:
    from freeret.evaluate.results.tables import ResultTable
    from freeret.evaluate.skipping import Skipped

Markdown = Annotated[bool, Parameter(help="Print the tables in Markdown, and nothing else.")]
SHOWN = 5
"""Skipped items of a dataset that are printed; the result file lists all."""


def table(*results: Path, paper: bool = False, markdown: Markdown = False) -> None:
    """Print saved results and ablations as tables; no model is loaded.

    Args:
        results: JSON files that `freeret eval` or `freeret ablate` wrote, or folders that hold
            them.
        paper: Print the paper's values, with a measured one beside it only where model, prompt,
            site, geometry and reranking are the same. Other results follow below.
    """
    if not results and not paper:
        raise BadSetting("name at least one result file, such as out/eval/recipe.json, or --paper")
    if paper:
        _print([_published(results)], markdown)
    else:
        show_results(results, markdown=markdown)


def show_results(files: Sequence[Path], *, markdown: bool = False) -> None:
    """Print results, then ablations; what they skipped; and their files."""
    from freeret.evaluate.ablation.tables import ablation_tables
    from freeret.evaluate.results.tables import name_apart, result_tables
    from freeret.evaluate.saved import read_saved

    saved = read_saved(files)
    runs = name_apart(saved.results)
    _print(result_tables(runs) if runs else [], markdown)
    for path, ablations in saved.ablations:
        _print(ablation_tables(ablations, str(path) * (len(saved.ablations) > 1)), markdown)
    if markdown:
        return
    for label, result in runs.items():
        for name, entry in result.datasets.items():
            _say_skipped(f"{label} on {name}", entry.skipped)
    for _, ablations in saved.ablations:
        for name, ablation in ablations.datasets.items():
            _say_skipped(name, ablation.skipped)
    for path, _ in (*saved.results, *saved.ablations):
        say(str(path))


def _published(files: Sequence[Path]) -> "ResultTable":
    from freeret.evaluate.ablation.tables import ablated_means
    from freeret.evaluate.results.tables import name_apart, published_table
    from freeret.evaluate.saved import read_saved

    saved = read_saved(files)
    ablated = [
        mean for _, ablations in saved.ablations for mean in ablated_means(ablations, "ablation")
    ]
    return published_table(name_apart(saved.results), ablated)


def _print(tables: "Sequence[ResultTable]", markdown: bool) -> None:
    for one in tables:
        if markdown:
            print_lines(one.markdown().split("\n"))
        else:
            print_table(one.title, one.columns, one.rows)


def _say_skipped(head: str, skipped: "Sequence[Skipped]") -> None:
    """Print how many of each side were left out, and the first of them with the reason."""
    if not skipped:
        return
    sides = {"query": "queries", "document": "documents", "pair": "pairs"}
    counts = {side: sum(one.side == side for one in skipped) for side in sides}
    parts = [f"{n} {side if n == 1 else sides[side]}" for side, n in counts.items() if n]
    listed = "".join(f"\n  {one.side} {one.id}: {one.reason}" for one in skipped[:SHOWN])
    more = f"\n  and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else ""
    say(f"{head}: skipped {', '.join(parts)}{listed}{more}")
