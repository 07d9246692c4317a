"""Lexicalization curves: one panel of them, or a grid of panels at any width."""

import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from probes.measure.parts import PROMPT_KINDS, Panel
from probes.plots.style import (
    COLOURS,
    HOLLOW,
    PRINT,
    Look,
    add_legend,
    inches,
    line,
    new_axes,
    point,
    rows_of,
    styled,
    writable,
)
from probes.stats import Interval

if TYPE_CHECKING:
    from probes.measure.lexicalization import Curves

ATTENTION: Look = {"color": COLOURS[0], "linestyle": "--", "marker": "o", **HOLLOW}
MLP: Look = {"color": COLOURS[1], "linestyle": "-", "marker": "s"}
NORM: Look = {"color": "black", "linestyle": "none", "marker": "D", "markersize": 6}
NARROW = 2.2
"""Inches below which a panel has no room for its note."""


@styled()
def draw_alpha(
    curves: "Curves", ax: Axes | None = None, *, legend: bool = True, note: bool = True
) -> Axes:
    """Draw α, the cosine of the state before and after each sublayer, by layer 0…L-1; the step
    through the final norm stands at L.

    Args:
        curves: The curves of one backbone under one set of prompts.
        ax: Axes to draw into; by default those of a new figure.
        legend: Whether to put a legend to the right of the axes.
        note: Whether to write above the axes, at the right, where the state turns, and the words y*
            that are predicted most often. The step of the turn is shaded in any case.

    Returns:
        The axes.

    Raises:
        BadSetting: `curves` is something else.
    """
    return _draw("alpha", curves, ax, legend, note)


@styled()
def draw_beta(
    curves: "Curves", ax: Axes | None = None, *, legend: bool = True, note: bool = True
) -> Axes:
    """Draw β, the cosine of the state with the LM-head row of the predicted word, by layer.
    Arguments are those of `draw_alpha`."""
    return _draw("beta", curves, ax, legend, note)


@styled()
def draw_rank(
    curves: "Curves", ax: Axes | None = None, *, legend: bool = True, note: bool = True
) -> Axes:
    """Draw the median rank of the predicted word under the logit lens, by layer; rank 1 is at the
    top. Arguments are those of `draw_alpha`."""
    return _draw("rank", curves, ax, legend, note)


@styled()
def draw_probability(
    curves: "Curves", ax: Axes | None = None, *, legend: bool = True, note: bool = True
) -> Axes:
    """Draw the mean probability of the predicted word under the logit lens, by layer. Arguments are
    those of `draw_alpha`."""
    return _draw("probability", curves, ax, legend, note)


@styled()
def draw_norms(
    curves: "Curves", ax: Axes | None = None, *, legend: bool = True, note: bool = True
) -> Axes:
    """Draw the norm of the residual state after each sublayer, by layer. Arguments are those of
    `draw_alpha`."""
    return _draw("norms", curves, ax, legend, note)


def curves_figure(
    curves: "Curves | Mapping[str, Curves]",
    parts: Sequence[Panel] = ("alpha", "beta"),
    title: str | None = None,
    *,
    width: float | None = None,
) -> Figure:
    """Named curves side by side: the kinds of prompt of one backbone, or anything else to compare.

    Args:
        curves: A column for each; the keys of PROMPT_KINDS are written out. Lone curves are a
            figure of one column.
        parts: A row for each.
        title: Title of the whole figure.
        width: Inches, with letters as small as in print. By default the width follows from the
            number of columns.

    Returns:
        The figure.

    Raises:
        BadSetting: `curves` is something else.
    """
    columns = curves if isinstance(curves, Mapping) else {"": curves}
    figure = curves_grid([Row("", part, columns) for part in parts], width)
    if title is not None:
        figure.suptitle(title, fontweight="bold")
    return figure


def turns_figure(
    backbones: "Mapping[str, Mapping[str, Curves]]", *, width: float | None = None
) -> Figure:
    """α by backbone (rows) and kind of prompt (columns): where does each backbone lexicalize, and
    under which prompts?

    Args:
        backbones: The curves by kind of each named backbone, such as `report.curves`; all of the
            same kinds.
        width: As in `curves_figure`.

    Returns:
        The figure.
    """
    return curves_grid([Row(name, "alpha", curves) for name, curves in backbones.items()], width)


@dataclass(frozen=True)
class Row:
    """A row of panels that show the same quantity of several curves."""

    name: str
    """Written at the left; may be empty."""
    part: Panel
    curves: "Mapping[str, Curves]"


def curves_grid(rows: Sequence[Row], width: float | None = None) -> Figure:
    """A figure with a row of panels for each of `rows`, all of the same columns, with one legend
    and axis labels that panels share. Panels of one quantity have the same y axis; norms share it
    by row alone. `width` is that of `curves_figure`."""
    for row in rows:
        for curves in row.curves.values():
            check_curves(curves)
    with styled(None if width is None else PRINT):
        return _grid(rows, width)


def _grid(rows: Sequence[Row], width: float | None) -> Figure:
    columns = list(rows[0].curves)
    narrow = width is not None and width / len(columns) < NARROW
    size = (
        (1.2 + 3.9 * len(columns), 0.8 + 2.6 * len(rows))
        if width is None
        else (width, 0.9 + (1.15 if narrow else 1.6) * len(rows))
    )
    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(wspace=0.02 if narrow else 0.06)  # type: ignore[call-arg]
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    first: dict[Any, Axes] = {}
    for index, (row, axes) in enumerate(zip(rows, panels, strict=True)):
        lowest = index + 1 == len(rows) or _depths(rows[index + 1]) != _depths(row)
        for column, (ax, curves) in enumerate(zip(axes, row.curves.values(), strict=True)):
            key = (row.part, index if row.part == "norms" else 0)
            if ax is not first.setdefault(key, ax):
                ax.sharey(first[key])
            _panel(row.part, curves, ax, note=not narrow, width=size[0] / len(columns) - 0.3)
            ax.set_xlabel("" if index + 1 < len(rows) else "layer" if narrow else LAYERS)
            ax.tick_params(labelleft=column == 0, labelbottom=lowest)
            if column or narrow:
                ax.set_ylabel(row.name if column == 0 else "")
            elif row.name:
                ax.set_ylabel(f"{row.name}\n{ax.get_ylabel()}")
    for ax, name in zip(panels[0], columns, strict=True):
        title = PROMPT_KINDS.get(name, name)
        note = ax.get_title("right")
        letters = int((size[0] / len(columns) - 0.25) * 72 / (0.68 * rcParams["axes.titlesize"]))
        ax.set_title(textwrap.fill(title, letters) + "\n" * (note.count("\n") + 1 if note else 0))
    labels = list(dict.fromkeys(LABELS[row.part] for row in rows))
    if narrow:
        figure.supylabel("; ".join(labels), fontsize=rcParams["axes.labelsize"])
    # Every panel has the same two lines; the final norm is not in all of them.
    handles = {
        label: handle
        for ax in panels.flat
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles)
    )
    return figure


def check_curves(curves: Any) -> None:
    """Raise BadSetting unless these are curves."""
    rows_of(curves, "alpha_mlp", 'curves, such as report.curves["word"]')


def _depths(row: Row) -> list[int]:
    return [curves.num_layers for curves in row.curves.values()]


def _draw(part: Panel, curves: "Curves", ax: Axes | None, legend: bool, note: bool) -> Axes:
    ax = new_axes() if ax is None else ax
    _panel(part, curves, ax, note)
    if legend:
        add_legend(ax)
    return ax


def _panel(part: Panel, curves: "Curves", ax: Axes, note: bool, width: float | None = None) -> None:
    check_curves(curves)
    DRAWN[part](curves, ax, note)
    _label_layers(ax, curves.num_layers, part not in ("rank", "norms"), width or inches(ax))
    ax.set_ylabel(LABELS[part])


def _alpha(curves: "Curves", ax: Axes, note: bool) -> None:
    ax.update_datalim([(1, 0), (1, 1)])  # the whole range from a right angle to no turn
    _sublayers(ax, curves.alpha_attn, curves.alpha_mlp, curves.alpha_norm)
    _mark_turn(ax, curves)
    if note:
        _note(ax, f"y* {_frequent(curves.words)}\n{_turn(curves)}α = {curves.alpha_turn:.2f}")


def _beta(curves: "Curves", ax: Axes, note: bool) -> None:
    steps = (curves.beta_attn, curves.beta_mlp, curves.beta_norm)
    _sublayers(ax, *steps)
    _mark_turn(ax, curves)
    before, after = steps[1:] if curves.sharper_step == "norm" else steps[:2]
    if note:
        _note(ax, f"{_turn(curves)}β {before.mean[-1]:.2f} → {after.mean[-1]:.2f}")
    ax.axhline(0, color="0.6", linewidth=0.8)


def _rank(curves: "Curves", ax: Axes, note: bool) -> None:
    _sublayers(ax, curves.rank_attn, curves.rank_mlp)
    _log_scale(ax)
    ax.yaxis.set_inverted(True)


def _probability(curves: "Curves", ax: Axes, note: bool) -> None:
    _sublayers(ax, curves.probability_attn, curves.probability_mlp, curves.probability_norm)


def _norms(curves: "Curves", ax: Axes, note: bool) -> None:
    _sublayers(ax, curves.norm_attn, curves.norm_mlp)
    _log_scale(ax)


DRAWN: dict[Panel, Callable[["Curves", Axes, bool], None]] = {
    "alpha": _alpha,
    "beta": _beta,
    "rank": _rank,
    "probability": _probability,
    "norms": _norms,
}
LABELS: dict[Panel, str] = {
    "alpha": "α, cosine before and after",
    "beta": "β, cosine with the word y*",
    "rank": "median rank of the word y*",
    "probability": "p(y*) under the logit lens",
    "norms": "norm of the state ‖h‖",
}
LAYERS = "layer l of attn[l] and mlp[l]"


def _mark_turn(ax: Axes, curves: "Curves") -> None:
    """Shade the step in which the state turns, where there is one."""
    if curves.onset is not None:
        at = curves.num_layers - (curves.sharper_step != "norm")
        ax.axvspan(at - 0.5, at + 0.5, color="0.88", linewidth=0)


def _turn(curves: "Curves") -> str:
    if curves.onset is None:
        return "no turn: "
    last = curves.num_layers - 1
    return f"turn at {'norm' if curves.sharper_step == 'norm' else f'mlp[{last}]'}: "


def _note(ax: Axes, text: str) -> None:
    small = {"fontsize": rcParams["xtick.labelsize"], "fontweight": "normal"}
    ax.set_title(text, loc="right", parse_math=False, **small)


def _log_scale(ax: Axes) -> None:
    """A logarithmic y axis with plain numbers: the powers of ten, or 1, 2 and 5 of each where the
    data span few of them."""
    ax.set_yscale("log")
    low, high = ax.dataLim.intervaly
    if high < 30 * low:
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())


def _frequent(words: Sequence[str], count: int = 3) -> str:
    """The most frequent words with their shares, quoted as the figure's font can write them."""
    return ", ".join(
        f"{_quoted(word)} {number / len(words):.0%}"
        for word, number in Counter(words).most_common(count)
    )


def _quoted(word: str) -> str:
    """A word in quotation marks; a token may also be a part of a character alone."""
    replaced = "\N{REPLACEMENT CHARACTER}" in word
    return "part of a character" if replaced else f"'{writable(word)}'"


def _sublayers(ax: Axes, attention: Interval, mlp: Interval, norm: Interval | None = None) -> None:
    """Both sublayers over layers 0…L-1, and the step through the final norm at L."""
    layers = np.arange(len(mlp.mean))
    line(ax, layers, attention, ATTENTION | {"label": "attention"})
    line(ax, layers, mlp, MLP | {"label": "MLP"})
    if norm is not None:
        size = rcParams["lines.markersize"]
        final = Interval(*(x[0] for x in norm))
        look = NORM | {"markersize": size * 4 / 3, "label": "final norm"}
        point(ax, float(len(layers)), final, look)


def _label_layers(ax: Axes, layers: int, norm: bool, width: float) -> None:
    """Number as many layers as find room, the last one among them unless `norm` stands there."""
    letter = rcParams["xtick.labelsize"] / 72
    per_inch = (layers + norm) / width
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100) if s > 2.2 * letter * per_inch)
    last = layers - 1
    room = 2.8 * letter * per_inch  # half of `norm` and half of a number
    numbered = not norm or layers - last > room
    ticks = [t for t in range(0, last, step) if not numbered or last - t > 0.8 * step]
    ticks = [t for t in [*ticks, *([last] if numbered else [])] if not norm or layers - t > room]
    names = {t: str(t) for t in ticks} | ({layers: "norm"} if norm else {})
    ax.set_xticks(list(names), list(names.values()))
    ax.set_xlabel(LAYERS)
