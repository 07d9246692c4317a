"""Approximate search: LanceDB's IVF-HNSW index over the vectors in their geometry.

The index only proposes candidates; they are scored again exactly from the raw vectors. Its recall
is measured against exact search, never assumed.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from lancedb.index import IvfHnswSq
from torch import Tensor

from freeret.store import Store, storage_errors
from probes.errors import StoreError

ANN = "ann"
MINIMUM = 256
"""LanceDB trains its partitions on at least so many vectors."""


@dataclass(frozen=True)
class Recall:
    """Share of the exact top n that the index also returns, over sampled documents as queries."""

    n: int
    queries: int
    recall: float


def build_index(store: Store, ids: list[str], mapped: Float[Tensor, "n hidden"]) -> None:
    """Index the mapped vectors of this version of the store.

    Raises StoreError when there are fewer than MINIMUM items.
    """
    if len(ids) < MINIMUM:
        raise StoreError(
            f"store {store.location}: {len(ids)} items are too few for an index (from {MINIMUM} "
            "on); exact search is faster here"
        )
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(mapped.contiguous().flatten().numpy()), mapped.shape[1]
    )
    schema = pa.schema(
        {"id": pa.string(), "vector": vectors.type},
        metadata={b"version": str(store.version).encode()},
    )
    data = pa.Table.from_arrays([pa.array(ids), vectors], schema=schema)
    with storage_errors(store.location):
        table = store.database.create_table(ANN, data=data, schema=schema, mode="overwrite")
        table.create_index("vector", config=IvfHnswSq(distance_type="dot"))


def propose(store: Store, query: Float[Tensor, " hidden"], count: int) -> list[str]:
    """Ids of about the `count` nearest items. Raises StoreError when the index is missing or
    older than the items."""
    table = store.extra(ANN)
    if table is None or int(table.schema.metadata[b"version"]) != store.version:
        raise StoreError(
            f"store {store.location} has no index for its present items; build it with build_ann()"
        )
    with storage_errors(store.location):
        # Twice the candidates, four times the default effort: exact scores follow anyway.
        search = table.search(query.numpy()).distance_type("dot").ef(8 * count).nprobes(20)
        rows = search.limit(2 * count).select(["id"]).to_list()
    return [row["id"] for row in rows]


def measure_recall(
    store: Store, ids: list[str], mapped: Float[Tensor, "n hidden"], n: int = 10, queries: int = 100
) -> Recall:
    """Ask with sampled documents and compare with the exact answer."""
    picked = np.random.default_rng(0).choice(len(ids), size=min(queries, len(ids)), replace=False)
    shares = []
    for row in picked:
        exact = (mapped @ mapped[row]).topk(min(n, len(ids))).indices.tolist()
        proposed = set(propose(store, mapped[row], n))
        shares.append(np.mean([ids[i] in proposed for i in exact]))
    return Recall(n, len(picked), float(np.mean(shares)))
