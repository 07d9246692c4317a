"""Approximate search: LanceDB's IVF-HNSW or IVF-PQ over the vectors in their geometry.

The index only proposes candidates, which are scored again exactly from the vectors themselves. Its
recall is measured against exact search, never assumed. The mapped vectors are a separate table
beside the items, which exact search in blocks reads too.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from lancedb.index import IvfHnswSq, IvfPq
from torch import Tensor

from freeret.search import Index
from freeret.search.exact import Block, top_k
from freeret.search.scan import apply_filter
from freeret.store.commits import alone, clear, commit, storage_errors
from freeret.store.filters import EVERYTHING, Selection
from freeret.store.rows import Loaded, matrix, query
from freeret.store.table import Store
from probes.errors import BadSetting, StoreError

ANN = "ann"
MINIMUM = 256
"""LanceDB needs this many vectors to train its partitions."""
SEARCHED: dict[str, tuple[int, int]] = {"hnsw": (20, 4), "pq": (50, 10)}
"""Number of partitions that are searched, and of candidates per hit: `pq` codes are eight times
coarser and need more of both."""


@dataclass(frozen=True)
class Recall:
    """Recall@n against exact search, with sampled documents as queries."""

    n: int
    queries: int
    recall: float


def build_index(store: Store, blocks: Callable[[], Iterable[Block]], kind: Index = "hnsw") -> None:
    """Index the mapped vectors of this version of the store.

    Args:
        store: Where the items lie, and the index will lie beside them.
        blocks: Returns the mapped vectors, block by block; called again if another process built an
            index at the same time.
        kind: `hnsw` stores one byte per dimension and has the higher recall; `pq` stores one byte
            per eight dimensions.

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
    source = table is not None and (table.schema.metadata or {}).get(b"of")
    return table if source == _made_from(store).encode() else None


def scan_index(store: Store, rows: int, selection: Selection = EVERYTHING) -> Iterator[Block]:
    """The mapped vectors that the index stores, at most `rows` at a time. It stores no metadata, so
    only the kinds of the selection are applied."""
    where = Selection(kinds=selection.kinds).sql()
    for batch in store.stream(query(_table(store), ["id", "signature", "vector"], where), rows):
        for part in Loaded.read(batch).by_signature().values():
            yield apply_filter(part)


def ann_candidates(
    store: Store,
    vector: Float[Tensor, " hidden"],
    count: int,
    *,
    signature: str | None = None,
    nprobes: int | None = None,
    factor: int | None = None,
) -> Block:
    """Candidates for the nearest items.

    Args:
        vector: That of the query, of unit length and in the geometry of the corpus.
        count: The number of hits that they are for.
        signature: Only items of this modality signature.
        nprobes: Number of partitions that are searched; by default that of SEARCHED.
        factor: Number of candidates per hit; by default that of SEARCHED.

    Raises:
        StoreError: There is no index for the present items.
    """
    table = _table(store)
    usual = SEARCHED[table.schema.metadata.get(b"kind", b"hnsw").decode()]
    nprobes, factor = nprobes or usual[0], factor or usual[1]
    with storage_errors(store.location):
        search = table.search(vector.numpy()).distance_type("dot").nprobes(nprobes)
        if signature is not None:
            search = search.where(f"signature = '{signature}'")
        search = search.ef(2 * factor * count).limit(factor * count).select(["id", "vector"])
        rows = search.to_arrow()
    return Block(rows["id"].to_pylist(), matrix(rows["vector"]), signature or "")


def measure_recall(store: Store, n: int = 10, queries: int = 100, rows: int = 65_536) -> Recall:
    """Recall of the index with sampled documents as queries, against one pass of exact search."""
    table, size = _table(store), len(store)
    offsets = np.random.default_rng(0).choice(size, size=min(queries, size), replace=False)
    with storage_errors(store.location):
        sample = table.take_offsets(sorted(offsets.tolist())).select(["vector"]).to_arrow()
    vectors = matrix(sample["vector"])
    recalls = []
    for vector, exact in zip(vectors, top_k(scan_index(store, rows), vectors, n), strict=True):
        approximate = top_k([ann_candidates(store, vector, n)], vector[None], n)[0]
        recalls.append(len({id for id, _ in approximate} & {id for id, _ in exact}) / len(exact))
    return Recall(n, len(vectors), float(np.mean(recalls)))


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
    for ids, vectors, signature, _ in blocks:
        flat = pa.array(vectors.contiguous().flatten().numpy())
        column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        names = pa.array([signature] * len(ids), pa.string())
        yield pa.RecordBatch.from_arrays([pa.array(ids, pa.string()), names, column], schema=schema)


def _config(kind: Index, dimension: int) -> IvfHnswSq | IvfPq:
    if kind == "hnsw":
        return IvfHnswSq(distance_type="dot")
    divisors = [d for d in range(1, dimension // 8 + 1) if dimension % d == 0]
    return IvfPq(distance_type="dot", num_sub_vectors=max(divisors, default=1))
