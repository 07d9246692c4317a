"""Commits and look-ups of a store as it grows: both should cost what they cost at the beginning.

    python benchmarks/commits.py

Vectors are small, so that the time is that of everything else. At each size: the median of a commit
of 256 rows, of new ids (appended) and of ids of which some are stored (merged), in wall time and in
CPU time of all threads, which other programs on the machine disturb less. At the largest: the items
of 2,000 lists of 1,000 hits, the deletion of 200,000 items, and the most ids in one query. Writes
benchmarks/results/commits.json.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
from lancedb.query import LanceEmptyQueryBuilder
from lancedb.table import LanceTable

from common import median, save
from freeret.store.filters import IDS
from freeret.store.payload import Record
from freeret.store.table import Store

DIMENSION, ROWS = 16, 256
SIZES = (5_000, 200_000, 1_000_000)
CPU = "CPU seconds"
FILL = 5_000
"""Rows of a commit that fills the store between two sizes."""
TIMED = 40
QUERIES, HITS, DELETED = 2_000, 1_000, 200_000
IDENTITY = {"recipe": {"geometry": "none"}, "backbone": {"model": "synthetic"}}


def records(first: int, count: int) -> Iterator[Record]:
    vectors = np.random.default_rng(first).normal(size=(count, DIMENSION)).astype(np.float32)
    for k, vector in enumerate(vectors, start=first):
        parts = f'[{{"kind": "text", "text": "text {k}"}}]'
        yield Record(f"folder/{k:09}.txt", f"{k:064}", "text", parts, [], "{}", vector)


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall time and CPU time."""
    start, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - used


def commits(store: Store, *, stored: int) -> dict[str, float]:
    """Medians of TIMED commits, in each of which this number of rows is stored already."""
    times = []
    for _ in range(TIMED):
        absent = None if stored else store.version
        rows = [*records(0, stored), *records(len(store), ROWS - stored)]
        times.append(seconds(lambda rows=rows, absent=absent: store.write(rows, absent)))
    wall, used = ([pair[i] for pair in times] for i in (0, 1))
    return {"seconds": median(wall), CPU: median(used)}


def main() -> None:
    """Fill a store to each of SIZES, and measure."""
    longest = 0

    def watch(owner: type, name: str) -> None:
        plain = getattr(owner, name)

        def watched(self: Any, where: Any, *arguments: Any, **options: Any) -> Any:
            nonlocal longest
            longest = max(longest, str(where).count("'") // 2)
            return plain(self, where, *arguments, **options)

        setattr(owner, name, watched)

    watch(LanceEmptyQueryBuilder, "where")
    watch(LanceTable, "delete")
    by_size: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "store", IDENTITY, DIMENSION)
        for size in SIZES:
            while len(store) < size:
                count = min(FILL, size - len(store))
                store.write(list(records(len(store), count)), store.version)
            by_size[str(size)] = {
                "appended": commits(store, stored=0),
                "merged": commits(store, stored=10),
            }
            print(size, by_size[str(size)], flush=True)
        draw = np.random.default_rng(0)
        hits = {f"folder/{k:09}.txt" for k in draw.integers(0, len(store), QUERIES * HITS)}
        looked_up, _ = seconds(lambda: store.items(sorted(hits)))
        print(f"{len(hits)} items in {looked_up:.1f} s", flush=True)
        deleted, _ = seconds(lambda: store.delete(sorted(hits)[:DELETED]))
    first = by_size[str(SIZES[0])]
    save(
        "commits",
        {
            "rows of a commit": ROWS,
            "dimension": DIMENSION,
            "commit": by_size,
            "CPU seconds, as a ratio to the smallest store": {
                size: {way: ways[way][CPU] / first[way][CPU] for way in ways}
                for size, ways in by_size.items()
            },
            "items of hits": {"hits": QUERIES * HITS, "items": len(hits), "seconds": looked_up},
            "delete": {"items": DELETED, "seconds": deleted},
            "most ids in a query": {"measured": longest, "allowed": IDS},
        },
    )


if __name__ == "__main__":
    cyclopts.run(main)
