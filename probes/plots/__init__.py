"""Drawing, apart from measuring: each `draw_*` draws one result on one Axes and returns it.

Pass `ax=` to draw into a figure of your own, with `legend=False` and `note=False` where it has its
own legend and titles; without `ax` a new figure of the project's style is made, reachable as
`ax.figure`. pyplot holds none of the figures.
"""

from probes.plots.compared import (
    comparison_figure,
    draw_compared_alpha,
    draw_compared_beta,
    draw_compared_framing,
    draw_compared_separation,
    draw_costs,
    draw_extractions,
    draw_gains,
    draw_turns,
)
from probes.plots.curves import (
    curves_figure,
    draw_alpha,
    draw_beta,
    draw_norms,
    draw_probability,
    draw_rank,
    turns_figure,
)
from probes.plots.microscope import draw_lens, draw_places, places_figure
from probes.plots.patching import draw_patching
from probes.plots.results import (
    draw_diagnostic,
    draw_framing,
    draw_intervals,
    draw_separation,
    draw_spread,
    draw_synonyms,
)
from probes.plots.style import COLOURS, HOLLOW, MARKERS, STYLE, save, styled
from probes.plots.writes import draw_writes

__all__ = [
    "COLOURS", "HOLLOW", "MARKERS", "STYLE", "comparison_figure", "curves_figure", "draw_alpha",
    "draw_beta", "draw_compared_alpha", "draw_compared_beta", "draw_compared_framing",
    "draw_compared_separation", "draw_costs", "draw_diagnostic", "draw_extractions", "draw_framing",
    "draw_gains", "draw_intervals", "draw_lens", "draw_norms", "draw_patching", "draw_places",
    "draw_probability", "draw_rank", "draw_separation", "draw_spread", "draw_synonyms",
    "draw_turns", "draw_writes", "places_figure", "save", "styled", "turns_figure",
]  # fmt: skip
