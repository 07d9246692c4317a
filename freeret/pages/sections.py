"""Sections of a page: charts, a table, and how to read them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probes import plots
from probes.display import svg_uri

CHART = (5.2, 3.6)
"""Inches of a chart that can be read at the width of a phone."""


@dataclass(frozen=True)
class Section:
    """Charts (alternative texts and data URIs), a table, and how to read them."""

    title: str
    reading: str
    charts: Sequence[tuple[str, str]] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def chart(alt: str, draw: Callable[..., Axes], data: Any, **options: Any) -> tuple[str, str]:
    """What a function of `probes.plots` draws, as an alternative text and a data URI."""
    with rc_context(plots.STYLE):
        figure = Figure(figsize=CHART, layout="constrained")
        draw(data, figure.subplots(), **options)
    return alt, svg_uri(figure)
