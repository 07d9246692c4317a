"""Commits to a store that grows: their seconds must not depend on what is stored already.

    python benchmarks/commits.py --rows 1000000

New items of 576 dimensions are committed block by block, as Ray's actors do. A store takes one
commit at a time, so that a block divided by its seconds bounds the items per second of any number
of devices. Writes benchmarks/results/commits.json.
"""

import argparse
import os
import tempfile
import time

import numpy as np

from common import median, save
from freeret.store.indexing import BLOCK
from freeret.store.payload import Record
from freeret.store.table import Store

SIZE, AROUND = 576, 41
"""Dimensions of a vector, and commits whose median is taken."""
SIZES = (5_000, 50_000, 200_000, 500_000, 1_000_000)
VECTOR = np.ones(SIZE, np.float32)


def commit(store: Store, first: int) -> float:
    """Seconds to write a block of new items."""
    ids = [f"item{first + place:09}" for place in range(BLOCK)]
    text = '[{"kind": "text", "text": "a text of some length"}]'
    records = [Record(id, "0" * 64, "text", text, [], "{}", VECTOR) for id in ids]
    start = time.perf_counter()
    store.write(records, store.version)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Commits to a store that grows.")
    parser.add_argument("--rows", type=int, default=SIZES[-1])
    rows = parser.parse_args().rows
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(folder, {}, SIZE)
        seconds = [commit(store, first) for first in range(0, rows, BLOCK)]
    found = {}
    for size in SIZES:
        if size <= rows:
            last = size // BLOCK
            typical = median(seconds[max(0, last - AROUND) : last])
            found[size] = {"seconds": typical, "items_per_second": BLOCK / typical}
            print(f"{size:10,} rows: {typical * 1e3:6.1f} ms, {BLOCK / typical:8,.0f} items/s")
    save(
        "commits",
        {
            "dimension": SIZE,
            "items_of_a_commit": BLOCK,
            "load before and after": [before, os.getloadavg()[0]],
            "longest": max(seconds),
            "mean": sum(seconds) / len(seconds),
            "by_rows": found,
        },
    )


if __name__ == "__main__":
    main()
