"""Displays of results: short lines for a terminal, HTML for a notebook, data frames.

Contents are untrusted. In a terminal their control characters are escaped; in HTML everything is.
"""

import base64
import io
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar, overload

from jinja2 import Environment

from probes.errors import BadSetting
from probes.stats import Interval, Spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure
    from pandas import DataFrame

T = TypeVar("T")
SHOWN = 30
"""Entries of a list that a terminal or a notebook shows."""
TEMPLATES = Environment(autoescape=True)
TABLE = TEMPLATES.from_string(
    "<table><thead><tr>{% for cell in columns %}<th>{{ cell }}</th>{% endfor %}</tr></thead><tbody>"
    "{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}"
    "</tbody></table>"
)
PICTURE = TEMPLATES.from_string(
    '<img src="{{ source }}" alt="{{ alt }}" '
    'style="max-width: 100%; height: auto; padding: .5rem; background: #fff">'
)


def shortened(text: str, length: int = 60) -> str:
    """A text in quotation marks on one line, cut after `length` characters; control characters are
    escaped."""
    line = " ".join(text.split())
    return repr(line if len(line) <= length else line[: length - 1] + "…")


class Results(list[T]):
    """Results of a measurement, dataclasses of one kind: a list that shows itself as a table."""

    @overload
    def __getitem__(self, index: SupportsIndex) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> "Results[T]": ...
    def __getitem__(self, index: SupportsIndex | slice) -> "T | Results[T]":
        found = super().__getitem__(index)
        return Results(found) if isinstance(index, slice) else found  # pyright: ignore

    def __repr__(self) -> str:
        head, *rows = self._written()
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (head, *rows)
        )
        return "\n".join([*lines, *self._left_out()]) if self else "no results"

    def _repr_html_(self) -> str:
        head, *rows = self._written()
        more = "".join(f"<p>{line}</p>" for line in self._left_out())
        return table(head, rows) + more

    def to_dataframe(self) -> "DataFrame":
        """A row per result; an interval NAME has the columns NAME, NAME_low and NAME_high. Raises
        BadSetting where pandas is not installed."""
        return data_frame(dict(columns(result)) for result in self)

    def _written(self) -> list[list[str]]:
        """The names of the fields, then the cells of the first results."""
        names = [field.name for field in fields(self[0])] if self else []  # pyright: ignore
        return [names, *([cell(getattr(result, n)) for n in names] for result in self[:SHOWN])]

    def _left_out(self) -> list[str]:
        return [f"… and {len(self) - SHOWN} more"] if len(self) > SHOWN else []


class Tabular:
    """A result that shows itself as the table of the rows in it."""

    @abstractmethod
    def _table(self) -> Results[Any]:
        """The rows."""

    def to_dataframe(self) -> "DataFrame":
        """A pandas data frame with a row for each row of the table. Raises BadSetting where pandas
        is not installed."""
        return self._table().to_dataframe()

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()


def cell(value: Any, length: int = 60) -> str:
    """A value as text for a cell of a table: numbers to three digits, control characters
    escaped."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}"
    line = " ".join(str(value).split())
    written = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
    return written if len(written) <= length else written[: length - 1] + "…"


def columns(result: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of each field of a dataclass, an interval as three, a spread as five."""
    for field in fields(result):
        value = getattr(result, field.name)
        if isinstance(value, Interval):
            yield from interval_columns(field.name, value).items()
        elif isinstance(value, Spread):
            for percentile, figure in value._asdict().items():
                yield f"{field.name}_{percentile}", figure
        else:
            yield field.name, value


def interval_columns(name: str, interval: Interval) -> dict[str, float]:
    """An interval as the columns NAME, NAME_low and NAME_high of a table."""
    ends = zip(("", "_low", "_high"), interval, strict=True)
    return {f"{name}{end}": float(value) for end, value in ends}


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """An HTML table."""
    return TABLE.render(columns=columns, rows=list(rows))


def picture(figure: "Figure | SubFigure", alt: str) -> str:
    """A figure as an HTML image on white."""
    return PICTURE.render(source=svg_uri(figure), alt=alt)


def svg_uri(figure: "Figure | SubFigure") -> str:
    """A figure as a data URI of SVG. In an image, scripts do not run and ids do not collide with
    others on the page."""
    from matplotlib import rc_context

    from probes.plots.style import STYLE

    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.get_figure(root=True).savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None}
        )
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def data_frame(rows: Iterable[Mapping[str, Any]]) -> "DataFrame":
    """Rows as a pandas data frame. Raises BadSetting where pandas is not installed."""
    try:
        from pandas import DataFrame
    except ImportError:
        raise BadSetting("a data frame needs pandas: pip install pandas") from None
    return DataFrame(list(rows))
