"""What every sublayer writes toward the predicted word, as bars by layer."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from probes.plots.style import COLOURS, Look, add_legend, inches, new_axes, rows_of, styled

if TYPE_CHECKING:
    from probes.microscope.writes import Writes

BARS: dict[str, Look] = {
    "attn": {"color": COLOURS[0], "label": "attention", "hatch": "///", "edgecolor": "white"},
    "mlp": {"color": COLOURS[1], "label": "MLP"},
}
EMBEDDING: Look = {"color": "0.4", "label": "embedding"}
WIDTH = 0.4
"""Of a bar, in layers."""


@styled()
def draw_writes(
    writes: "Writes", ax: Axes | None = None, *, legend: bool = True, note: bool = True
) -> Axes:
    """Draw what the embedding and each sublayer add to the logit of the predicted word, by layer;
    the embedding stands at -1.

    Args:
        writes: What `writes` returned for one input.
        ax: Axes to draw into; by default those of a new figure.
        legend: Whether to put a legend to the right of the axes.
        note: Whether to write the word and its logit above the axes, at the right.

    Returns:
        The axes.

    Raises:
        BadSetting: `writes` is something else.
    """
    [found] = rows_of([writes], "constant", "the result of writes")
    ax = new_axes() if ax is None else ax
    embedding, *sublayers = (write.logit for write in found.parts)
    layers = np.arange(len(sublayers) // 2)
    ax.bar(-1, embedding, WIDTH, **EMBEDDING)
    for place, look in enumerate(BARS.values()):
        ax.bar(layers + (place - 0.5) * WIDTH, sublayers[place::2], WIDTH, linewidth=0, **look)
    ax.axhline(0, color="black", linewidth=0.8)
    fits = max(2, int(4 * inches(ax)))
    ax.set_xticks(layers[:: -(-len(layers) // fits)])
    ax.set(xlabel="layer", ylabel="logit of the predicted word")
    if legend:
        add_legend(ax)
    if note:
        word = " ".join(found.word.split()) or "white space"
        ax.set_title(
            f"“{word}”, logit {found.logit:.1f}".replace("$", r"\$"),
            loc="right", fontsize="small", fontweight="normal",
        )  # fmt: skip
    return ax
