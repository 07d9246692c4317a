"""Margins of stage 2 on disk while a dataset is being reranked, so that a killed run goes on.

The first line says what they were measured with; every other one holds those of one query.
"""

import json
from contextlib import suppress
from pathlib import Path

from probes.files import write_atomic

Margins = dict[str, dict[str, float]]
"""Query id -> document id -> log-odds of a match."""


class MarginFile:
    """Appends the margins of a query as soon as they are known.

    What was measured with something else is dropped, and so is a line that was cut off.
    """

    def __init__(self, path: Path, identity: str):
        self.path = path
        self.margins: Margins = _read(path, identity)
        lines = [json.dumps({"identity": identity})]
        lines += [_line(query, found) for query, found in self.margins.items()]
        write_atomic(path, "".join(f"{line}\n" for line in lines))

    def add(self, query: str, found: dict[str, float]) -> None:
        """Keep more margins of a query."""
        self.margins.setdefault(query, {}).update(found)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(query, found) + "\n")

    def remove(self) -> None:
        """All of them have gone into a result."""
        self.path.unlink(missing_ok=True)


def _line(query: str, found: dict[str, float]) -> str:
    return json.dumps({"query": query, "margins": found})


def _read(path: Path, identity: str) -> Margins:
    margins: Margins = {}
    try:
        first, *others = path.read_text(encoding="utf-8").splitlines()
        if json.loads(first) != {"identity": identity}:
            return {}
    except (OSError, ValueError):
        return {}
    for line in others:
        with suppress(ValueError, KeyError):  # the last one may have been cut off
            row = json.loads(line)
            margins.setdefault(row["query"], {}).update(row["margins"])
    return margins
