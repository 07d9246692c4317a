"""Drawing results and ablations, apart from measuring them, in the project's one style."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from freeret.evaluate.ablate import Ablation, Row
from freeret.evaluate.results import Result
from probes.plots import COLOURS, HOLLOW, STYLE, Look

PARTS = {
    "choice": "whole choices",
    "site": "site (control prompt)",
    "prior": "a prior off",
    "prompt": "prompt (at attn[-1])",
    "geometry": "geometry",
    "frame": "frame of stage 2",
}


@rc_context(STYLE)
def draw_ablation(ablation: Ablation, title: str = "") -> Figure:
    """One panel a part, one line a row of the table: the metric with its 95% interval. The paper's
    choice is the vertical line; hollow rows do not differ from it beyond noise."""
    parts = {part: [row for row in ablation.rows if row.part == part] for part in PARTS}
    shown = {part: rows for part, rows in parts.items() if rows}
    heights = [len(rows) for rows in shown.values()]
    figure = Figure(
        figsize=(6.4, 0.26 * sum(heights) + 0.5 * len(heights) + 0.6), layout="constrained"
    )
    panels = figure.subplots(
        len(shown), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for ax, (part, rows) in zip(panels[:, 0], shown.items(), strict=True):
        draw_rows(rows, ax)
        ax.set_title(PARTS[part], fontsize=9)
    panels[-1, 0].set_xlabel(ablation.metric)
    figure.suptitle(title)
    return figure


def draw_rows(rows: Sequence[Row], ax: Axes) -> Axes:
    """Rows as points with intervals, the first on top."""
    for reference in {round(row.interval[0] - row.difference[0], 9) for row in rows}:
        ax.axvline(reference, color="0.6", linewidth=0.8)
    for place, row in enumerate(rows):
        clear = row.difference[1] > 0 or row.difference[2] < 0
        _point(ax, row.interval, place, {} if clear else HOLLOW)
    ax.set_yticks(np.arange(len(rows)), [row.name for row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(axis="x")
    ax.grid(visible=False, axis="y")
    return ax


@rc_context(STYLE)
def draw_systems(results: Mapping[str, Result]) -> Figure:
    """One panel a dataset, one line a named run: the main metric with its 95% interval."""
    names = list(dict.fromkeys(name for result in results.values() for name in result.datasets))
    size = (1.6 + 2.6 * len(names), 0.8 + 0.34 * len(results))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for ax, name in zip(panels, names, strict=True):
        for place, result in enumerate(results.values()):
            entry = result.datasets.get(name)
            if entry is not None:
                _point(ax, entry.metrics[entry.main].interval, place, {})
                ax.set_xlabel(entry.main)
        ax.set_title(name)
        ax.grid(axis="x")
        ax.grid(visible=False, axis="y")
    panels[0].set_yticks(np.arange(len(results)), list(results))
    panels[0].set_ylim(len(results) - 0.5, -0.5)
    return figure


def _point(ax: Axes, interval: tuple[float, float, float], place: int, more: Look) -> None:
    mean, low, high = interval
    look = {"color": COLOURS[0], "marker": "o", "linestyle": "none", **more}
    ax.errorbar(mean, place, xerr=[[mean - low], [high - mean]], **look)
