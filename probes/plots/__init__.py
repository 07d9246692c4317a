"""Drawing, apart from computing: each function draws one result on one Axes and returns it.

Pass `ax=` to draw into a figure of your own; without it a new figure of the project's style is
made, reachable as `ax.figure`. pyplot is never touched. Colours are Okabe and Ito's; line styles
and markers say the same again, so that a grey print or any eye can read them. Bands and bars are
95% intervals.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine

from probes.arguments import check_choice
from probes.geometry import GeometryKind
from probes.measure.framing import FrameBias
from probes.measure.lexicalization import PROMPT_KINDS, Curves
from probes.measure.paraphrases import DiagnosticScore
from probes.measure.parts import Format
from probes.measure.synonyms import SynonymSimilarity
from probes.stats import Interval

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
    "pdf.fonttype": 42,  # TrueType, which journals ask for; letters stay letters
    "savefig.dpi": 150,
    "svg.hashsalt": "freeret",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}
"""The project's look, for `matplotlib.rc_context(STYLE)` around figures of your own."""

_style: ContextVar[dict[Any, Any]] = ContextVar("style", default=STYLE)


@contextmanager
def styled(changes: Mapping[str, Any] | None = None) -> Iterator[None]:
    """The project's look, with changes that hold for everything that is drawn inside."""
    style = {**_style.get(), **(changes or {})}
    before = _style.set(style)
    try:
        with rc_context(style):
            yield
    finally:
        _style.reset(before)


METADATA: dict[Format, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""What would differ between two files of the same figure is left out."""
Part = Literal["alpha", "beta", "rank", "probability", "norms"]
"""What of the curves a panel shows."""

Look = dict[str, Any]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
HOLLOW: Look = {"markerfacecolor": "white"}
ATTENTION: Look = {"color": COLOURS[0], "linestyle": "--", "marker": "o", **HOLLOW}
MLP: Look = {"color": COLOURS[1], "linestyle": "-", "marker": "s"}
NORM: Look = {"color": "black", "linestyle": "none", "marker": "D", "markersize": 6}
SYNONYMS: Look = {"color": COLOURS[2], "linestyle": "-", "marker": "^"}
CONTROLS: Look = {"color": "0.4", "linestyle": "--", "marker": "v", **HOLLOW}
GEOMETRIES: dict[GeometryKind, Look] = {
    "none": {"color": "black", "marker": "o", **HOLLOW},
    "centre": {"color": COLOURS[2], "marker": "s"},
    "whiten": {"color": COLOURS[3], "marker": "D"},
}


@styled()
def draw_alpha(curves: Curves, ax: Axes | None = None) -> Axes:
    """How far each sublayer turns the state, by layer 0…L-1; the final norm stands at L.

    The step where the backbone lexicalizes, the one after `curves.onset`, is shaded; above it stand
    the most frequent predicted words.
    """
    return _draw("alpha", curves, ax)


@styled()
def draw_beta(curves: Curves, ax: Axes | None = None) -> Axes:
    """Cosine of the state with the predicted word's head row, by layer; `norm` at L."""
    return _draw("beta", curves, ax)


@styled()
def draw_rank(curves: Curves, ax: Axes | None = None) -> Axes:
    """Median rank of the predicted word under the logit lens, by layer; rank 1 is at the top."""
    return _draw("rank", curves, ax)


@styled()
def draw_probability(curves: Curves, ax: Axes | None = None) -> Axes:
    """Mean probability of the predicted word under the logit lens, by layer; `norm` at L."""
    return _draw("probability", curves, ax)


@styled()
def draw_norms(curves: Curves, ax: Axes | None = None) -> Axes:
    """Length of the residual state after each sublayer, by layer."""
    return _draw("norms", curves, ax)


@styled()
def curves_figure(
    curves: Mapping[str, Curves],
    parts: Sequence[Part] = ("alpha", "beta"),
    title: str | None = None,
) -> Figure:
    """Named curves side by side: the kinds of prompt of one backbone, or anything else to compare.

    Args:
        curves: One column each; the kinds of PROMPT_KINDS are written out.
        parts: One row each.
        title: Of the whole figure.
    """
    rows: list[list[tuple[Part, Curves]]]
    rows = [[(part, each) for each in curves.values()] for part in parts]
    figure, panels = _grid(rows, [PROMPT_KINDS.get(name, name) for name in curves], sharex="col")
    for ax in panels.flat:
        ax.label_outer()
    if title is not None:
        figure.suptitle(title, fontweight="bold")
    return figure


@styled()
def turns_figure(backbones: Mapping[str, Mapping[str, Curves]]) -> Figure:
    """Alpha by backbone (rows) and kind of prompt (columns): where does each one lexicalize, and
    under which prompts?

    Args:
        backbones: The curves by kind of each named backbone, such as `report.curves`; all of the
            same kinds.
    """
    rows: list[list[tuple[Part, Curves]]]
    rows = [[("alpha", each) for each in kinds.values()] for kinds in backbones.values()]
    kinds = next(iter(backbones.values()))
    figure, panels = _grid(rows, [PROMPT_KINDS.get(name, name) for name in kinds])
    for name, row in zip(backbones, panels, strict=True):
        row[0].set_ylabel(f"{name}\n{row[0].get_ylabel()}")
    for ax in panels[:, 1:].flat:
        ax.set_ylabel("")
    for ax in panels[:-1].flat:
        ax.set_xlabel("")
    return figure


@styled()
def draw_synonyms(similarities: Sequence[SynonymSimilarity], ax: Axes | None = None) -> Axes:
    """Mean cosine of synonyms and of matched controls, by site in order of execution."""
    ax = _new_axes() if ax is None else ax
    order = np.arange(len(similarities))
    _line(ax, order, _stack([s.synonyms for s in similarities]), SYNONYMS | {"label": "synonyms"})
    _line(ax, order, _stack([s.controls for s in similarities]), CONTROLS | {"label": "controls"})
    ax.set_ylabel("mean cosine of pairs")
    _site_ticks(ax, [s.site for s in similarities])
    return _legend(ax)


@styled()
def draw_separation(similarities: Sequence[SynonymSimilarity], ax: Axes | None = None) -> Axes:
    """d′ between synonyms and controls, by site: what of the similarity is meaning."""
    ax = _new_axes() if ax is None else ax
    order = np.arange(len(similarities))
    _line(ax, order, _stack([s.separation for s in similarities]), SYNONYMS)
    ax.axhline(0, color="0.6", linewidth=0.8)
    ax.set_ylabel("d′, synonyms against controls")
    _site_ticks(ax, [s.site for s in similarities])
    return ax


@styled()
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


@styled()
def draw_diagnostic(settings: Sequence[DiagnosticScore], ax: Axes | None = None) -> Axes:
    """The best site of each prompt and geometry, by mean reciprocal rank, named beside it."""
    ax = _new_axes() if ax is None else ax
    prompts = list(dict.fromkeys(s.prompt for s in settings))
    best: dict[tuple[str, str], DiagnosticScore] = {}
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
                textcoords="offset points", va="center", fontsize=rcParams["xtick.labelsize"],
            )  # fmt: skip
    ax.set_yticks(range(len(prompts)), prompts)
    ax.yaxis.set_inverted(True)
    ax.grid(axis="x")
    ax.grid(visible=False, axis="y")
    ax.margins(x=0.2)  # room for the names of the sites
    ax.set_xlabel("reciprocal rank, best site")
    return _legend(ax)


@styled()
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


@styled()
def save(
    figure: Figure | SubFigure, path: str | Path, formats: Iterable[Format] = ("png", "svg")
) -> list[Path]:
    """Write `figure`, such as `draw_alpha(curves).figure`, to `path`.png (150 dpi), `path`.svg and
    so on.

    `path` has no suffix; its name may hold dots (`qwen2.5`). Each file is written whole or not at
    all, and the same figure gives the same bytes. Fonts are embedded in a PDF as TrueType.

    Args:
        figure: The figure, or a part of it.
        path: The file without its suffix.
        formats: Of png, svg and pdf.

    Returns:
        The files, in the order of `formats`.
    """
    written = []
    for suffix in formats:
        check_choice("format", suffix, METADATA)
        target = Path(f"{path}.{suffix}")
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.part")
        try:
            whole = figure.get_figure(root=True)
            whole.savefig(scratch, format=suffix, metadata=METADATA[suffix])
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


def _draw(part: Part, curves: Curves, ax: Axes | None) -> Axes:
    ax = _new_axes() if ax is None else ax
    PARTS[part](curves, ax)
    return _legend(ax)


def _grid(
    rows: Sequence[Sequence[tuple[Part, Curves]]], columns: Sequence[str], **share: Any
) -> tuple[Figure, Any]:
    """A panel for each part of some curves, the columns named above the first row."""
    size = (1.2 + 3.9 * len(columns), 0.8 + 2.6 * len(rows))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(wspace=0.06))
    panels = figure.subplots(len(rows), len(columns), sharey="row", squeeze=False, **share)
    for axes, row in zip(panels, rows, strict=True):
        for ax, (part, curves) in zip(axes, row, strict=True):
            PARTS[part](curves, ax)
    for ax, name in zip(panels[0], columns, strict=True):
        below = ax.get_title("right")
        ax.set_title(name + "\n" * (below.count("\n") + 1 if below else 0))
    # Every panel has the same two lines; the final norm is not in all of them.
    found = {label: handle for ax in panels.flat for handle, label in _handles(ax)}
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=len(found))
    return figure, panels


def _handles(ax: Axes) -> Iterator[tuple[Any, str]]:
    return zip(*ax.get_legend_handles_labels(), strict=True)


def _alpha(curves: Curves, ax: Axes) -> None:
    ax.update_datalim([(1, 0), (1, 1)])  # the whole way from a right angle to no turn
    _sublayers(ax, curves.alpha_attn, curves.alpha_mlp, curves.alpha_norm)
    _mark_onset(ax, curves, f"α = {curves.alpha_turn:.2f}", f"y* {_frequent(curves.words)}\n")
    ax.set_ylabel("α, cosine before and after")


def _beta(curves: Curves, ax: Axes) -> None:
    steps = (curves.beta_attn, curves.beta_mlp, curves.beta_norm)
    _sublayers(ax, *steps)
    before, after = steps[:2] if curves.onset == "attn[-1]" else steps[1:]
    _mark_onset(ax, curves, f"β {before.mean[-1]:.2f} → {after.mean[-1]:.2f}")
    ax.axhline(0, color="0.6", linewidth=0.8)
    ax.set_ylabel("β, cosine with the word y*")


def _rank(curves: Curves, ax: Axes) -> None:
    _sublayers(ax, curves.rank_attn, curves.rank_mlp)
    ax.set(yscale="log", ylabel="median rank of the word y*")
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.yaxis.set_inverted(True)


def _probability(curves: Curves, ax: Axes) -> None:
    _sublayers(ax, curves.probability_attn, curves.probability_mlp, curves.probability_norm)
    ax.set_ylabel("p(y*) under the logit lens")


def _norms(curves: Curves, ax: Axes) -> None:
    _sublayers(ax, curves.norm_attn, curves.norm_mlp)
    ax.set(yscale="log", ylabel="length of the state ‖h‖")
    ax.yaxis.set_major_formatter("{x:,.4g}")


PARTS: dict[Part, Callable[[Curves, Axes], None]] = {
    "alpha": _alpha,
    "beta": _beta,
    "rank": _rank,
    "probability": _probability,
    "norms": _norms,
}


def _mark_onset(ax: Axes, curves: Curves, figures: str, above: str = "") -> None:
    """Shade the step that follows `curves.onset`, and say above it what happens there."""
    layers = curves.num_layers
    at, step = (
        (layers - 1, f"mlp[{layers - 1}]") if curves.onset == "attn[-1]" else (layers, "norm")
    )
    ax.axvspan(at - 0.5, at + 0.5, color="0.88", linewidth=0)
    title = f"{above}turn at {step}: {figures}"
    small = {"fontsize": rcParams["xtick.labelsize"], "fontweight": "normal"}
    ax.set_title(title, loc="right", parse_math=False, **small)


def _frequent(words: Sequence[str], count: int = 3) -> str:
    """The most frequent words with their shares, quoted as the figure's font can write them."""
    return ", ".join(
        f"'{_writable(word)}' {number / len(words):.0%}"
        for word, number in Counter(words).most_common(count)
    )


def _writable(word: str) -> str:
    """Control characters, and those that the font lacks, as escapes; cut after 12 characters."""
    font = get_font(findfont(STYLE["font.family"]))
    written = "".join(
        char
        if char.isprintable() and font.get_char_index(ord(char))
        else char.encode("unicode_escape").decode()
        for char in word
    )
    return written if len(written) <= 12 else written[:11] + "…"


def _sublayers(ax: Axes, attention: Interval, mlp: Interval, norm: Interval | None = None) -> None:
    """Both sublayers over layers 0…L-1, and the step through the final norm at L."""
    count = len(mlp.mean)
    layers, last = np.arange(count), count - 1
    _line(ax, layers, attention, ATTENTION | {"label": "attention"})
    _line(ax, layers, mlp, MLP | {"label": "MLP"})
    step = next(s for s in (1, 2, 5, 10, 20, 50) if last / s <= 7)
    ticks = {0, last} | {t for t in range(0, last, step) if last - t >= step / 2}
    names = {tick: str(tick) for tick in sorted(ticks)}
    if norm is not None:
        point = Interval(*(x[0] for x in norm))
        _bar(ax, float(count), point, NORM | {"label": "final norm"})
        names[count] = "\nnorm"  # a line lower: it would run into the last layer's number
    ax.set_xticks(list(names), list(names.values()))
    ax.set_xlabel("layer l of attn[l] and mlp[l]")


def _bar(ax: Axes, x: float, y: Interval, look: Look) -> None:
    ax.errorbar(x, y.mean, yerr=[[y.mean - y.low], [y.high - y.mean]], **look)


def _site_ticks(ax: Axes, sites: Sequence[str]) -> None:
    step = 1 if len(sites) <= 6 else 2 * math.ceil(len(sites) / 12)
    picks = range(len(sites) - 1, -1, -step)
    ax.set_xticks(list(picks), [sites[i] for i in picks])
    ax.set_xlabel("site, in order of execution")
