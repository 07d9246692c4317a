"""Activation patching: how much of an answer each state brings back."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probes.plots.style import COLOURS, HOLLOW, add_legend, new_axes, rows_of, styled

if TYPE_CHECKING:
    from probes.microscope.patching import PatchGrid


@styled()
def draw_patching(grid: "PatchGrid", ax: Axes | None = None, *, legend: bool = True) -> Axes:
    """Draw the restored share of the logit difference by layer: for the last position a line for
    each sublayer, for all positions a map in which attention and MLP of a layer are neighbours.

    Args:
        grid: What `patch_grid` returned.
        ax: Axes to draw into; by default those of a new figure.
        legend: Whether to put a legend, or the scale of the map, to the right of the axes.

    Returns:
        The axes.

    Raises:
        BadSetting: `grid` is something else.
    """
    rows_of([grid], "corrupted", "what patch_grid returned")
    layers = len(grid.values)
    if grid.values.ndim == 2:
        ax = new_axes() if ax is None else ax
        for column, name, marker in ((0, "attn", "o"), (1, "mlp", "s")):
            look = {"color": COLOURS[column], "marker": marker, **(HOLLOW if column else {})}
            ax.plot(np.arange(layers), grid.values[:, column], label=name, **look)
        ax.set_ylabel(f"restored by the {grid.part}")
        if legend:
            add_legend(ax)
    else:
        if ax is None:
            size = (max(4.0, 0.14 * 2 * layers + 2), max(2.5, 0.25 * len(grid.tokens) + 1))
            ax = Figure(figsize=size, layout="constrained").subplots()
        shares = grid.values.reshape(2 * layers, -1).T
        edges = (-0.25, layers - 0.25, len(grid.tokens) - 0.5, -0.5)
        image = ax.imshow(shares, "RdBu_r", vmin=-1, vmax=1, extent=edges, aspect="auto")
        ax.set_yticks(range(len(grid.tokens)), [repr(token)[1:-1] for token in grid.tokens])
        ax.grid(visible=False)
        if legend and ax.figure is not None:
            ax.figure.colorbar(image, ax=ax, label=f"restored by the {grid.part}")
    ax.set_xlabel("layer")
    return ax
