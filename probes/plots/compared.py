"""Drawings of a comparison of reports: one quantity of all of them on one Axes, or all in a figure.

Reports have a colour each; the checkpoints of a series have shades of one scale, and a line joins
them. A report that does not hold a part is missing from its panel, which says why.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from probes.display import cell
from probes.measure.diagnostic.hybrid import gain_of_words
from probes.measure.diagnostic.scores import select_extraction
from probes.measure.parts import NO_TURN, PROMPT_KINDS, PartName
from probes.measure.reranking import surest_gain
from probes.model.sites import PAPER_SITE
from probes.plots.style import (
    COLOURS,
    HOLLOW,
    MARKERS,
    Look,
    add_legend,
    line,
    new_axes,
    point,
    stack,
    styled,
)
from probes.stats import Interval

if TYPE_CHECKING:
    from probes.measure.lexicalization import Curves
    from probes.reports.comparison import Compared, Comparison

LETTERS = 24
"""Letters of the name of a report in a figure."""
LAST = 4
"""Layers whose curves are compared, counted from the end."""
Choice = tuple[str, str, str]
Mark = tuple[Interval, Look]
SWATCH: Look = {"marker": "s"}
FIXED: dict[str, Choice] = {
    "paper's choice": ("control", PAPER_SITE, "none"),
    "E5-V extraction": ("e5v", "norm", "none"),
}
"""Prompt, site and geometry that the best extraction is compared with."""


@styled()
def draw_compared_alpha(
    comparison: "Comparison", ax: Axes | None = None, *, kind: str = "word", legend: bool = True
) -> Axes:
    """Draw α of the last layers of each report, counted from the end.

    Args:
        comparison: What `compare` returned.
        ax: Axes to draw into; by default those of a new figure.
        kind: The kind of prompt, of PROMPT_KINDS.
        legend: Whether to put a legend to the right of the axes.

    Returns:
        The axes.
    """
    ax = _draw_last_layers(comparison, ax, "alpha", kind, legend)
    ax.set_ylabel("α, cosine before and after")
    return ax


@styled()
def draw_compared_beta(
    comparison: "Comparison", ax: Axes | None = None, *, kind: str = "word", legend: bool = True
) -> Axes:
    """Draw β of the last layers of each report. Arguments are those of `draw_compared_alpha`."""
    ax = _draw_last_layers(comparison, ax, "beta", kind, legend)
    ax.set_ylabel("β, cosine with the word y*")
    return ax


@styled()
def draw_turns(comparison: "Comparison", ax: Axes | None = None, *, legend: bool = True) -> Axes:
    """Draw α of the sharper of the last two steps by report and kind of prompt: a square is the
    last MLP, a diamond the final norm, and a hollow mark no turn. Arguments are those of
    `draw_compared_alpha`."""

    def mark(report: "Compared", kind: str) -> Mark:
        curves = report.report.curves[kind]
        step = curves.alpha_norm if curves.sharper_step == "norm" else curves.alpha_mlp
        look: Look = {"marker": "D" if curves.sharper_step == "norm" else "s"}
        return _last(step), look | ({} if curves.onset else HOLLOW)

    kinds = {title: partial(mark, kind=kind) for kind, title in PROMPT_KINDS.items()}
    ax = _by_report(comparison, ax, "curves", kinds)
    ax.axhline(NO_TURN, color="0.6", linewidth=0.8)
    ax.set_ylabel("α of the sharper last step")
    steps = {"last MLP": SWATCH, "final norm": {"marker": "D"}, "no turn": SWATCH | HOLLOW}
    grey = [_handle(name, {"color": "0.4", **look}) for name, look in steps.items()]
    kinds, _ = ax.get_legend_handles_labels()
    return _with_legend(ax, legend, [*kinds, *grey])


@styled()
def draw_compared_separation(
    comparison: "Comparison", ax: Axes | None = None, *, legend: bool = True
) -> Axes:
    """Draw d′ of synonyms against controls by depth, from the embedding (0) to the final norm (1).
    Arguments are those of `draw_compared_alpha`."""
    ax = new_axes() if ax is None else ax
    for report, look in _lines(comparison, "synonyms", ax):
        found = report.report.synonyms
        depth = np.linspace(0, 1, len(found))
        line(ax, depth, stack([s.separation for s in found]), look | {"marker": ""})
    ax.axhline(0, color="0.6", linewidth=0.8)
    ax.set(xlabel="depth, from the embedding to the final norm", ylabel="d′, synonyms and controls")
    return _with_legend(ax, legend)


@styled()
def draw_compared_framing(
    comparison: "Comparison", ax: Axes | None = None, *, legend: bool = True
) -> Axes:
    """Draw label skew under content-free input against AUC: a colour for each report, a marker for
    each frame, hollow where it is at chance. Arguments are those of `draw_compared_alpha`."""
    ax = new_axes() if ax is None else ax
    ax.axhline(0.5, color="0.6", linewidth=0.8)
    ax.axvline(0.5, color="0.6", linewidth=0.8)
    held = _lines(comparison, "framing", ax)
    frames = list(dict.fromkeys(bias.frame for each, _ in held for bias in each.report.framing))
    markers = dict(zip(frames, cycle(MARKERS), strict=False))
    for report, look in held:
        for bias in report.report.framing:
            fill = {} if bias.discriminates else HOLLOW
            mark = look | {"marker": markers[bias.frame], "linestyle": "none", "markersize": 6}
            point(ax, bias.skew, bias.auc, mark | fill | {"label": None})
    for series in comparison.series:
        for frame in frames:
            path = [
                (bias.skew, bias.auc.mean)
                for place in series
                for bias in comparison.reports[place].report.framing
                if bias.frame == frame
            ]
            ax.plot(*zip(*path, strict=True), color="0.7", linewidth=0.8, zorder=0)
    ax.set(xlabel="p(positive label), content-free input", ylabel="AUC, match against near-miss")
    gaps, _ = ax.get_legend_handles_labels()
    colours = [_handle(_label(each), look | SWATCH) for each, look in held]
    shapes = [_handle(f, {"marker": m, "color": "0.4"}) for f, m in markers.items()]
    return _with_legend(ax, legend, [*colours, *gaps, *shapes])


@styled()
def draw_extractions(
    comparison: "Comparison", ax: Axes | None = None, *, legend: bool = True
) -> Axes:
    """Draw the mean reciprocal rank of paraphrases by the best extraction of each report, and by
    the two fixed ones. Arguments are those of `draw_compared_alpha`."""

    def best(each: "Compared") -> Mark:
        return select_extraction(each.report.diagnostic).reciprocal_rank, {"marker": "o"}

    def fixed(each: "Compared", choice: Choice) -> Mark | None:
        found = (
            (s.reciprocal_rank, {"marker": "v", **HOLLOW})
            for s in each.report.diagnostic
            if (s.prompt, s.site, s.geometry, s.task) == (*choice, None)
        )
        return next(found, None)

    named = {name: partial(fixed, choice=choice) for name, choice in FIXED.items()}
    ax = _by_report(comparison, ax, "diagnostic", {"best extraction": best, **named})
    ax.set_ylabel("mean reciprocal rank")
    return _with_legend(ax, legend)


@styled()
def draw_gains(comparison: "Comparison", ax: Axes | None = None, *, legend: bool = True) -> Axes:
    """Draw the gain of words beside vectors and of reranking over stage 1, in mean reciprocal rank;
    hollow where it is within noise. Arguments are those of `draw_compared_alpha`."""

    def look(gain: Interval) -> Mark:
        return gain, {"marker": "o", **({} if gain.low > 0 else HOLLOW)}

    def words(each: "Compared") -> Mark | None:
        gains = each.report.hybrid
        return look(gain_of_words(gains)[-1]) if gains else None

    def reranking(each: "Compared") -> Mark | None:
        fusions = each.report.reranking
        return look(surest_gain(fusions)[-1]) if fusions else None

    ax = _by_report(comparison, ax, "reranking", {"words": words, "reranking": reranking})
    ax.axhline(0, color="0.6", linewidth=0.8)
    ax.set_ylabel("gain in reciprocal rank")
    return _with_legend(ax, legend)


@styled()
def draw_costs(comparison: "Comparison", ax: Axes | None = None, *, legend: bool = True) -> Axes:
    """Draw the minutes that probing took. Arguments are those of `draw_compared_alpha`; there is no
    legend."""
    ax = new_axes() if ax is None else ax
    looks = _looks(comparison)
    for place, (each, look) in enumerate(zip(comparison.reports, looks, strict=True)):
        minutes = sum(each.report.timings.values()) / 60
        if not minutes:
            _gap(ax, place, "not measured")
        else:
            ax.bar(place, minutes, color=look["color"], width=0.6)
            ax.annotate(f"{minutes:.1f}", (place, minutes), ha="center", va="bottom")
    ax.set_ylabel("minutes of probing")
    _name_reports(comparison, ax)
    return ax


PANELS: dict[str, Callable[..., Axes]] = {
    "α of the last layers, asked for a word": draw_compared_alpha,
    "Where the state turns": draw_turns,
    "β of the last layers, asked for a word": draw_compared_beta,
    "Best extraction": draw_extractions,
    "Synonyms against controls": draw_compared_separation,
    "Words and reranking": draw_gains,
    "Frames": draw_compared_framing,
    "Cost": draw_costs,
}
"""The panels of a comparison by their titles."""


@styled()
def comparison_figure(comparison: "Comparison") -> Figure:
    """All panels of a comparison in one figure.

    Args:
        comparison: What `compare` returned.

    Returns:
        The figure.
    """
    rows = len(PANELS) // 2
    figure = Figure(figsize=(12.0, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, 2).flat
    for ax, (title, draw) in zip(axes, PANELS.items(), strict=True):
        draw(comparison, ax)
        ax.set_title(title)
    return figure


def _draw_last_layers(
    comparison: "Comparison", ax: Axes | None, part: str, kind: str, legend: bool
) -> Axes:
    ax = new_axes() if ax is None else ax
    for report, look in _lines(comparison, "curves", ax):
        steps = _last_steps(report.report.curves[kind], part)
        line(ax, np.arange(-len(steps.mean), 0), steps, look)
    names = [f"{step}[{layer}]" for layer in range(-LAST, 0) for step in ("attn", "mlp")]
    ax.set_xticks(range(-len(names) - 1, 0), [*names, "norm"], rotation=45, ha="right")
    return _with_legend(ax, legend)


def _last_steps(curves: "Curves", part: str) -> Interval:
    """α or β of the last layers, attention and MLP in turn, then the final norm."""
    attn, mlp, norm = (getattr(curves, f"{part}_{step}") for step in ("attn", "mlp", "norm"))
    return Interval(
        *(
            np.append(np.column_stack([a[-LAST:], m[-LAST:]]).ravel(), n)
            for a, m, n in zip(attn, mlp, norm, strict=True)
        )
    )


def _last(curve: Interval) -> Interval:
    return Interval(*(float(values[-1]) for values in curve))


def _by_report(
    comparison: "Comparison",
    ax: Axes | None,
    part: PartName,
    quantities: Mapping[str, Callable[["Compared"], Mark | None]],
) -> Axes:
    """A point with its interval for each report and quantity; checkpoints are joined."""
    ax = new_axes() if ax is None else ax
    offsets = np.linspace(-0.15, 0.15, len(quantities))
    for (name, mark), offset, color in zip(quantities.items(), offsets, COLOURS, strict=False):
        marks = {p: mark(each) for p, each in enumerate(comparison.reports) if each.holds(part)}
        drawn = {place: found for place, found in marks.items() if found is not None}
        for series in comparison.series:
            path = [(p + offset, drawn[p][0].mean) for p in series if p in drawn]
            ax.plot(*np.array(path).reshape(-1, 2).T, color=color)
        for place, (interval, look) in drawn.items():
            point(ax, place + offset, interval, {"color": color, "linestyle": "none", **look})
        ax.plot([], [], color=color, marker="o", linestyle="none", label=textwrap.fill(name, 18))
    _name_reports(comparison, ax)
    for place, each in enumerate(comparison.reports):
        if not each.holds(part):
            _gap(ax, place, each.reason(part))
    return ax


def _lines(comparison: "Comparison", part: PartName, ax: Axes) -> Sequence[tuple["Compared", Look]]:
    """The reports that hold a part, each with its look; the legend says why others are missing."""
    held = []
    for each, look in zip(comparison.reports, _looks(comparison), strict=True):
        if each.holds(part):
            held.append((each, look | {"label": _label(each)}))
        else:
            label = textwrap.fill(f"{_label(each)}: {each.reason(part)}", 24)
            ax.plot([], [], linestyle="none", label=label)
    return held


def _gap(ax: Axes, place: int, reason: str) -> None:
    """The reason for a gap, at the place of its report."""
    ax.text(
        place, 0.5, textwrap.fill(reason, 24), rotation=90, ha="center", va="center", color="0.4",
        fontsize=8, transform=ax.get_xaxis_transform(), parse_math=False,
    )  # fmt: skip


def _looks(comparison: "Comparison") -> list[Look]:
    """A colour for each report, and for the checkpoints of a series shades of one scale."""
    looks: list[Look] = [
        {"color": color, "marker": marker, "linestyle": "-"}
        for _, color, marker in zip(
            comparison.reports, cycle(COLOURS), cycle(MARKERS), strict=False
        )
    ]
    for series in comparison.series:
        shades = colormaps["viridis"](np.linspace(0, 0.85, len(series)))
        for place, shade in zip(series, shades, strict=True):
            looks[place] |= {"color": shade, "marker": "o"}
    return looks


def _name_reports(comparison: "Comparison", ax: Axes) -> None:
    names = [_label(each) for each in comparison.reports]
    ax.set_xticks(range(len(names)), names, rotation=30, ha="right", parse_math=False)
    ax.set_xlim(-0.5, len(names) - 0.5)


def _with_legend(ax: Axes, legend: bool, handles: Sequence[Artist] | None = None) -> Axes:
    """The axes with a legend, in which names of reports are never formulas."""
    if legend:
        for text in add_legend(ax, handles=handles).get_texts():
            text.set_parse_math(False)
    return ax


def _label(each: "Compared") -> str:
    """The name of a report as far as a figure has room for it."""
    return cell(each.name, LETTERS)


def _handle(name: str, look: Look) -> Line2D:
    return Line2D([], [], **{**look, "linestyle": "none", "label": name})
