"""Figures of whole reports: one kind of result of one or several backbones, at any width.

The panels of `probes.plots` in a grid, with one legend below them all, where it takes no width.
"""

from collections.abc import Callable, Mapping
from typing import Any, get_args

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probes import plots
from probes.measure.lexicalization import PROMPT_KINDS
from probes.measure.parts import FigureKind, PartName

KINDS: tuple[FigureKind, ...] = get_args(FigureKind)
PART_OF: dict[FigureKind, PartName] = {
    "curves": "curves",
    "rank": "curves",
    "norms": "curves",
    "synonyms": "synonyms",
    "separation": "synonyms",
    "framing": "framing",
    "diagnostic": "diagnostic",
}
"""The part of a report that each kind of figure shows."""
CURVES: dict[FigureKind, tuple[plots.Part, ...]] = {
    "curves": ("alpha", "beta"),
    "rank": ("rank", "probability"),
    "norms": ("norms",),
}
DRAWINGS: dict[FigureKind, Callable[[Any, Axes], Axes]] = {
    "synonyms": plots.draw_synonyms,
    "separation": plots.draw_separation,
    "framing": plots.draw_framing,
    "diagnostic": plots.draw_diagnostic,
}
PANEL, NARROWEST = 4.2, 2.2
"""Inches of a panel where no width is asked for, and the fewest that it can be read at."""
LEGEND = 1.1
"""Inches of an entry of the legend."""
SMALL: dict[Any, Any] = {
    "axes.labelpad": 3,
    "axes.labelsize": 8,
    "axes.titlesize": 8.5,
    "errorbar.capsize": 1.5,
    "figure.titlesize": 9,
    "font.size": 8,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "lines.linewidth": 1.0,
    "lines.markersize": 2.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}
"""Sizes, in points, of figures that are printed at the width that they are drawn at."""
Panel = tuple[str, Callable[[Axes], Any]]


def figure_of(kind: FigureKind, results: Mapping[str, Any], width: float | None = None) -> Figure:
    """One kind of figure of one or several backbones.

    Args:
        kind: What to show: one of KINDS.
        results: By the name of the backbone, the part of its report that PART_OF names.
        width: Inches. Letters are then as small as in print, and panels stand below each other
            where they find no room side by side. None takes the room that the panels need.
    """
    panels, columns = _panels(kind, results)
    across = columns if width is None else max(1, min(columns, int(width / NARROWEST)))
    rows_alike = "row" if kind in CURVES and across == columns else False
    with plots.styled(None if width is None else SMALL):
        figure = _draw(panels, across, width, rows_alike if kind in CURVES else "all")
        if len(results) == 1:
            figure.suptitle(*results, fontweight="bold")
    return figure


def _panels(kind: FigureKind, results: Mapping[str, Any]) -> tuple[list[Panel], int]:
    """The panels with their titles, and how many of them belong in a row."""
    alone = len(results) == 1
    if kind not in CURVES:
        draw = DRAWINGS[kind]
        panels = [("" if alone else name, _into(draw, value)) for name, value in results.items()]
        return panels, min(4, len(panels))
    panels = [
        (prompts if alone else f"{name}, {prompts}", _into(plots.PARTS[part], curves[key]))
        for name, curves in results.items()
        for part in CURVES[kind]
        for key, prompts in PROMPT_KINDS.items()
    ]
    return panels, len(PROMPT_KINDS)


def _into(draw: Callable, value: Any) -> Callable[[Axes], Any]:
    return lambda ax: draw(value, ax=ax)


def _draw(panels: list[Panel], columns: int, width: float | None, sharey: Any) -> Figure:
    """The panels in rows of some columns, and the entries of all their legends once."""
    rows = -(-len(panels) // columns)
    high, wide = (2.8, columns * PANEL + 0.8) if width is None else (2.1, width)
    figure = Figure(figsize=(wide, 0.9 + rows * high), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    handles: dict[str, Any] = {}
    heading = ""
    for ax, (name, draw) in zip(axes, panels, strict=False):
        draw(ax)
        above = ax.get_title("right")  # whose lines the name is lifted over
        ax.set_title(name + "\n" * (above.count("\n") + 1 if above and name else 0))
        handles |= {label: h for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        if legend := ax.get_legend():
            heading = legend.get_title().get_text()
            legend.remove()
    for ax in axes[len(panels) :]:
        ax.remove()
    if len(handles) > 1:
        across = min(len(handles), max(1, int(wide / LEGEND)))
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=across,
            title=heading or None,
        )  # fmt: skip
    return figure
