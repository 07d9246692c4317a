"""From paths on the command line to a stream of items."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from probes import Item
from probes.errors import BadItem
from probes.items import SUFFIXES, as_item

KNOWN = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
TABLES = (".jsonl", ".csv")


def read_paths(paths: Iterable[Path], text_field: str, id_field: str) -> Iterator[Item]:
    """Items of files and folders, in sorted order: .txt and .md whole, .jsonl and .csv a row each,
    pictures, video and audio as themselves.

    A file's id is its path below the folder given; a row without an id takes file and line. Other
    columns become metadata. Raises BadItem for a path or a row that cannot be read.
    """
    for path in paths:
        if not path.exists():
            raise BadItem(f"there is nothing at {path}")
        files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
        for file in files:
            name = str(file.relative_to(path)) if path.is_dir() else file.name
            yield from _read(file, name, text_field, id_field)


def _read(file: Path, name: str, text_field: str, id_field: str) -> Iterator[Item]:
    suffix = file.suffix.lower()
    if suffix in TABLES:
        for line, row in enumerate(_rows(file, suffix, name), start=1):
            yield _row(row, f"{name}:{line}", text_field, id_field)
    elif suffix in KNOWN:
        yield as_item(file, id=name)


def _rows(file: Path, suffix: str, name: str) -> Iterator[Any]:
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            if suffix == ".csv":
                yield from csv.DictReader(lines)
                return
            for line in lines:
                if line.strip():
                    yield json.loads(line)
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise BadItem(f"{name} is not readable {suffix[1:]}: {error}") from None


def _row(row: Any, place: str, text_field: str, id_field: str) -> Item:
    if not isinstance(row, Mapping):
        raise BadItem(f"{place}: a row must be an object with the field {text_field!r}")
    if not isinstance(row.get(text_field), str):
        fields = ", ".join(map(str, row)) or "none"
        raise BadItem(
            f"{place}: no text in the field {text_field!r}; fields: {fields}. Use --text-field"
        )
    metadata = {k: v for k, v in row.items() if k not in (text_field, id_field) and k is not None}
    return Item(row[text_field], id=str(row.get(id_field) or place), metadata=metadata)
