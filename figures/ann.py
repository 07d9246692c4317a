"""Recall@100 against queries per second, from benchmarks/results/scale_ann.json.

    python figures/ann.py

Writes figures/ann.png and figures/ann.svg, and prints the table.
"""

from itertools import groupby
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from probes.files import read_json
from probes.plots import COLOURS, MARKERS, STYLE, save

HERE = Path(__file__).parent
DATA = HERE.parent / "benchmarks" / "results" / "scale_ann.json"


@rc_context(STYLE)
def main() -> None:
    if not DATA.is_file():
        return  # drawn once `python benchmarks/scale.py --part ann` has measured it
    data = read_json(DATA)
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    ax = figure.subplots()
    table = Table(title=f"{data['rows']:,} vectors of {data['dimension']} dimensions")
    for column in ("index", "setting", "recall@100", "queries/s"):
        table.add_column(column)
    indexes = groupby(data["points"], key=lambda point: point["index"])
    for (index, group), colour, marker in zip(indexes, COLOURS, MARKERS, strict=False):
        points = sorted(group, key=lambda point: point["recall"])
        ax.plot(
            [point["recall"] for point in points],
            [point["queries_per_second"] for point in points],
            color=colour, marker=marker, linestyle="--" if "faiss" in index else "-", label=index,
        )  # fmt: skip
        for p in points:
            setting = ", ".join(f"{name} {value}" for name, value in p["setting"].items())
            table.add_row(index, setting, f"{p['recall']:.3f}", f"{p['queries_per_second']:.0f}")
    ax.set(xlabel="recall@100", ylabel="queries per second, one at a time", yscale="log")
    figure.legend(loc="outside right upper")
    save(figure, HERE / "ann")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
