"""What accuracy costs: Precision@1 against the seconds of one query.

    python figures/latency.py

Reads benchmarks/results/latency_<model>.json (`python benchmarks/latency.py`); writes
figures/latency.png and .svg.
"""

from itertools import cycle
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from probes.files import read_json
from probes.plots import COLOURS, MARKERS, STYLE, save

HERE = Path(__file__).parent


@rc_context(STYLE)
def main() -> None:
    files = sorted((HERE.parent / "benchmarks" / "results").glob("latency_*.json"))
    if not files:
        return
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    ax = figure.subplots()
    for file, colour, line in zip(files, COLOURS, cycle(("-", "--")), strict=False):
        data = read_json(file)
        for (name, way), marker in zip(data["ways"].items(), cycle(MARKERS)):
            mean, low, high = way["precision_at_1"]
            ax.errorbar(
                way["seconds"], mean, yerr=[[mean - low], [high - mean]], color=colour,
                marker=marker, linestyle="none", label=f"{data['model']}: {name}",
            )  # fmt: skip
        reranked = [way for name, way in data["ways"].items() if name.startswith("recipe")]
        ax.plot(
            [way["seconds"] for way in reranked], [way["precision_at_1"][0] for way in reranked],
            color=colour, linestyle=line,
        )  # fmt: skip
    ax.set(xscale="log", xlabel="seconds of one query, two CPU cores", ylabel="Precision@1")
    figure.legend(loc="outside right upper", fontsize=8)
    save(figure, HERE / "latency")


if __name__ == "__main__":
    main()
