"""The logit lens of one prompt: a heatmap of words, and the words that a picture's places hold."""

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from numpy import ndarray
from PIL import Image

from probes.arguments import check_choice, check_count
from probes.errors import BadSetting, UnsupportedBackbone
from probes.plots.style import rows_of, styled, writable

if TYPE_CHECKING:
    from probes.microscope.lens import LensTable
    from probes.microscope.places import Names, Places
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
NAME_LETTERS = 12
"""Characters of a word of a name, whose label may move."""
NAMED = 3.2
"""Inches of the width of a picture whose tokens are names."""
NAMES = "Each name stands where the classifier's evidence for it is greatest."
PAD = 4
"""Pixels between the words of a label and its border."""
STEPS = 61
"""Positions that a label may take across a picture, and as many down it."""


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
    """Draw the top words that the tokens of a picture hold over it, at their places.

    The more likely a word is, compared with those of the other places, the darker is the ground
    that it is written on. Where the tokens are names of what the picture shows (smolsight reads
    photographs so), the words of one name, a line for each of its tokens, stand where the
    classifier's evidence for the name is greatest, or as near as other words permit, with a line to
    that place. That is where the tower found the name, not where the language model looks.

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
    row = table.row(site)
    held = [table.columns(tokens) for tokens in places.tokens]
    letters = NAME_LETTERS if _names(places) else LETTERS
    shares = np.array([table.probability[row, columns, 0].mean() for columns in held])
    if ax is None:
        ax = Figure(figsize=_panel(picture, places), layout="constrained").subplots()
    width, height = picture.size
    ax.imshow(np.asarray(picture.convert("RGB")), extent=(0, width, height, 0))
    ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    ax.set_title(str(table.sites[row]), fontweight="normal")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    labels = [
        ax.text(
            x, y, "\n".join(writable(word, letters) for word in table.words[row, columns, 0]),
            ha="center", va="center", fontsize=7, color="white", parse_math=False, clip_on=True,
            bbox={
                "facecolor": "black", "edgecolor": "none", "pad": 1.2, "alpha": 0.4 + 0.5 * share,
            },
        )
        for (x, y), columns, share in zip(
            places.centres * picture.size, held, shares / shares.max(), strict=True
        )
    ]  # fmt: skip
    if _names(places):
        _spread(ax, labels)
    else:
        _draw_grid(ax, places, picture)
    return ax


@styled()
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
        if _names(places):
            figure.supxlabel(NAMES, fontsize=8)
        for ax, site in zip(panels, sites, strict=True):
            draw_places(table, picture, site, ax, number=number)
    return figure


def _names(places: "Places | Names") -> bool:
    """Whether the tokens are names of what the picture shows."""
    return hasattr(places, "evidence")


def _draw_grid(ax: Axes, places: Any, picture: Image.Image) -> None:
    left, top, right, bottom = np.array(places.box) * (picture.size * 2)
    rows, columns = places.positions.shape
    across, down = np.linspace(left, right, columns + 1), np.linspace(top, bottom, rows + 1)
    for x, y in product(across[:-1], down[:-1]):
        step = across[1] - left, down[1] - top
        ax.add_patch(Rectangle((x, y), *step, fill=False, edgecolor="white", linewidth=0.4))


def _spread(ax: Axes, labels: Sequence[Text]) -> None:
    """Move labels apart, the first as little as possible, and draw a line to each that no longer
    covers the point where it was, from there."""
    ax.figure.get_figure(root=True).draw_without_rendering()  # sizes are those of the layout
    extents = [label.get_window_extent().padded(PAD) for label in labels]
    sizes = np.abs([ax.transData.inverted().transform_bbox(extent).size for extent in extents])
    edges = np.array([ax.get_xlim()[1], ax.get_ylim()[0]])
    lattice = np.meshgrid(*(np.linspace(0, edge, STEPS) for edge in edges))
    taken: list[ndarray] = []
    for label, size in zip(labels, sizes, strict=True):
        point = np.array(label.get_position())
        centres = np.vstack([point, np.reshape(lattice, (2, -1)).T])
        centres = centres.clip(size / 2, edges - size / 2)
        distances = np.linalg.norm(centres - point, axis=-1)
        for centre, other in zip(taken, sizes, strict=False):
            distances[(np.abs(centres - centre) < (size + other) / 2).all(-1)] = np.inf
        centre = centres[distances.argmin()]
        taken.append(centre)
        label.set_position(tuple(centre))
        away = point - centre
        if (np.abs(away) > size / 2).any():
            border = centre + away * (size / 2 / np.abs(away).clip(1e-9)).min()
            ax.plot(*zip(point, border, strict=True), color="white", linewidth=0.8)


def _panel(picture: Image.Image, places: Any) -> tuple[float, float]:
    """Inches of a panel in which every word can be read."""
    if _names(places):
        width = NAMED
    else:
        shown = places.box[2] - places.box[0]
        width = max(2.4, PLACE * places.positions.shape[1] / shown)
    return width, width * picture.height / picture.width + 0.3


def _places(table: "LensTable", number: int) -> "Places | Names":
    _check_table(table)
    if not 0 <= check_count("number", number, 0) < len(table.pictures):
        raise BadSetting(f"there is no picture {number}: the item has {len(table.pictures)}")
    places: Any = table.pictures[number]
    if isinstance(places, str):
        raise UnsupportedBackbone(places)
    return places


def _check_table(table: Any) -> None:
    rows_of(table, "entropy", "what probes.lens returns")
