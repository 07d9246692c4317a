"""Drawing, apart from computing: each function draws one result on one Axes and returns it.

Pass `ax=` to draw into a figure of your own; without it a new figure of the project's style is
made, reachable as `ax.figure`. pyplot is never touched. Colours are Okabe and Ito's; line styles
and markers say the same again, so that a grey print or any eye can read them. Bands and bars are
95% intervals.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from probes.diagnostic import Setting
from probes.framing import FrameBias
from probes.geometry import Kind
from probes.lexicalization import Curve, Curves
from probes.stats import Interval
from probes.synonyms import SynonymSimilarity

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelpad": 6,
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "errorbar.capsize": 2.5,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same figure on every machine
    "font.size": 10,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "savefig.dpi": 150,
    "svg.hashsalt": "freeret",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}
"""The project's look, for `matplotlib.rc_context(STYLE)` around figures of your own."""

Look = dict[str, Any]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
HOLLOW: Look = {"markerfacecolor": "white"}
ATTENTION: Look = {"color": COLOURS[0], "linestyle": "--", "marker": "o", **HOLLOW}
MLP: Look = {"color": COLOURS[1], "linestyle": "-", "marker": "s"}
NORM: Look = {"color": "black", "linestyle": "none", "marker": "D", "markersize": 6}
SYNONYMS: Look = {"color": COLOURS[2], "linestyle": "-", "marker": "^"}
CONTROLS: Look = {"color": "0.4", "linestyle": "--", "marker": "v", **HOLLOW}
GEOMETRIES: dict[Kind, Look] = {
    "none": {"color": "black", "marker": "o", **HOLLOW},
    "centre": {"color": COLOURS[2], "marker": "s"},
    "whiten": {"color": COLOURS[3], "marker": "D"},
}


@rc_context(STYLE)
def draw_alpha(curves: Curves, ax: Axes | None = None) -> Axes:
    """How far each sublayer turns the state, by layer 1…L; the final norm stands at L + 1.

    The step where the backbone lexicalizes, the one after `curves.onset`, is shaded.
    """
    ax = _new_axes() if ax is None else ax
    _alpha(ax, curves)
    return _legend(ax)


@rc_context(STYLE)
def draw_beta(curves: Curves, ax: Axes | None = None) -> Axes:
    """Cosine of the state with the predicted word's head row, by layer; `norm` at L + 1."""
    ax = _new_axes() if ax is None else ax
    _beta(ax, curves)
    return _legend(ax)


@rc_context(STYLE)
def draw_rank(curves: Curves, ax: Axes | None = None) -> Axes:
    """Rank of the predicted word under the logit lens, by layer; up is closer to the word."""
    ax = _new_axes() if ax is None else ax
    _sublayers(ax, curves.rank_attn, curves.rank_mlp)
    ax.set(yscale="log", ylabel="mean rank of the predicted word")
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.yaxis.set_inverted(True)
    return _legend(ax)


@rc_context(STYLE)
def draw_norms(curves: Curves, ax: Axes | None = None) -> Axes:
    """Length of the residual state after each sublayer, by layer."""
    ax = _new_axes() if ax is None else ax
    _sublayers(ax, curves.norm_attn, curves.norm_mlp)
    ax.set(yscale="log", ylabel="length of the state ‖h‖")
    ax.yaxis.set_major_formatter("{x:,.4g}")
    return _legend(ax)


@rc_context(STYLE)
def curves_figure(backbones: Mapping[str, Curves]) -> Figure:
    """Alpha above beta, one column for each named backbone: where does each one lexicalize?"""
    size = (1.2 + 3.9 * len(backbones), 5.6)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(wspace=0.06))
    panels = figure.subplots(2, len(backbones), sharex="col", sharey="row", squeeze=False)
    for (name, curves), (above, below) in zip(backbones.items(), panels.T, strict=True):
        _alpha(above, curves)
        _beta(below, curves)
        above.set_title(f"{name}\n")  # a line above the figures of the step
    for ax in panels.flat:
        ax.label_outer()
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


@rc_context(STYLE)
def draw_synonyms(similarities: Sequence[SynonymSimilarity], ax: Axes | None = None) -> Axes:
    """Mean cosine of synonyms and of matched controls, by site in order of execution."""
    ax = _new_axes() if ax is None else ax
    order = np.arange(len(similarities))
    _line(ax, order, _stack([s.synonyms for s in similarities]), SYNONYMS | {"label": "synonyms"})
    _line(ax, order, _stack([s.controls for s in similarities]), CONTROLS | {"label": "controls"})
    ax.set_ylabel("mean cosine of pairs")
    _site_ticks(ax, [s.site for s in similarities])
    return _legend(ax)


@rc_context(STYLE)
def draw_separation(similarities: Sequence[SynonymSimilarity], ax: Axes | None = None) -> Axes:
    """d′ between synonyms and controls, by site: what of the similarity is meaning."""
    ax = _new_axes() if ax is None else ax
    order = np.arange(len(similarities))
    _line(ax, order, _stack([s.separation for s in similarities]), SYNONYMS)
    ax.axhline(0, color="0.6", linewidth=0.8)
    ax.set_ylabel("d′, synonyms against controls")
    _site_ticks(ax, [s.site for s in similarities])
    return ax


@rc_context(STYLE)
def draw_framing(biases: Sequence[FrameBias], ax: Axes | None = None) -> Axes:
    """Label skew without content against AUC; hollow frames do not discriminate."""
    ax = _new_axes() if ax is None else ax
    ax.axhline(0.5, color="0.6", linewidth=0.8)
    ax.axvline(0.5, color="0.6", linewidth=0.8)
    for bias, marker, color in zip(biases, cycle(MARKERS), cycle(COLOURS), strict=False):
        look = {"color": color, "marker": marker, "markersize": 7, "linestyle": "none"}
        fill = {} if bias.discriminates else HOLLOW
        _bar(ax, bias.skew, bias.auc, look | fill | {"label": bias.frame})
    ax.set(xlabel="p(positive label) without content", ylabel="AUC, match against near-miss")
    ax.set_xlim(-0.03, 1.03)
    return _legend(ax, title="hollow: at chance")


@rc_context(STYLE)
def draw_diagnostic(settings: Sequence[Setting], ax: Axes | None = None) -> Axes:
    """The best site of each prompt and geometry, by mean reciprocal rank, named beside it."""
    ax = _new_axes() if ax is None else ax
    prompts = list(dict.fromkeys(s.prompt for s in settings))
    best: dict[tuple[str, str], Setting] = {}
    for setting in sorted(settings, key=lambda s: s.reciprocal_rank.mean, reverse=True):
        best.setdefault((setting.prompt, setting.geometry), setting)
    for lane, (kind, look) in zip((-0.25, 0.0, 0.25), GEOMETRIES.items(), strict=True):
        shown = [setting for setting in best.values() if setting.geometry == kind]
        rows = [prompts.index(setting.prompt) + lane for setting in shown]
        score = _stack([setting.reciprocal_rank for setting in shown])
        reach = [score.mean - score.low, score.high - score.mean]
        ax.errorbar(score.mean, rows, xerr=reach, linestyle="none", label=kind, **look)
        for row, setting in zip(rows, shown, strict=True):
            ax.annotate(
                setting.site, (setting.reciprocal_rank.high, row), (6, 0),
                textcoords="offset points", va="center", fontsize=9,
            )  # fmt: skip
    ax.set_yticks(range(len(prompts)), prompts)
    ax.yaxis.set_inverted(True)
    ax.grid(axis="x")
    ax.grid(visible=False, axis="y")
    ax.margins(x=0.2)  # room for the names of the sites
    ax.set_xlabel("mean reciprocal rank of the paraphrase at the best site")
    return _legend(ax)


@rc_context(STYLE)
def draw_intervals(
    intervals: Mapping[str, Interval], ax: Axes | None = None, reference: str | None = None
) -> Axes:
    """Named figures with their intervals, the first on top; a line through the reference."""
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


@rc_context(STYLE)
def save(figure: Figure | SubFigure, path: str | Path) -> list[Path]:
    """Write `figure`, such as `draw_alpha(curves).figure`, to `path`.png (150 dpi) and `path`.svg.

    `path` has no suffix; its name may hold dots (`qwen2.5`). Each file is written whole or not at
    all, and the same figure gives the same bytes. Returns the two files.
    """
    written = []
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        target = Path(f"{path}.{suffix}")
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.part")
        try:
            figure.get_figure(root=True).savefig(scratch, format=suffix, metadata=metadata)
            written.append(scratch.replace(target))
        finally:
            scratch.unlink(missing_ok=True)
    return written


def _new_axes() -> Axes:
    return Figure(figsize=(6.4, 3.6), layout="constrained").subplots()


def _legend(ax: Axes, title: str | None = None) -> Axes:
    """Beside the axes, where it can hide neither data nor a title."""
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title=title)
    return ax


def _stack(intervals: Sequence[Interval]) -> Interval:
    return Interval(*np.array(intervals, dtype=float).reshape(-1, 3).T)


def _line(ax: Axes, x: Any, interval: Interval, look: Look) -> None:
    ax.fill_between(x, interval.low, interval.high, color=look["color"], alpha=0.2, linewidth=0)
    ax.plot(x, interval.mean, **look)


def _alpha(ax: Axes, curves: Curves) -> None:
    ax.update_datalim([(1, 0), (1, 1)])  # the whole way from a right angle to no turn
    _sublayers(ax, curves.alpha_attn, curves.alpha_mlp, curves.alpha_norm)
    after = curves.alpha_mlp if curves.onset == "attn[-1]" else curves.alpha_norm
    _mark_onset(ax, curves, f"α = {after.mean[-1]:.2f}")
    ax.set_ylabel("α, cosine before and after")


def _beta(ax: Axes, curves: Curves) -> None:
    steps = (curves.beta_attn, curves.beta_mlp, curves.beta_norm)
    _sublayers(ax, *steps)
    before, after = steps[:2] if curves.onset == "attn[-1]" else steps[1:]
    _mark_onset(ax, curves, f"β {before.mean[-1]:.2f} → {after.mean[-1]:.2f}")
    ax.axhline(0, color="0.6", linewidth=0.8)
    ax.set_ylabel("β, cosine with the word y*")


def _mark_onset(ax: Axes, curves: Curves, figures: str) -> None:
    """Shade the step that follows `curves.onset`, and say above it what happens there."""
    last = len(curves.alpha_mlp.mean)
    at, step = (last, "final MLP") if curves.onset == "attn[-1]" else (last + 1, "final norm")
    ax.axvspan(at - 0.5, at + 0.5, color="0.88", linewidth=0)
    ax.set_title(f"turn at the {step}: {figures}", loc="right", fontsize=10, fontweight="normal")


def _sublayers(ax: Axes, attention: Curve, mlp: Curve, norm: Curve | None = None) -> None:
    """Both sublayers over layers 1…L, and the step through the final norm at L + 1."""
    last = len(mlp.mean)
    layers = np.arange(1, last + 1)
    _line(ax, layers, attention.interval, ATTENTION | {"label": "attention"})
    _line(ax, layers, mlp.interval, MLP | {"label": "MLP"})
    step = next(s for s in (1, 2, 5, 10, 20, 50) if last / s <= 7)
    ticks = {1, last} | {t for t in range(step, last, step) if last - t >= step / 2}
    names = {tick: str(tick) for tick in sorted(ticks)}
    if norm is not None:
        point = Interval(*(x[0] for x in norm.interval))
        _bar(ax, float(last + 1), point, NORM | {"label": "final norm"})
        names[last + 1] = "\nnorm"  # a line lower: it would run into the last layer's number
    ax.set_xticks(list(names), list(names.values()))
    ax.set_xlabel("layer")


def _bar(ax: Axes, x: float, y: Interval, look: Look) -> None:
    ax.errorbar(x, y.mean, yerr=[[y.mean - y.low], [y.high - y.mean]], **look)


def _site_ticks(ax: Axes, sites: Sequence[str]) -> None:
    step = 1 if len(sites) <= 6 else 2 * math.ceil(len(sites) / 12)
    picks = range(len(sites) - 1, -1, -step)
    ax.set_xticks(list(picks), [sites[i] for i in picks])
    ax.set_xlabel("site, in order of execution")
