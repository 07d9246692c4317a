"""The look of all figures, and how they are written to files.

Colours are Okabe and Ito's; line styles and markers carry the same distinctions, for prints in grey
and for readers who see colours differently. Bands and bars are 95% intervals.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import findfont, get_font
from matplotlib.legend import Legend

from probes.arguments import check_choice
from probes.errors import BadSetting
from probes.measure.parts import Format
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
PRINT: dict[Any, Any] = {
    "axes.labelpad": 3,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "errorbar.capsize": 1.5,
    "figure.titlesize": 9,
    "font.size": 8,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "lines.linewidth": 1.0,
    "lines.markersize": 2.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}
"""Changes of STYLE, in points, for figures that are printed at the width that they are drawn at."""
METADATA: dict[Format, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""Metadata that would differ between two files of the same figure is left out."""

Look = dict[str, Any]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
HOLLOW: Look = {"markerfacecolor": "white"}

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


@styled()
def save(
    figure: Figure | SubFigure, path: str | Path, formats: Iterable[Format] | None = None
) -> list[Path]:
    """Write a figure, such as `draw_alpha(curves).figure`, to a file of each format.

    Each file is written whole or not at all, and the same figure gives the same bytes. Fonts are
    embedded in a PDF as TrueType; a PNG has 150 dpi.

    Args:
        figure: The figure, or a part of it.
        path: The file without its suffix; its name may hold dots (`qwen2.5`). A suffix .png, .svg
            or .pdf is taken off.
        formats: Of png, svg and pdf. By default the format that the suffix of `path` names, and
            png and svg where it names none.

    Returns:
        The files, in the order of `formats`.
    """
    stem, dot, suffix = str(path).rpartition(".")
    named: list[Format] = [name for name in METADATA if dot and suffix == name]
    default: list[Format] = named or ["png", "svg"]
    written = []
    for name in formats or default:
        check_choice("format", name, METADATA)
        target = Path(f"{stem if named else path}.{name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.part")
        try:
            whole = figure.get_figure(root=True)
            whole.savefig(scratch, format=name, metadata=METADATA[name])
            written.append(scratch.replace(target))
        finally:
            scratch.unlink(missing_ok=True)
    return written


def new_axes() -> Axes:
    """The axes of a new figure, which pyplot does not hold."""
    return Figure(figsize=(6.4, 3.6), layout="constrained").subplots()


def add_legend(
    ax: Axes, title: str | None = None, handles: Sequence[Artist] | None = None
) -> Legend:
    """A legend beside the axes, where it can hide neither data nor a title, by default of all that
    have a label."""
    handles = ax.get_legend_handles_labels()[0] if handles is None else handles
    return ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), title=title)


def rows_of(results: Any, field: str, example: str) -> list[Any]:
    """Results as a list; a lone one is a list of one. Raises BadSetting where one lacks a field
    that such results have; `example` names them in the message."""
    rows = list(results) if isinstance(results, Sequence) else [results]
    for row in rows:
        if not hasattr(row, field):
            raise BadSetting(f"this draws {example}, not {type(row).__name__}")
    return rows


def stack(intervals: Sequence[Interval]) -> Interval:
    """Intervals of numbers as one interval of arrays."""
    return Interval(*np.array(intervals, dtype=float).reshape(-1, 3).T)


def line(ax: Axes, x: Any, interval: Interval, look: Look) -> None:
    """A line through the means in a band of their intervals."""
    ax.fill_between(x, interval.low, interval.high, color=look["color"], alpha=0.2, linewidth=0)
    ax.plot(x, interval.mean, **look)


def point(ax: Axes, x: float, y: Interval, look: Look) -> None:
    """A point with a vertical bar, its interval."""
    ax.errorbar(x, y.mean, yerr=[[y.mean - y.low], [y.high - y.mean]], **look)


def inches(ax: Axes) -> float:
    """The width of the axes as far as it is known before the layout."""
    return ax.get_window_extent().width / ax.figure.dpi


def writable(word: str, length: int = 12) -> str:
    """A word cut after some characters. Control characters, and those that the font lacks, are
    escapes."""
    font = get_font(findfont(STYLE["font.family"]))
    written = "".join(
        char
        if char.isprintable() and font.get_char_index(ord(char))
        else char.encode("unicode_escape").decode()
        for char in word
    )
    return written if len(written) <= length else written[: length - 1] + "…"
