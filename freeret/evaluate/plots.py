"""Drawing results and ablations, apart from measuring them, in the project's one style."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure, SubFigure

from freeret.evaluate.ablate import Ablation
from freeret.evaluate.results import Result
from probes.files import read_json
from probes.plots import STYLE, draw_intervals
from probes.stats import Interval

PARTS = {
    "choice": ("whole choices", "FreeRet-embed"),
    "site": ("site, under the control prompt", "attn[-1]"),
    "prior": ("a prior off, at attn[-1]", None),
    "prompt": ("prompt, at attn[-1]", "control"),
    "geometry": ("geometry, at attn[-1] and at the recipe's site", "none"),
    "frame": ("stage 2", None),
}
"""Title of each panel, and the row of the paper's choice: a line goes through it."""


@rc_context(STYLE)
def draw_ablation(ablation: Ablation, title: str = "") -> Figure:
    """One panel a part, one line a row of the table: the metric with its 95% interval."""
    parts = {
        part: {row.name: Interval(*row.interval) for row in ablation.rows if row.part == part}
        for part in PARTS
    }
    shown = {part: rows for part, rows in parts.items() if rows}
    heights = [len(rows) for rows in shown.values()]
    size = (6.4, 0.26 * sum(heights) + 0.5 * len(heights) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(
        len(shown), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    for ax, (part, rows) in zip(panels, shown.items(), strict=True):
        name, reference = PARTS[part]
        draw_intervals(rows, ax, reference)
        ax.set_title(name, fontsize=9)
    panels[-1].set_xlabel(ablation.metric)
    figure.suptitle(title)
    return figure


@rc_context(STYLE)
def draw_systems(results: Mapping[str, Result]) -> Figure:
    """One panel a dataset, one line a named run: the main metric with its 95% interval."""
    names = list(dict.fromkeys(name for result in results.values() for name in result.datasets))
    height = 0.8 + sum(0.5 + 0.26 * len(results) for _ in names)
    figure = Figure(figsize=(6.4, height), layout="constrained")
    panels = figure.subplots(len(names), squeeze=False)[:, 0]
    for ax, name in zip(panels, names, strict=True):
        entries = {run: r.datasets[name] for run, r in results.items() if name in r.datasets}
        draw_intervals(
            {run: Interval(*e.metrics[e.main].interval) for run, e in entries.items()}, ax
        )
        ax.set_title(name, fontsize=9)
        ax.set_xlabel(next(iter(entries.values())).main)
    return figure


def draw_methods(file: Path, reference: str, label: str) -> Figure | SubFigure:
    """The methods of a measured table, a line through the reference."""
    rows = read_json(file)["methods"]
    shown = {name: Interval(*row["precision_at_1"]) for name, row in rows.items()}
    ax = draw_intervals(shown, reference=reference)
    ax.set_xlabel(label)
    return ax.figure
