"""From paths on the command line to a stream of items."""

import csv
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from probes import Item
from probes.errors import BadItem
from probes.items import SUFFIXES, as_item

KNOWN = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
TABLES = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class Files:
    """The items of files and folders, in sorted order; can be read again, and file by file.

    .txt and .md are read whole, of .jsonl, .csv and .parquet every row, pictures, video and audio
    as themselves. A file's id is its path below the folder given, or its name (its whole path where
    two would be the same); a row without an id takes file and line. Other columns become metadata.
    Reading raises BadItem for a path or a row that cannot be read; with `keep_bad` a bad row or
    file stands in the stream as that error.
    """

    paths: Sequence[Path]
    text_field: str = "text"
    id_field: str = "id"
    keep_bad: bool = False

    def __iter__(self) -> Iterator[Item | BadItem]:
        for file, name in self.files():
            yield from self.read(file, name)

    def files(self) -> Iterator[tuple[Path, str]]:
        """Every file with the name that its items are called by."""
        named: set[str] = set()
        for path in self.paths:
            if not path.exists():
                raise BadItem(f"there is nothing at {path}")
            folder = path.is_dir()
            for file in sorted(f for f in path.rglob("*") if f.is_file()) if folder else [path]:
                if file.suffix.lower() not in (*TABLES, *KNOWN):
                    if folder:
                        continue
                    raise BadItem(f"cannot tell what {path} is; known: {' '.join(TABLES + KNOWN)}")
                name = str(file.relative_to(path)) if folder else file.name
                name = str(file) if name in named else name
                named.add(name)
                yield file, name

    def read(self, file: Path, name: str) -> Iterator[Item | BadItem]:
        """The items of one file."""
        for found in _read(file, name, self.text_field, self.id_field):
            if isinstance(found, BadItem) and not self.keep_bad:
                raise found
            yield found


def _read(file: Path, name: str, text_field: str, id_field: str) -> Iterator[Item | BadItem]:
    suffix = file.suffix.lower()
    if suffix not in TABLES:
        yield _try(lambda: as_item(file, id=name))
        return
    try:
        for line, row in enumerate(_rows(file, suffix), start=1):
            place = f"{name}:{line}"
            yield _try(functools.partial(_row, row, place, text_field, id_field))
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error, pa.ArrowException) as error:
        yield BadItem(f"{name} is not readable {suffix[1:]}: {error}")


def _try(read: Callable[[], Item]) -> Item | BadItem:
    try:
        return read()
    except BadItem as error:
        return error


def _rows(file: Path, suffix: str) -> Iterator[Any]:
    if suffix == ".parquet":
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(1024):
                yield from batch.to_pylist()
        return
    # Spreadsheets write a byte order mark.
    with file.open(encoding="utf-8-sig", newline="") as lines:
        if suffix == ".csv":
            csv.field_size_limit(2**31 - 1)
            yield from csv.DictReader(lines)
            return
        for line in lines:
            if line.strip():
                yield json.loads(line)


def _row(row: Any, place: str, text_field: str, id_field: str) -> Item:
    if not isinstance(row, Mapping):
        raise BadItem(f"{place}: a row must be an object with the field {text_field!r}")
    if not isinstance(row.get(text_field), str):
        fields = ", ".join(map(str, row)) or "none"
        raise BadItem(
            f"{place}: no text in the field {text_field!r}; fields: {fields}. Use --text-field"
        )
    id = row.get(id_field)
    metadata = {k: v for k, v in row.items() if k not in (text_field, id_field) and k is not None}
    return Item(row[text_field], id=place if id in (None, "") else str(id), metadata=metadata)
