"""A store that outgrows memory: exact search in blocks, and approximate indexes beside faiss.

    python benchmarks/scale.py                     # 1,000,000 x 576, both parts
    python benchmarks/scale.py --rows 20000 --part ann

exact: many queries at once against all rows. One matrix product over vectors in memory, the same
with its top 100, and the streamed search of the store, interleaved; extra peak memory, each in a
fresh process. ann: recall@100 and queries per second, one query after the other, for LanceDB's
IVF-HNSW and IVF-PQ with exact scores of their candidates, and for faiss' IVF-PQ (the same) and
HNSW (`pip install faiss-cpu`). Vectors are unit and lie in clusters. Writes
benchmarks/results/scale_{exact,ann}.json; figures/ann.py draws the second.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cyclopts
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from common import RESULTS, interleaved, median, peak_memory, ratio, report_peak, save
from freeret.search import Index, ann
from freeret.search.exact import top_k
from freeret.search.scan import block_rows, scan
from freeret.store.payload import Record
from freeret.store.table import Store
from probes import Geometry
from probes.files import read_json
from probes.geometry import unit

SIZE, TOP = 576, 100
CLUSTERS, SPREAD = 1000, 0.6
"""A vector is its cluster's centre plus noise of this length."""
CHUNK = 50_000
SETTINGS = ((1, 2), (5, 2), (20, 2), (20, 4), (50, 4), (50, 10))
"""Partitions, and candidates for each item asked for, of both IVF indexes."""
IDENTITY = {"recipe": {"geometry": "none"}, "backbone": {"model": "synthetic"}}

app = cyclopts.App(help=__doc__)


def vectors(rows: int, seed: int = 0) -> Iterator[Tensor]:
    """Clustered unit vectors, a chunk at a time; other seeds draw others from the same clusters."""
    centres = unit(torch.randn(CLUSTERS, SIZE, generator=torch.Generator().manual_seed(12345)))
    draw = torch.Generator().manual_seed(seed)
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        of = torch.randint(CLUSTERS, (count,), generator=draw)
        noise = torch.randn(count, SIZE, generator=draw) * (SPREAD / SIZE**0.5)
        yield unit(centres[of] + noise)


def queries(count: int) -> Tensor:
    return torch.cat(list(vectors(count, seed=1)))


def fill(folder: Path, rows: int) -> Store:
    """A store as `index` leaves it, written without a backbone."""
    store = Store.create(folder, IDENTITY, SIZE)
    schema, start = store.table.schema, 0
    for chunk in vectors(rows):
        ids = [f"item{k:09}" for k in range(start, start + len(chunk))]
        columns = {
            "id": ids,
            "hash": ["0" * 64] * len(ids),
            "signature": ["text"] * len(ids),
            "parts": ['[{"kind": "text", "text": "a text of some length"}]'] * len(ids),
            "blobs": [[]] * len(ids),
            "metadata": ["{}"] * len(ids),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(chunk.flatten().numpy()), SIZE),
        }
        store.table.add(pa.table(columns, schema=schema))
        start += len(chunk)
    store.compact()
    return store


# -- exact -----------------------------------------------------------------------------------


def streamed(store: Store, asked: Tensor) -> list[list[tuple[str, float]]]:
    return top_k(scan(store, Geometry(), block_rows(SIZE, len(asked))), asked, TOP)


def exact(folder: Path, rows: int, counts: Sequence[int], repeats: int) -> dict[str, Any]:
    store = Store.open(folder)
    memory = {
        way: peak_memory(Path(__file__), "peak", str(folder), way, str(rows), str(counts[0]))
        for way in ("product", "streamed")
    }
    found = {"seconds of a commit": commit(store), f"extra peak MB, {counts[0]} queries": memory}
    whole = torch.cat(list(vectors(rows)))
    return {**found, "by queries": {n: compared(store, whole, n, repeats) for n in counts}}


def compared(store: Store, whole: Tensor, count: int, repeats: int) -> dict[str, Any]:
    """The three ways with so many queries."""
    asked = queries(count)
    runs: dict[str, Callable[[], Any]] = {
        "product": lambda: whole @ asked.T,
        "product and top": lambda: (asked @ whole.T).topk(TOP),
        "streamed": lambda: streamed(store, asked),
    }
    wall = interleaved(runs, repeats)
    expected = (asked @ whole.T).topk(TOP).indices.tolist()
    same = [
        {f"item{k:09}" for k in ids} == {id for id, _ in hits}
        for ids, hits in zip(expected, streamed(store, asked), strict=True)
    ]
    return {
        "seconds": {name: median(t) for name, t in wall.items()},
        "streamed / product": ratio(wall, "streamed", "product"),
        "streamed / product and top": ratio(wall, "streamed", "product and top"),
        "rows of a block": block_rows(SIZE, count),
        "queries with the same top": float(np.mean(same)),
    }


def commit(store: Store) -> float:
    """Median seconds to write 256 new items beside those there; they are taken out again."""
    seconds = []
    for turn in range(5):
        rows = [
            Record(f"new{turn}-{k}", "", "text", "[]", [], "{}", np.ones(SIZE, np.float32))
            for k in range(256)
        ]
        start = time.perf_counter()
        store.write(rows)
        seconds.append(time.perf_counter() - start)
        store.delete([row.id for row in rows])
    return median(seconds)


@app.command
def peak(folder: Path, way: Literal["product", "streamed"], rows: int, count: int) -> None:
    """In a process of its own: print the peak of one way."""
    asked = queries(count)
    if way == "product":
        report_peak(lambda: (asked @ torch.cat(list(vectors(rows))).T).topk(TOP))
    else:
        store = Store.open(folder)
        report_peak(lambda: streamed(store, asked))


# -- approximate -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """One setting of one index."""

    index: str
    setting: dict[str, int]
    recall: float
    queries_per_second: float


def measure(
    index: str, setting: dict[str, int], ask: Callable[[Tensor], set[str]], asked: Tensor,
    expected: list[set[str]],
) -> Point:  # fmt: skip
    ask(asked[0])
    start = time.perf_counter()
    found = [ask(one) for one in asked]
    seconds = time.perf_counter() - start
    shares = [len(a & b) / len(b) for a, b in zip(found, expected, strict=True)]
    point = Point(index, setting, float(np.mean(shares)), len(asked) / seconds)
    print(f"{index:18} {setting!s:30} recall {point.recall:.3f} {point.queries_per_second:8.1f}/s")
    return point


@dataclass(frozen=True)
class Measured:
    """One index: seconds to build it, None where it was there, and its settings."""

    built: float | None
    points: list[Point]


def lance(store: Store, kind: Index, asked: Tensor, expected: list[set[str]]) -> Measured:
    table, built, points = ann.current(store), None, []
    if table is None or not any(kind in i.index_type.lower() for i in table.list_indices()):
        start = time.perf_counter()
        ann.build_index(store, lambda: scan(store, Geometry(), 50_000), kind)
        built = time.perf_counter() - start
    for probes, factor in SETTINGS:
        setting: dict[str, Any] = {"probes": probes, "factor": factor}

        def ask(one: Tensor, setting: dict[str, Any] = setting) -> set[str]:
            block = ann.ann_candidates(store, one, TOP, **setting)
            return {id for id, _ in top_k([block], one[None], TOP)[0]}

        points.append(measure(f"LanceDB IVF-{kind.upper()}", setting, ask, asked, expected))
    return Measured(built, points)


def named(found: np.ndarray) -> set[str]:
    return {f"item{k:09}" for k in found.tolist()}


def exact_one(rows: int, asked: Tensor, expected: list[set[str]]) -> Measured:
    """Every vector in memory, one product a query: what an index has to be faster than."""
    whole = torch.cat(list(vectors(rows)))

    def ask(one: Tensor) -> set[str]:
        return named((whole @ one).topk(TOP).indices.numpy())

    return Measured(None, [measure("exact, in memory", {}, ask, asked, expected)])


def faiss_pq(rows: int, asked: Tensor, expected: list[set[str]]) -> Measured:
    import faiss  # pyright: ignore[reportMissingImports]

    whole, points = torch.cat(list(vectors(rows))).numpy(), []
    start = time.perf_counter()
    lists = max(1, round(rows**0.5))
    quantizer = faiss.IndexFlatIP(SIZE)
    pq = faiss.IndexIVFPQ(quantizer, SIZE, lists, SIZE // 8, 8, faiss.METRIC_INNER_PRODUCT)
    pq.train(whole[: min(rows, 256 * lists)])
    pq.add(whole)
    built = time.perf_counter() - start
    for probes, factor in SETTINGS:
        pq.nprobe = probes

        def ask_pq(one: Tensor, factor: int = factor) -> set[str]:
            query = one.numpy()[None]
            ids = pq.search(query, factor * TOP)[1][0]
            ids = ids[ids >= 0]
            return named(ids[np.argsort(-(whole[ids] @ query[0]))[:TOP]])

        setting: dict[str, Any] = {"probes": probes, "factor": factor}
        points.append(measure("faiss IVF-PQ", setting, ask_pq, asked, expected))
    return Measured(built, points)


def faiss_hnsw(rows: int, asked: Tensor, expected: list[set[str]]) -> Measured:
    import faiss  # pyright: ignore[reportMissingImports]

    whole, points = torch.cat(list(vectors(rows))).numpy(), []
    start = time.perf_counter()
    graph = faiss.IndexHNSWFlat(SIZE, 32, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = 40
    graph.add(whole)
    built = time.perf_counter() - start
    for effort in (100, 200, 400, 800):
        graph.hnsw.efSearch = effort
        points.append(
            measure(
                "faiss HNSW", {"ef": effort},
                lambda one: named(graph.search(one.numpy()[None], TOP)[1][0]), asked, expected,
            )
        )  # fmt: skip
    return Measured(built, points)


def approximate(folder: Path, rows: int, count: int, wanted: Sequence[str]) -> dict[str, Any]:
    """What was measured before is kept of the indexes that are not `wanted`."""
    store, asked = Store.open(folder), queries(count)
    expected = [{id for id, _ in found} for found in streamed(store, asked)]
    runs: dict[str, Callable[[], Measured]] = {
        "LanceDB IVF-PQ": lambda: lance(store, "pq", asked, expected),
        "LanceDB IVF-HNSW": lambda: lance(store, "hnsw", asked, expected),
        "exact, in memory": lambda: exact_one(rows, asked, expected),
        "faiss IVF-PQ": lambda: faiss_pq(rows, asked, expected),
        "faiss HNSW": lambda: faiss_hnsw(rows, asked, expected),
    }
    file = RESULTS / "scale_ann.json"
    earlier = read_json(file) if file.is_file() else {}
    if (earlier.get("rows"), earlier.get("queries")) != (rows, count):
        earlier = {}
    built, points = earlier.get("built in seconds", {}), earlier.get("points", [])
    for name in wanted or runs:
        found = runs[name]()
        built |= {} if found.built is None else {name: found.built}
        points = [p for p in points if p["index"] != name] + [vars(p) for p in found.points]
    return {"built in seconds": built, "points": points}


@app.default
def main(
    *,
    rows: int = 1_000_000,
    part: Literal["exact", "ann", "both"] = "both",
    count: tuple[int, ...] = (1000, 2000),
    ann_queries: int = 200,
    index: tuple[str, ...] = (),
    repeats: int = 3,
    scratch: Path | None = None,
) -> None:
    """Run one part or both.

    Parameters
    ----------
    count: Queries of the exact part; the whole product of 2,000 takes 8 GB.
    index: Those of the ann part to measure, such as `LanceDB IVF-PQ`; by default all.
    scratch: Where to keep the store, with its last index, for another run; else it goes.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = (scratch or Path(temporary)) / f"store-{rows}"
        if not Store.exists(folder):
            fill(folder, rows)
        about: dict[str, Any] = {
            "rows": rows,
            "dimension": SIZE,
            "threads": torch.get_num_threads(),
        }
        for name, run in {
            "exact": lambda: exact(folder, rows, count, repeats),
            "ann": lambda: {
                "queries": ann_queries,
                **approximate(folder, rows, ann_queries, index),
            },
        }.items():
            if part in (name, "both"):
                before = os.getloadavg()[0]
                found = run()
                load = {"load before and after": [before, os.getloadavg()[0]]}
                save(f"scale_{name}", {**about, **load, **found})
                print({k: v for k, v in found.items() if k != "points"})


if __name__ == "__main__":
    app(sys.argv[1:])
