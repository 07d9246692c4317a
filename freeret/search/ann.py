"""Approximate search: LanceDB's IVF-HNSW or IVF-PQ over the vectors in their geometry.

The index only proposes candidates; they are scored again exactly, from the vectors themselves. Its
recall is measured against exact search, never assumed. The vectors in their geometry are a table of
their own beside the items, so exact search in blocks can read them too.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from lancedb.index import IvfHnswSq, IvfPq
from torch import Tensor

from freeret.search.exact import Block, top_k
from freeret.store.commits import alone, clear, commit, storage_errors
from freeret.store.filters import EVERYTHING, Selection
from freeret.store.rows import Loaded, matrix
from freeret.store.table import Store
from probes.errors import BadSetting, StoreError

ANN = "ann"
MINIMUM = 256
"""LanceDB trains its partitions on at least so many vectors."""
Index = Literal["hnsw", "pq"]
SEARCHED: dict[str, tuple[int, int]] = {"hnsw": (20, 4), "pq": (50, 10)}
"""Partitions, and candidates for each item asked for: codes of `pq` are eight times coarser."""


@dataclass(frozen=True)
class Recall:
    """Share of the exact top n that the index also returns, over sampled documents as queries."""

    n: int
    queries: int
    recall: float


def build_index(store: Store, blocks: Callable[[], Iterable[Block]], kind: Index = "hnsw") -> None:
    """Index the mapped vectors of this version of the store.

    Args:
        store: Where the items lie, and the index will lie beside them.
        blocks: Gives the mapped vectors, block by block; called again where another process built
            an index at the same time.
        kind: `hnsw` keeps a byte a dimension and finds more; `pq` a byte for every eight.

    Raises:
        StoreError: There are fewer than MINIMUM items, or the store cannot be written.
        BadSetting: There is no index of that kind.
    """
    if kind not in ("hnsw", "pq"):
        raise BadSetting(f"{kind!r} is not an index; choose hnsw or pq")
    check_size(store)
    schema = pa.schema(
        {
            "id": pa.string(),
            "signature": pa.string(),
            "vector": pa.list_(pa.float32(), store.dimension),
        },
        metadata={b"of": _made_from(store).encode(), b"kind": kind.encode()},
    )

    def write() -> None:
        data = pa.RecordBatchReader.from_batches(schema, _batches(blocks(), schema))
        table = store.database.create_table(ANN, data=data, schema=schema, mode="overwrite")
        table.create_index("vector", config=_config(kind, store.dimension))
        clear(table)

    with alone(store.location, ANN):
        commit(store.location, write)


def check_size(store: Store) -> None:
    """Raise StoreError for a store with fewer than MINIMUM items."""
    if len(store) < MINIMUM:
        raise StoreError(
            f"store {store.location}: {len(store)} items are too few for an index (from {MINIMUM} "
            "on); exact search is faster here"
        )


def current(store: Store) -> Any:
    """The table of the index, or None when there is none for the present items and geometry."""
    table = store.extra(ANN)
    known = table is not None and (table.schema.metadata or {}).get(b"of")
    return table if known == _made_from(store).encode() else None


def scan_index(store: Store, rows: int, selection: Selection = EVERYTHING) -> Iterator[Block]:
    """The vectors in their geometry as the index keeps them, at most `rows` at a time. The index
    knows no metadata, so of the selection only the kinds count."""
    query = _table(store).search().select(["id", "signature", "vector"]).limit(None)
    where = Selection(kinds=selection.kinds).sql()
    for batch in store.stream(query.where(where) if where else query, rows):
        signatures = batch["signature"].to_pylist()
        loaded = Loaded(batch["id"].to_pylist(), signatures, [], matrix(batch["vector"]))
        for signature, part in loaded.by_signature().items():
            yield Block(part.ids, part.vectors, signature)


def ann_candidates(
    store: Store,
    query: Float[Tensor, " hidden"],
    count: int,
    *,
    signature: str | None = None,
    probes: int | None = None,
    factor: int | None = None,
) -> Block:
    """About the `count` nearest items, of one modality signature where one is given: `factor` times
    as many candidates, from `probes` partitions, by default those of SEARCHED.

    Raises StoreError when the index is missing or older than the items.
    """
    table = _table(store)
    usual = SEARCHED[table.schema.metadata.get(b"kind", b"hnsw").decode()]
    probes, factor = probes or usual[0], factor or usual[1]
    with storage_errors(store.location):
        search = table.search(query.numpy()).distance_type("dot").nprobes(probes)
        if signature is not None:
            search = search.where(f"signature = '{signature}'")
        search = search.ef(2 * factor * count).limit(factor * count).select(["id", "vector"])
        rows = search.to_arrow()
    return Block(rows["id"].to_pylist(), matrix(rows["vector"]), signature or "")


def measure_recall(store: Store, n: int = 10, queries: int = 100, rows: int = 65_536) -> Recall:
    """Ask with sampled documents and compare with the exact answer, found in one pass."""
    table, size = _table(store), len(store)
    picked = np.random.default_rng(0).choice(size, size=min(queries, size), replace=False)
    with storage_errors(store.location):
        sample = table.take_offsets(sorted(picked.tolist())).select(["vector"]).to_arrow()
    asked = matrix(sample["vector"])
    shares = []
    for query, exact in zip(asked, top_k(scan_index(store, rows), asked, n), strict=True):
        proposed = top_k([ann_candidates(store, query, n)], query[None], n)[0]
        shares.append(len({id for id, _ in proposed} & {id for id, _ in exact}) / len(exact))
    return Recall(n, len(asked), float(np.mean(shares)))


def _table(store: Store) -> Any:
    table = current(store)
    if table is None:
        raise StoreError(
            f"store {store.location} has no index for its present items; build it with "
            "build_ann(), or `freeret fit --ann hnsw`"
        )
    return table


def _made_from(store: Store) -> str:
    return json.dumps({"version": store.version, "geometry": store.recipe().get("geometry")})


def _batches(blocks: Iterable[Block], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for ids, vectors, signature in blocks:
        flat = pa.array(vectors.contiguous().flatten().numpy())
        column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        names = pa.array([signature] * len(ids), pa.string())
        yield pa.RecordBatch.from_arrays([pa.array(ids, pa.string()), names, column], schema=schema)


def _config(kind: Index, dimension: int) -> IvfHnswSq | IvfPq:
    if kind == "hnsw":
        return IvfHnswSq(distance_type="dot")
    divisors = [d for d in range(1, dimension // 8 + 1) if dimension % d == 0]
    return IvfPq(distance_type="dot", num_sub_vectors=max(divisors, default=1))
