"""Check the named columns against the headers of tables, before a model is loaded."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from freeret.sources import tables
from freeret.sources.files import Files, Listing
from freeret.sources.tables import BadRow
from probes.errors import BadSetting

ROWS = 1000
"""Rows of a .jsonl that are looked at: its rows need not all have the same keys."""
SHOWN = 20
"""Column names that a message lists."""


def check_columns(listing: Listing) -> None:
    """Check the tables of a listing as far as their beginnings show.

    Args:
        listing: The files. Tables at a URL are left alone.

    Raises:
        BadSetting: No table has a column that was named.
        BadItem: The first row of a table cannot be read, and bad items are not skipped.
    """
    source, names, complete = listing.source, dict[str, None](), True
    of_tables = [(file, name) for file, name in listing.files if tables.is_table(str(file))]
    local = [(file, name) for file, name in of_tables if isinstance(file, Path)]
    if not local or len(local) < len(of_tables):
        return
    for file, name in local:
        columns, whole = _columns(file)
        names |= dict.fromkeys(columns)
        complete &= whole
        next(source.read(file, name), None)
    missing = [column for column in _named(source) if column not in names]
    if missing and complete:
        listed = ", ".join(list(names)[:SHOWN]) + (", …" if len(names) > SHOWN else "")
        raise BadSetting(f"no table has a column {missing[0]!r}; columns: {listed or 'none'}")


def _named(source: Files) -> list[str]:
    """The columns that were named; `text` and `id` are defaults, which a table may lack."""
    default = Files(())
    fields = ("text_field", "id_field", "image_field", "video_field", "audio_field")
    named = [getattr(source, field) for field in fields
             if getattr(source, field) != getattr(default, field)]  # fmt: skip
    return [*named, *(source.metadata_fields or ())]


def _columns(file: Path) -> tuple[Iterable[str], bool]:
    """The columns of a table, and whether these are certainly all of them."""
    kind = tables.ending(file)
    try:
        if kind == ".parquet":
            return pq.read_schema(file).names, True
        rows = list(islice(tables.rows(file), ROWS))
    except (OSError, pa.ArrowException):
        return [], False  # reported when the file is read
    readable = [row for _, row in rows if not isinstance(row, BadRow)]
    of_lines = tables.FORMATS[kind.removesuffix(tables.PACKED)] is None
    keys = dict.fromkeys(key for row in readable for key in row)
    whole = 0 < len(rows) == len(readable)
    return keys, whole and (len(rows) < ROWS or not of_lines)
