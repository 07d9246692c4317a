"""Drawing results and ablations, apart from measuring them, in the project's one style."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure, SubFigure

from freeret.evaluate.ablate import Ablation
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
def draw_systems(suites: Mapping[str, Mapping[str, Interval]]) -> Figure:
    """One panel a suite, under its title, one line a system with its 95% interval."""
    columns = 1 if len(suites) < 4 else 2
    lines = -(-len(suites) // columns)
    height = lines * (0.6 + 0.24 * max(map(len, suites.values())))
    figure = Figure(figsize=(3.6 * columns + 1.4, height), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for ax, (title, systems) in zip(panels, suites.items(), strict=False):
        draw_intervals(systems, ax)
        ax.set_title(title, fontsize=9)
    for ax in panels[len(suites) :]:
        ax.remove()
    return figure


def draw_methods(file: Path, reference: str, label: str) -> Figure | SubFigure:
    """The methods of a measured table, a line through the reference."""
    rows = read_json(file)["methods"]
    shown = {name: Interval(*row["precision_at_1"]) for name, row in rows.items()}
    ax = draw_intervals(shown, reference=reference)
    ax.set_xlabel(label)
    return ax.figure
