"""One drawing for each of the other results: synonyms, frames, extractions, named intervals."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from probes.errors import BadSetting
from probes.plots.style import (
    COLOURS,
    HOLLOW,
    MARKERS,
    Look,
    add_legend,
    inches,
    line,
    new_axes,
    point,
    rows_of,
    stack,
    styled,
)
from probes.stats import Interval

if TYPE_CHECKING:
    from probes.measure.diagnostic.scores import DiagnosticScore
    from probes.measure.framing import FrameBias
    from probes.measure.synonyms import SynonymSimilarity

SYNONYMS: Look = {"color": COLOURS[2], "linestyle": "-", "marker": "^"}
CONTROLS: Look = {"color": "0.4", "linestyle": "--", "marker": "v", **HOLLOW}
MEAN_RANK = "mean reciprocal rank"


@styled()
def draw_synonyms(
    similarities: "Sequence[SynonymSimilarity] | SynonymSimilarity",
    ax: Axes | None = None,
    *,
    legend: bool = True,
    note: bool = True,
) -> Axes:
    """Draw the mean cosine of synonyms and of matched controls, by site in order of execution.

    Args:
        similarities: What `synonym_similarity` returned, or one of them.
        ax: Axes to draw into; by default those of a new figure.
        legend: Whether to put a legend to the right of the axes.
        note: Has no effect here: nothing is written above the axes.

    Returns:
        The axes.

    Raises:
        BadSetting: `similarities` are something else.
    """
    ax = new_axes() if ax is None else ax
    rows = rows_of(similarities, "separation", "results of synonym_similarity")
    order = np.arange(len(rows))
    line(ax, order, stack([s.synonyms for s in rows]), SYNONYMS | {"label": "synonyms"})
    line(ax, order, stack([s.controls for s in rows]), CONTROLS | {"label": "controls"})
    ax.set_ylabel("mean cosine of pairs")
    _label_sites(ax, [s.site for s in rows])
    if legend:
        add_legend(ax)
    return ax


@styled()
def draw_spread(
    similarities: "Sequence[SynonymSimilarity] | SynonymSimilarity",
    ax: Axes | None = None,
    *,
    legend: bool = True,
    note: bool = True,
) -> Axes:
    """Draw how the cosines of synonyms and of controls are distributed, by site: the median, and
    bands of the middle 50% and 90%. Arguments are those of `draw_synonyms`.

    Raises:
        BadSetting: `similarities` are something else, or of a report that does not hold this.
    """
    ax = new_axes() if ax is None else ax
    rows = rows_of(similarities, "separation", "results of synonym_similarity")
    order = np.arange(len(rows))
    for name, look in (("synonym", SYNONYMS), ("control", CONTROLS)):
        spreads = [getattr(row, f"{name}_spread") for row in rows]
        if None in spreads:
            raise BadSetting("this report holds no distributions: probe again")
        p5, p25, p50, p75, p95 = np.array(spreads).T
        for low, high in ((p5, p95), (p25, p75)):
            ax.fill_between(order, low, high, color=look["color"], alpha=0.2, linewidth=0)
        ax.plot(order, p50, label=f"{name}s", **look)
    ax.set_ylabel("cosine of pairs")
    _label_sites(ax, [row.site for row in rows])
    if legend:
        add_legend(ax)
    return ax


@styled()
def draw_separation(
    similarities: "Sequence[SynonymSimilarity] | SynonymSimilarity",
    ax: Axes | None = None,
    *,
    legend: bool = True,
    note: bool = True,
) -> Axes:
    """Draw d′ between synonyms and controls by site: how much of the similarity is meaning. There
    is one line and no legend. Arguments are those of `draw_synonyms`."""
    ax = new_axes() if ax is None else ax
    rows = rows_of(similarities, "separation", "results of synonym_similarity")
    line(ax, np.arange(len(rows)), stack([s.separation for s in rows]), SYNONYMS)
    ax.axhline(0, color="0.6", linewidth=0.8)
    ax.set_ylabel("d′, synonyms against controls")
    _label_sites(ax, [s.site for s in rows])
    return ax


@styled()
def draw_framing(
    biases: "Sequence[FrameBias] | FrameBias",
    ax: Axes | None = None,
    *,
    legend: bool = True,
    note: bool = True,
) -> Axes:
    """Draw label skew under content-free input against AUC.

    Args:
        biases: What `framing_bias` returned, or one of them.
        ax: Axes to draw into; by default those of a new figure.
        legend: Whether to put a legend to the right of the axes.
        note: Whether the legend says that hollow frames do not discriminate.

    Returns:
        The axes.

    Raises:
        BadSetting: `biases` are something else.
    """
    ax = new_axes() if ax is None else ax
    ax.axhline(0.5, color="0.6", linewidth=0.8)
    ax.axvline(0.5, color="0.6", linewidth=0.8)
    rows = rows_of(biases, "skew", "results of framing_bias")
    for bias, marker, color in zip(rows, cycle(MARKERS), cycle(COLOURS), strict=False):
        look = {"color": color, "marker": marker, "markersize": 7, "linestyle": "none"}
        fill = {} if bias.discriminates else HOLLOW
        point(ax, bias.skew, bias.auc, look | fill | {"label": bias.frame})
    # Only as wide as the frames need: side by side without skew, they would lie on each other.
    ax.update_datalim([(0.45, 0.5), (0.55, 0.5)])
    ax.margins(x=0.1)
    ax.autoscale_view(scaley=False)
    ax.set(xlabel="p(positive label), content-free input", ylabel="AUC, match against near-miss")
    if legend:
        add_legend(ax, "hollow: at chance" if note else None)
    return ax


@styled()
def draw_diagnostic(
    scores: "Sequence[DiagnosticScore] | DiagnosticScore",
    ax: Axes | None = None,
    *,
    legend: bool = True,
    note: bool = True,
) -> Axes:
    """Draw the mean reciprocal rank of every extraction as a heatmap: a row for each prompt and
    geometry, a column for each site.

    Args:
        scores: What `diagnose` returned, or one of them.
        ax: Axes to draw into; by default those of a new figure.
        legend: Whether to put a colour bar to the right of the axes.
        note: Whether to write the value into each cell, where there is room, and to frame the
            highest.

    Returns:
        The axes.

    Raises:
        BadSetting: `scores` are something else.
    """
    import seaborn

    ax = new_axes() if ax is None else ax
    rows = rows_of(scores, "reciprocal_rank", "results of diagnose")
    extractions = list(dict.fromkeys((s.wording, s.geometry) for s in rows))
    sites = list(dict.fromkeys(s.site for s in rows))
    table = np.full((len(extractions), len(sites)), np.nan)
    for s in rows:
        table[extractions.index((s.wording, s.geometry)), sites.index(s.site)] = (
            s.reciprocal_rank.mean
        )
    letters = 0.8 * rcParams["xtick.labelsize"]
    names = 10 * letters / 72  # the y labels, which the axes make room for later
    fits = (inches(ax) - names) / len(sites) > 2.3 * letters / 72
    seaborn.heatmap(
        table, ax=ax, vmin=0, vmax=1, cmap="cividis", annot=bool(note and fits), fmt=".2f",
        annot_kws={"fontsize": letters}, linewidths=0.5, cbar=legend,
        cbar_kws={"label": MEAN_RANK, "pad": 0.02} if legend else None,
        xticklabels=sites, yticklabels=[f"{prompt}, {kind}" for prompt, kind in extractions],
    )  # fmt: skip
    if note:
        row, column = map(int, np.unravel_index(np.nanargmax(table), table.shape))
        ax.add_patch(Rectangle((column, row), 1, 1, fill=False, color="black", linewidth=1.5))
    ax.tick_params(axis="x", rotation=90)
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(length=0)
    ax.set_xlabel("site")
    ax.grid(visible=False)
    return ax


@styled()
def draw_intervals(
    intervals: Mapping[str, Interval], ax: Axes | None = None, reference: str | None = None
) -> Axes:
    """Draw named estimates with their intervals, the first on top.

    Args:
        intervals: The estimates.
        ax: Axes to draw into; by default those of a new figure.
        reference: The name of the estimate that a vertical line goes through.

    Returns:
        The axes.
    """
    if ax is None:
        figure = Figure(figsize=(6.4, 0.8 + 0.26 * len(intervals)), layout="constrained")
        ax = figure.subplots()
    if reference is not None:
        ax.axvline(float(intervals[reference].mean), color="0.6", linewidth=0.8)
    for row, interval in enumerate(intervals.values()):
        mean, low, high = map(float, interval)
        ax.errorbar(mean, row, xerr=[[mean - low], [high - mean]], color=COLOURS[0], marker="o")
    ax.set_yticks(range(len(intervals)), list(intervals))
    ax.set_ylim(len(intervals) - 0.5, -0.5)
    ax.grid(axis="x")
    ax.grid(visible=False, axis="y")
    return ax


def _label_sites(ax: Axes, sites: Sequence[str]) -> None:
    """Name the first and the last site, and between them as many as find room."""
    last = len(sites) - 1
    step = 1 if len(sites) <= 6 else 2 * math.ceil(len(sites) / 12)
    picks = [i for i in range(last, 0, -step) if i >= 0.8 * step] + [0]
    ax.set_xticks(picks, [sites[i] for i in picks])
    ax.set_xlabel("site, in order of execution")
