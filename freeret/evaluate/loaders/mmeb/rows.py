"""Rows of the tables that the Hugging Face hub publishes: Parquet, JSON lines or a JSON list."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.lib
import pyarrow.parquet as pq

from freeret.evaluate.loaders.lines import lines_of
from probes.errors import BadFile

Row = dict[str, Any]
ENDINGS = (".parquet", ".jsonl", ".json")
BATCH = 64
"""Rows of Parquet held at once: one may hold a thousand candidates, or a picture."""


def first_table(root: Path, patterns: Iterable[str]) -> Path | None:
    """The first table below `root` that fits a pattern, or None; nothing is read."""
    found = (path for pattern in patterns for path in sorted(root.glob(pattern)))
    return next((path for path in found if path.suffix in ENDINGS and path.is_file()), None)


def read_rows(
    table: Path, columns: Sequence[str], source: str, *, optional: Sequence[str] = ()
) -> Iterator[tuple[str, Row]]:
    """Each row with the words that name its place; of Parquet only these columns are read.

    Raises BadFile, with `source`, when the table cannot be read or a row lacks one of `columns`.
    """
    try:
        for place, row in _rows(table, [*columns, *optional], source):
            missing = [column for column in columns if column not in row]
            if missing:
                raise BadFile(f"{table}, {place}: no column {missing[0]}; {source}")
            yield f"{table}, {place}", row
    except (OSError, ValueError, TypeError, pyarrow.lib.ArrowException) as error:
        raise BadFile(f"{table} cannot be read ({error}); {source}") from None


def _rows(table: Path, columns: Sequence[str], source: str) -> Iterator[tuple[str, Row]]:
    if table.suffix == ".parquet":
        with pq.ParquetFile(table) as file:
            batches = file.iter_batches(BATCH, columns=list(columns))
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield f"row {number}", row
    elif table.suffix == ".jsonl":
        for number, line in lines_of(table, source):
            try:
                yield f"line {number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise BadFile(f"{table}, line {number}: not JSON ({error}); {source}") from None
    else:
        for number, row in enumerate(json.loads(table.read_text(encoding="utf-8-sig")), start=1):
            yield f"row {number}", row
