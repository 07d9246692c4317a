"""The logit lens of one prompt: a heatmap of words, and the words that a picture's places hold."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from probes.arguments import check_choice, check_count
from probes.errors import BadSetting, UnsupportedBackbone
from probes.plots.style import rows_of, styled, writable

if TYPE_CHECKING:
    from probes.microscope.lens import LensTable
    from probes.microscope.places import Places
    from probes.model.sites import Site

Quantity = Literal["probability", "entropy", "alpha", "beta"]
QUANTITIES: dict[Quantity, str] = {
    "probability": "probability of the word",
    "entropy": "entropy in nats",
    "alpha": "α, cosine before and after",
    "beta": "β, cosine with the word y*",
}
CELL = (0.75, 0.21)
"""Inches of a cell of the heatmap."""
PLACE = 0.55
"""Inches of the width of a place, in which a short word can be read."""
LETTERS = 9
"""Characters of a word that a cell or a place has room for."""


@styled()
def draw_lens(
    table: "LensTable",
    ax: Axes | None = None,
    *,
    colour: Quantity = "probability",
    positions: int = 12,
    legend: bool = True,
    note: bool = True,
) -> Axes:
    """Draw the top word of each site (down, in order of execution) and position (across).

    Args:
        table: What `probes.lens` returned.
        ax: Axes to draw into; by default those of a new figure in which every word can be read.
        colour: What the colour of a cell says: `probability` of the word, `entropy` of the
            distribution, `alpha` or `beta`.
        positions: The most positions, counted from the end of the table.
        legend: Whether to put a colour bar to the right of the axes.
        note: Whether to write above the axes which positions of the prompt are shown, where they
            are not all.

    Returns:
        The axes.

    Raises:
        BadSetting: `table` is something else, or there is no such colour.
    """
    import seaborn

    _check_table(table)
    check_choice("colour", colour, get_args(Quantity))
    shown = slice(-check_count("positions", positions), None)
    values = table.probability[..., 0] if colour == "probability" else getattr(table, colour)
    words = [[writable(word, LETTERS) for word in row] for row in table.words[:, shown, 0]]
    tokens = [writable(token, LETTERS) for token in table.tokens[shown]]
    if ax is None:
        width, height = CELL[0] * len(tokens) + 2.2, max(CELL[1] * len(words) + 1.2, 2.8)
        ax = Figure(figsize=(width, height), layout="constrained").subplots()
    seaborn.heatmap(
        np.asarray(values[:, shown], dtype=float), ax=ax, annot=np.array(words), fmt="",
        cmap="Blues", vmin=min(0.0, float(np.nanmin(values))),
        vmax=1 if colour in ("probability", "alpha") else float(np.nanmax(values)),
        annot_kws={"fontsize": 7, "parse_math": False}, linewidths=0.5, cbar=legend,
        cbar_kws={"label": QUANTITIES[colour], "pad": 0.02} if legend else None,
    )  # fmt: skip
    ax.set_xticks(np.arange(len(tokens)) + 0.5, tokens, rotation=60, parse_math=False)
    ax.set_yticks(np.arange(len(words)) + 0.5, list(map(str, table.sites)), rotation=0)
    ax.tick_params(length=0)
    ax.set(xlabel="token", ylabel="site, in order of execution")
    ax.grid(visible=False)
    if note and len(tokens) < table.length:
        first, last = table.positions[shown][0], table.positions[shown][-1]
        ax.set_title(f"tokens {first}–{last} of {table.length}", fontweight="normal")
    return ax


@styled()
def draw_places(
    table: "LensTable",
    picture: Image.Image,
    site: "str | Site" = "norm",
    ax: Axes | None = None,
    *,
    number: int = 0,
) -> Axes:
    """Draw the top word of each place of a picture over it. The more likely a word is, compared
    with those of the other places, the darker is the ground that it is written on.

    Args:
        table: What `probes.lens` returned for an item or exchange that holds the picture, at best
            with `content=True`: then the words are content words.
        picture: The picture.
        site: The site whose words are drawn.
        ax: Axes to draw into; by default those of a new figure in which every word can be read.
        number: Which picture of the item it is, counted from 0.

    Returns:
        The axes.

    Raises:
        BadSetting: `table` is something else, or the item has no such picture.
        UnsupportedBackbone: The tokens of the picture do not stand for places in it.
        NotRecorded: The table has no such site, or lacks tokens of the picture.
    """
    places = _places(table, number)
    grid, (left, top, right, bottom) = places.positions, places.box
    columns = table.columns(grid.ravel().tolist())
    words = table.words[table.row(site), columns, 0].reshape(grid.shape)
    shares = table.probability[table.row(site), columns, 0].reshape(grid.shape)
    if ax is None:
        ax = Figure(figsize=_panel(picture, places), layout="constrained").subplots()
    width, height = picture.size
    ax.imshow(np.asarray(picture.convert("RGB")), extent=(0, width, height, 0))
    rows, across = grid.shape
    step = (right - left) * width / across, (bottom - top) * height / rows
    for (row, column), word in np.ndenumerate(words):
        x, y = left * width + column * step[0], top * height + row * step[1]
        ax.add_patch(Rectangle((x, y), *step, fill=False, edgecolor="white", linewidth=0.4))
        ax.text(
            x + step[0] / 2, y + step[1] / 2, writable(word, LETTERS), ha="center", va="center",
            fontsize=7, color="white", parse_math=False, clip_on=True,
            bbox={
                "facecolor": "black", "edgecolor": "none", "pad": 1.2,
                "alpha": 0.3 + 0.6 * float(shares[row, column] / shares.max()),
            },
        )  # fmt: skip
    ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    ax.set_title(str(table.sites[table.row(site)]), fontweight="normal")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    return ax


def places_figure(
    table: "LensTable",
    picture: Image.Image,
    sites: "Sequence[str | Site] | None" = None,
    *,
    number: int = 0,
) -> Figure:
    """Draw the words of a picture's places at several sites, side by side.

    Args:
        table: As in `draw_places`.
        picture: The picture.
        sites: A panel for each; by default four from the middle of the table's sites to the last.
        number: Which picture of the item it is, counted from 0.

    Returns:
        The figure.

    Raises:
        What `draw_places` raises.
    """
    places = _places(table, number)
    if sites is None:
        last = len(table.sites) - 1
        sites = [
            table.sites[i] for i in sorted({round(last * share / 6) for share in (3, 4, 5, 6)})
        ]
    width, height = _panel(picture, places)
    with styled():
        figure = Figure(figsize=(width * len(sites), height), layout="constrained")
        panels = figure.subplots(1, len(sites), squeeze=False)[0]
        for ax, site in zip(panels, sites, strict=True):
            draw_places(table, picture, site, ax, number=number)
    return figure


def _panel(picture: Image.Image, places: "Places") -> tuple[float, float]:
    """Inches of a panel in which every place is wide enough for a word."""
    shown = places.box[2] - places.box[0]
    width = max(2.4, PLACE * places.positions.shape[1] / shown)
    return width, width * picture.height / picture.width + 0.3


def _places(table: "LensTable", number: int) -> "Places":
    _check_table(table)
    if not 0 <= check_count("number", number, 0) < len(table.pictures):
        raise BadSetting(f"there is no picture {number}: the item has {len(table.pictures)}")
    places: Any = table.pictures[number]
    if isinstance(places, str):
        raise UnsupportedBackbone(places)
    return places


def _check_table(table: Any) -> None:
    rows_of(table, "entropy", "what probes.lens returns")
