"""The number of items in a stream, when it is cheap to know: the total of a progress bar."""

import csv
from collections.abc import Iterable, Sized
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from freeret.sources import tables
from freeret.sources.files import Listing


def count_items(items: Iterable[Any]) -> int | None:
    """Count the items of a stream without decoding files: tables by their rows, every other file
    as one item.

    Args:
        items: Any stream; only collections and a `Listing` of files are counted.

    Returns:
        The number, which is an estimate for files; None when counting would mean reading the
        stream, as for a generator, a compressed table or a table at a URL.
    """
    if isinstance(items, Sized):
        return len(items)
    if not isinstance(items, Listing):
        return None
    try:
        counts = [_rows(file) for file, _ in items.files]
    except (OSError, csv.Error, pa.ArrowException):
        return None  # reported when the file is read
    return None if None in counts else sum(count for count in counts if count is not None)


def _rows(file: Any) -> int | None:
    name = file if isinstance(file, Path) else file.path
    if not tables.is_table(name):
        return 1
    ending = tables.ending(name)
    if not isinstance(file, Path) or ending.endswith(tables.PACKED):
        return None
    if ending == ".parquet":
        return pq.read_metadata(file).num_rows
    if tables.FORMATS[ending] is None:
        with file.open("rb") as lines:
            return sum(not line.isspace() for line in lines)
    with file.open(encoding="utf-8", errors="replace", newline="") as lines:
        return max(0, sum(1 for row in csv.reader(lines) if row) - 1)
