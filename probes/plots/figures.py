"""Figures of whole reports: one kind of result of one or several backbones, at any width."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probes.measure.parts import PROMPT_KINDS, FigureKind, Panel, PartName
from probes.plots.curves import Row, curves_grid
from probes.plots.results import draw_diagnostic, draw_framing, draw_separation, draw_synonyms
from probes.plots.style import PRINT, styled

log = logging.getLogger(__name__)

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
CURVES: dict[FigureKind, tuple[Panel, ...]] = {
    "curves": ("alpha", "beta"),
    "rank": ("rank", "probability"),
    "norms": ("norms",),
}
DRAWINGS: dict[FigureKind, Callable[..., Axes]] = {
    "synonyms": draw_synonyms,
    "separation": draw_separation,
    "framing": draw_framing,
    "diagnostic": draw_diagnostic,
}
PANEL, NARROWEST = 4.2, 2.2
"""Inches of a panel where no width is asked for, and the fewest that it can be read at."""
LEGEND = 1.1
"""Inches of an entry of the legend."""
PAGE = 9.0
"""Inches of the height of a page of a paper."""


def figure_of(
    kind: FigureKind,
    results: Mapping[str, Any],
    width: float | None = None,
    *,
    prompts: Sequence[str] | None = None,
    panels: Sequence[Panel] | None = None,
) -> Figure:
    """One kind of figure of one or several backbones.

    Args:
        kind: What to show: one of KINDS.
        results: By the name of the backbone, the part of its report that PART_OF names.
        width: Inches. Letters are then as small as in print. Curves have a column for each kind of
            prompt at any width; other panels stand below each other where they find no room side by
            side. None takes the room that the panels need.
        prompts: The kinds of prompt whose curves are shown; by default all of them.
        panels: The quantities that a figure of curves shows; by default α and β, or α alone where
            `width` is less than that of two columns of a paper.

    Returns:
        The figure. A warning is logged where it is higher than a page.
    """
    if kind in CURVES:
        figure = _curves(kind, results, width, prompts, panels)
    else:
        figure = _results(DRAWINGS[kind], results, width)
    if len(results) == 1:
        figure.suptitle(*results, fontweight="bold")
    if width is not None and figure.get_figheight() > PAGE:
        log.warning(
            "the figure is %.1f inches high, more than a page: draw fewer reports, prompts or "
            "panels, or a wider figure",
            figure.get_figheight(),
        )
    return figure


def _curves(
    kind: FigureKind,
    results: Mapping[str, Any],
    width: float | None,
    prompts: Sequence[str] | None,
    panels: Sequence[Panel] | None,
) -> Figure:
    column = kind == "curves" and width is not None and width < 2 * NARROWEST
    parts = panels or (("alpha",) if column else CURVES[kind])
    rows = [
        Row(
            "" if len(results) == 1 else name,
            part,
            {key: curves[key] for key in prompts or PROMPT_KINDS},
        )
        for name, curves in results.items()
        for part in parts
    ]
    return curves_grid(rows, width)


def _results(draw: Callable[..., Axes], results: Mapping[str, Any], width: float | None) -> Figure:
    """A panel for each backbone in rows of up to four, on the same axes, with one legend."""
    columns = min(4, len(results))
    if width is not None:
        columns = max(1, min(columns, int(width / NARROWEST)))
    rows = -(-len(results) // columns)
    high, wide = (2.8, columns * PANEL + 0.8) if width is None else (2.1, width)
    with styled(None if width is None else PRINT):
        figure = Figure(figsize=(wide, 0.9 + rows * high), layout="constrained")
        axes = figure.subplots(
            rows, columns, squeeze=False,
            sharex=draw is draw_framing, sharey=draw is not draw_diagnostic,
        )  # fmt: skip
        handles: dict[str, Any] = {}
        for ax, (name, result) in zip(axes.flat, results.items(), strict=False):
            draw(result, ax, legend=draw is draw_diagnostic)
            ax.set_title(name if len(results) > 1 else "")
            handles |= {label: h for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
            if ax not in axes[:, 0]:
                ax.set_ylabel("")
                ax.tick_params(labelleft=False)
        for ax in axes.flat[len(results) :]:
            ax.remove()
        if len(handles) > 1:
            figure.legend(
                list(handles.values()), list(handles), loc="outside lower center",
                ncols=min(len(handles), max(1, int(wide / LEGEND))),
                title="hollow: at chance" if draw is draw_framing else None,
            )  # fmt: skip
    return figure
