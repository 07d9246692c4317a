"""Rows of tables (.jsonl, .csv, .tsv, .parquet) with line numbers. A bad line costs one row."""

import csv
import gzip
import json
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from freeret.sources.remote import RemoteFile
from probes.files import open_text, undecoded

FORMATS = {".jsonl": None, ".ndjson": None, ".csv": ",", ".tsv": "\t"}
"""Delimiter of each ending of a text table; `.gz` may follow the ending."""
PACKED = ".gz"
ENDINGS = (*FORMATS, *(ending + PACKED for ending in FORMATS), ".parquet")
ROWS = 256
"""Rows of Parquet in memory at once: they may hold pictures."""


class BadRow(Exception):
    """A row, or the rest of a table, that cannot be read. The message says why."""


Row = Mapping[str, Any]


def ending(name: str | PurePath) -> str:
    """The ending of a file's name in lower case; `.gz` with the ending before it."""
    path = PurePath(name)
    last = path.suffix.lower()
    return PurePath(path.stem).suffix.lower() + last if last == PACKED else last


def is_table(name: str | PurePath) -> bool:
    """Whether a file of this name holds rows."""
    return ending(name) in ENDINGS


def rows(file: Any) -> Iterator[tuple[int, Row | BadRow]]:
    """Every row of a table (a Path or a RemoteFile) with its line number; in Parquet, row number.

    Yields:
        Rows; a BadRow in place of what cannot be read.

    Raises:
        OSError: The file cannot be opened.
    """
    kind = ending(file.path if isinstance(file, RemoteFile) else file)
    if kind == ".parquet":
        yield from _parquet(file)
        return
    number = 0
    with file.open("rb") as stored, _unpacked(stored, kind) as binary:
        lines, delimiter = _numbered(binary), FORMATS[kind.removesuffix(PACKED)]
        numbered = _jsonl(lines) if delimiter is None else _delimited(lines, delimiter)
        try:
            for number, row in numbered:
                yield number, row
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            yield number + 1, BadRow(f"what follows cannot be unpacked ({error})")
        except UnicodeDecodeError as error:  # of UTF-16; in UTF-8 one byte is one bad row
            yield number + 1, BadRow(f"what follows is not {error.encoding} text ({error.reason})")


def _unpacked(file: Any, kind: str) -> Any:
    return gzip.open(file, "rb") if kind.endswith(PACKED) else file


Line = tuple[int, str]


def _numbered(file: Any) -> Iterator[Line]:
    with open_text(file) as lines:
        yield from enumerate(lines, start=1)


def _jsonl(lines: Iterator[Line]) -> Iterator[tuple[int, Row | BadRow]]:
    first = True
    for number, line in lines:
        if not line.strip():
            continue
        if first and (line.lstrip().startswith("[") or line.strip() == "{"):
            yield (
                number,
                BadRow(
                    "a row must be an object on a line of its own; this is a JSON list or indented "
                    "JSON: write one object per line"
                ),
            )
            return
        first = False
        yield number, _json(line)


def _json(line: str) -> Row | BadRow:
    if wrong := undecoded(line):
        return BadRow(wrong)
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return BadRow(f"not JSON ({error.msg} at character {error.colno})")
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 10,000 brackets
        return BadRow(f"not JSON ({error})")
    if not isinstance(row, dict):
        return BadRow(f"a row must be an object, not {type(row).__name__}")
    return row


def _delimited(lines: Iterator[Line], delimiter: str) -> Iterator[tuple[int, Row | BadRow]]:
    """Rows below a header. A quoted cell may hold line breaks. A quote that is not closed properly
    costs its own line, and reading goes on at the next line."""
    csv.field_size_limit(2**31 - 1)
    source = _Again(lines)
    header: list[str] | None = None
    while True:
        source.keep_none()
        try:
            cells = next(csv.reader(source, delimiter=delimiter, strict=True))
        except StopIteration:
            return
        except csv.Error as error:
            number = source.back_to_second()
            yield number, BadRow(f"not a row of cells ({error})")
            if header is None:
                return
            continue
        number = source.first
        if not cells:
            continue
        if wrong := next((w for w in map(undecoded, cells) if w), None):
            yield number, BadRow(wrong)
            if header is None:
                return
        elif header is None:
            header = cells
            if doubled := {name for name in header if header.count(name) > 1}:
                yield number, BadRow(f"the column {min(doubled)!r} stands there twice")
                return
        elif len(cells) > len(header):
            yield number, BadRow(f"{len(cells)} cells under {len(header)} columns")
        else:
            yield (
                number,
                dict(zip(header, cells + [None] * (len(header) - len(cells)), strict=True)),
            )


class _Again:
    """Lines for `csv.reader` that can be given again: those of the current row are remembered."""

    def __init__(self, lines: Iterator[Line]):
        self.lines, self.ahead, self.taken = lines, deque[Line](), list[Line]()

    def __iter__(self) -> "_Again":
        return self

    def __next__(self) -> str:
        line = self.ahead.popleft() if self.ahead else next(self.lines)
        self.taken.append(line)
        return line[1]

    def keep_none(self) -> None:
        self.taken = []

    @property
    def first(self) -> int:
        return self.taken[0][0]

    def back_to_second(self) -> int:
        """Give all lines of the row but the first again; returns the number of the first."""
        self.ahead.extendleft(reversed(self.taken[1:]))
        return self.first


def _parquet(file: Any) -> Iterator[tuple[int, Row | BadRow]]:
    path, filesystem = (
        (file.path, file.filesystem) if isinstance(file, RemoteFile) else (file, None)
    )
    number = 0
    try:
        with pq.ParquetFile(path, filesystem=filesystem) as table:
            for batch in table.iter_batches(ROWS):
                columns = {name: _values(batch.column(name)) for name in batch.schema.names}
                for values in zip(*columns.values(), strict=True):
                    number += 1
                    yield number, dict(zip(columns, values, strict=True))
    except (pa.ArrowException, ValueError) as error:
        if isinstance(error, OSError):
            raise
        yield number + 1, BadRow(f"not readable parquet ({error})")


def _values(column: pa.Array) -> list[Any]:
    """A column as Python values. Times that Python cannot hold (nanoseconds) become text."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        text = str(scalar.cast(pa.string()))
        # For a year beyond all calendars Arrow has only the number.
        return getattr(scalar, "value", None) if "<" in text else text.replace(" ", "T", 1)
