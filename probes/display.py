"""Displays of results: short lines for a terminal, HTML for a notebook, data frames.

Contents are untrusted. In a terminal their control characters are escaped; in HTML everything is.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import Environment

from probes.errors import BadSetting

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure
    from pandas import DataFrame

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
