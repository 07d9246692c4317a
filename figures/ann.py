"""Recall@100 against queries a second, from benchmarks/results/scale_ann.json.

    python figures/ann.py

Writes figures/ann.png and figures/ann.svg, and prints the table.
"""

from itertools import groupby
from pathlib import Path

import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table

from probes.files import read_json

HERE = Path(__file__).parent
DATA = HERE.parent / "benchmarks" / "results" / "scale_ann.json"
MARKERS = {"LanceDB": "o-", "faiss": "s--"}


def main() -> None:
    if not DATA.is_file():
        return  # drawn once `python benchmarks/scale.py --part ann` has measured it
    data = read_json(DATA)
    figure, axes = plt.subplots(figsize=(6, 4))
    table = Table(title=f"{data['rows']:,} vectors of {data['dimension']} dimensions")
    for column in ("index", "setting", "recall@100", "queries/s"):
        table.add_column(column)
    for index, group in groupby(data["points"], key=lambda point: point["index"]):
        points = list(group)
        front = sorted(points, key=lambda p: p["recall"])
        axes.plot(
            [p["recall"] for p in front],
            [p["queries_per_second"] for p in front],
            MARKERS[index.split()[0]],
            label=index,
            markersize=4,
        )
        for p in points:
            setting = ", ".join(f"{k} {v}" for k, v in p["setting"].items())
            table.add_row(index, setting, f"{p['recall']:.3f}", f"{p['queries_per_second']:.0f}")
    axes.set(xlabel="recall@100", ylabel="queries a second", yscale="log")
    axes.set_title(f"{data['rows']:,} vectors, {data['threads']} threads, one query at a time")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    for kind in ("png", "svg"):
        figure.savefig(HERE / f"ann.{kind}", dpi=150)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
