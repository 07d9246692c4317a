"""Measurements on disk while a dataset is in work, so that a killed run resumes.

A journal is a file of JSON lines: the first line says what the others were measured with. A journal
of something else is dropped, and so is a last line that was cut off.
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from probes.files import write_atomic

Margins = dict[str, dict[str, float]]
"""Query id -> document id -> log-odds of a match."""


class Journal:
    """Rows that are appended to a file as soon as they are measured."""

    def __init__(self, path: Path, identity: str):
        self.path = path
        self.rows = _read(path, identity)
        lines = [json.dumps({"identity": identity}), *map(json.dumps, self.rows)]
        write_atomic(path, "".join(f"{line}\n" for line in lines))
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time that the rows took, in all calls."""
        return sum((row.get("seconds", 0.0) for row in self.rows), 0.0)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row, with the time since the one before."""
        now = time.perf_counter()
        timed = {**row, "seconds": round(now - self._start, 3)}
        self._start = now
        self.rows.append(timed)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(timed) + "\n")

    def remove(self) -> None:
        """Delete the file: all of it has gone into a result."""
        self.path.unlink(missing_ok=True)


class MarginFile(Journal):
    """The margins of stage 2, a query per row."""

    def __init__(self, path: Path, identity: str):
        super().__init__(path, identity)
        self.margins: Margins = {}
        for row in self.rows:
            with suppress(KeyError):
                self.margins.setdefault(row["query"], {}).update(row["margins"])

    def add_margins(self, query: str, margins: Mapping[str, float]) -> None:
        """Keep more margins of a query."""
        self.margins.setdefault(query, {}).update(margins)
        self.add({"query": query, "margins": dict(margins)})


def _read(path: Path, identity: str) -> list[dict[str, Any]]:
    try:
        first, *others = path.read_text(encoding="utf-8").splitlines()
        if json.loads(first) != {"identity": identity}:
            return []
    except (OSError, ValueError):
        return []
    rows = []
    for line in others:
        with suppress(ValueError):  # the last one may have been cut off
            row = json.loads(line)
            rows += [row] if isinstance(row, dict) else []
    return rows
