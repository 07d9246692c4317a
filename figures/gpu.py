"""One GPU: rates against plain transformers and sentence-transformers, and shares of the GEMM peak.

    python figures/gpu.py

Reads benchmarks/results/gpu.json (`python benchmarks/gpu.py`); writes figures/gpu.png and .svg,
and prints the rates.
Parts that were not measured are left out.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probes.files import read_json
from probes.plots import COLOURS, STYLE, save

HERE = Path(__file__).parent
DATA = HERE.parent / "benchmarks" / "results" / "gpu.json"
MODELS = {"qwen": "Qwen2.5-VL-7B", "smolvlm": "SmolVLM-256M"}
PARTS = {"texts": "texts", "pictures": "pictures", "rerank": "pairs"}
"""The parts of a model, and what their rates count."""
WAYS = {
    "freeret": "FreeRet",
    "transformers": "transformers: a loop, or whole prompts",
    "sentence-transformers": "sentence-transformers",
}
OTHER_NAMES: dict[str, str] = {"whole prompts": "transformers"}
HATCHES = ("", "//", "..")
Bars = dict[str, dict[str, Any]]
"""The ways of each measurement."""
Height = Callable[[Any, Mapping[str, Any]], float]
"""Height of the bar of a way, from its figures and those of all ways."""


def measurements(parts: Mapping[str, Any], model: str) -> Bars:
    """The ways of every measurement of a model, each in its best batch size."""
    found: Bars = {}
    for part, counted in PARTS.items():
        for name, measured in parts.get(f"{model}-{part}", {}).items():
            if not isinstance(measured, dict) or "ways" not in measured:
                continue
            best = dict[str, Any]()
            for way, figures in measured["ways"].items():
                first = way.split(",")[0]
                kind = OTHER_NAMES[first] if first in OTHER_NAMES else str(first)
                rate = figures.get("per_second", 0.0)
                if rate > best.get(kind, {}).get("per_second", 0.0):
                    best[kind] = figures
            if best:
                found[f"{name}\n({counted})"] = best
    return found


def draw(ax: Axes, bars: Bars, label: str, height: Height, text: Callable[[Any], str]) -> None:
    """Groups of bars, one for each measurement, with a text above each."""
    width = 0.8 / len(WAYS)
    for place, (way, colour, hatch) in enumerate(zip(WAYS, COLOURS, HATCHES, strict=False)):
        shown = [(group, ways) for group, ways in enumerate(bars.values()) if way in ways]
        drawn = ax.bar(
            [group + (place - 1) * width for group, _ in shown],
            [height(ways[way], ways) for _, ways in shown],
            width, color=colour, hatch=hatch, edgecolor="white", label=WAYS[way],
        )  # fmt: skip
        ax.bar_label(drawn, [text(ways[way]) for _, ways in shown], fontsize=7, padding=1)
    ax.set(ylabel=label)
    ax.set_xticks(range(len(bars)), list(bars), fontsize=8)
    ax.margins(y=0.12)


def print_table(model: str, bars: Bars) -> None:
    """The rates as Markdown, for docs/results.md."""
    print(f"| {model} | {' | '.join(WAYS)} | share of the GEMM peak |\n{'|---' * 5}|")
    for name, ways in bars.items():
        rates = [f"{ways[way]['per_second']:.3g}/s" if way in ways else "" for way in WAYS]
        share = f"{ways['freeret']['of_gemm_peak']:.0%}" if "freeret" in ways else ""
        print(f"| {' '.join(name.split())} | {' | '.join(rates)} | {share} |")


def relative_rate(figures: Any, ways: Mapping[str, Any]) -> float:
    """The rate as a multiple of that of transformers, if it was measured."""
    return figures["per_second"] / ways.get("transformers", figures)["per_second"]


@rc_context(STYLE)
def main() -> None:
    if not DATA.is_file():
        return  # drawn once `python benchmarks/gpu.py` has measured it
    data = read_json(DATA)
    measured = {name: measurements(data["parts"], model) for model, name in MODELS.items()}
    measured = {name: bars for name, bars in measured.items() if bars}
    figure = Figure(figsize=(11.0, 0.6 + 5.0 * len(measured)), layout="constrained")
    axes = figure.subplots(2 * len(measured), 1, squeeze=False)[:, 0]
    for (name, bars), rates, shares in zip(measured.items(), axes[::2], axes[1::2], strict=True):
        print_table(name, bars)
        draw(rates, bars, "rate, that of\ntransformers = 1", relative_rate,
             lambda figures: f"{figures['per_second']:.3g}/s")  # fmt: skip
        rates.set_title(f"{name}, random weights, {data['machine']['device']}")
        draw(shares, bars, "useful work, share\nof the GEMM peak",
             lambda figures, _: figures["of_gemm_peak"],
             lambda figures: f"{figures['of_gemm_peak']:.0%}")  # fmt: skip
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    save(figure, HERE / "gpu")


if __name__ == "__main__":
    main()
