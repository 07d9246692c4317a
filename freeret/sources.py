"""From paths and URLs on the command line to a stream of items."""

import csv
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from freeret import remote
from freeret.remote import RemoteFile
from probes import Item
from probes.errors import BadItem
from probes.items import SUFFIXES, as_item
from probes.media import Limits

KNOWN = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
TABLES = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class Files:
    """The items of files and folders, in sorted order; can be read again, and file by file.

    Each is a path, or a str that is one unless it is a URL (`s3://…`, see `remote`). .txt and .md
    are read whole, of .jsonl, .csv and .parquet every row, pictures, video and audio as themselves:
    by their path, or from a URL by their bytes, within `limits`. A file's id is its path below the
    folder given, or its name (its whole path where two would be the same); a row without an id
    takes file and line. Other columns become metadata. Reading raises BadItem for a path, a URL or
    a row that cannot be read; with `keep_bad` a bad row or file stands in the stream as that error.
    """

    paths: Sequence[Path | str]
    text_field: str = "text"
    id_field: str = "id"
    keep_bad: bool = False
    limits: Limits = field(default_factory=Limits)

    def __iter__(self) -> Iterator[Item | BadItem]:
        for file, name in self.files():
            yield from self.read(file, name)

    def files(self) -> Iterator[tuple[Path | RemoteFile, str]]:
        """Every file with the name that its items are called by."""
        named: set[str] = set()
        for path in self.paths:
            folder, found = _find(path)
            for file, name in found:
                if file.suffix.lower() not in (*TABLES, *KNOWN):
                    if folder:
                        continue
                    raise BadItem(f"cannot tell what {file} is; known: {' '.join(TABLES + KNOWN)}")
                name = str(file) if name in named else name
                named.add(name)
                yield file, name

    def read(self, file: Path | RemoteFile, name: str) -> Iterator[Item | BadItem]:
        """The items of one file."""
        for found in self._read(file, name):
            if isinstance(found, BadItem) and not self.keep_bad:
                raise found
            yield found

    def _read(self, file: Path | RemoteFile, name: str) -> Iterator[Item | BadItem]:
        suffix = file.suffix.lower()
        try:
            if suffix not in TABLES:
                yield _try(functools.partial(_whole, file, name, self.limits))
                return
            for line, row in enumerate(_rows(file, suffix), start=1):
                place = f"{name}:{line}"
                yield _try(functools.partial(_row, row, place, self.text_field, self.id_field))
        except OSError as error:
            yield BadItem(f"{name}: cannot read {file}: {remote.why(error)}")
        except (UnicodeDecodeError, json.JSONDecodeError, csv.Error, pa.ArrowException) as error:
            yield BadItem(f"{name} is not readable {suffix[1:]}: {error}")


def _find(path: Path | str) -> tuple[bool, Sequence[tuple[Path | RemoteFile, str]]]:
    """Whether it is a folder, and every file with its path below it, or its name."""
    if isinstance(path, str) and "://" in path:
        return remote.find(path)
    path = Path(path)
    if not path.exists():
        raise BadItem(f"there is nothing at {path}")
    if not path.is_dir():
        return False, [(path, path.name)]
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return True, [(file, str(file.relative_to(path))) for file in files]


def _try(read: Callable[[], Item]) -> Item | BadItem:
    try:
        return read()
    except BadItem as error:
        return error


def _whole(file: Path | RemoteFile, name: str, limits: Limits) -> Item:
    return as_item(file, id=name) if isinstance(file, Path) else file.item(name, limits)


def _rows(file: Path | RemoteFile, suffix: str) -> Iterator[Any]:
    if suffix == ".parquet":
        where = (file, None) if isinstance(file, Path) else (file.path, file.filesystem)
        with pq.ParquetFile(where[0], filesystem=where[1]) as table:
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
