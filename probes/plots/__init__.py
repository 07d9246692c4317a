"""Drawing, apart from measuring: each `draw_*` draws one result on one Axes and returns it.

Pass `ax=` to draw into a figure of your own, with `legend=False` and `note=False` where it has its
own legend and titles; without `ax` a new figure of the project's style is made, reachable as
`ax.figure`. pyplot holds none of the figures.
"""

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
    draw_synonyms,
)
from probes.plots.style import COLOURS, HOLLOW, MARKERS, STYLE, save, styled
from probes.plots.writes import draw_writes

__all__ = [
    "COLOURS", "HOLLOW", "MARKERS", "STYLE", "curves_figure", "draw_alpha", "draw_beta",
    "draw_diagnostic", "draw_framing", "draw_intervals", "draw_lens", "draw_norms", "draw_patching",
    "draw_places", "draw_probability", "draw_rank", "draw_separation", "draw_synonyms",
    "draw_writes", "places_figure", "save", "styled", "turns_figure",
]  # fmt: skip
