"""Exact search: the best of all items, whether their vectors lie in memory or stream from disk.

Scores are float32 matrix products, a block of items against all queries. What comes near the cut is
summed again in float64, row by row, so that equal vectors tie exactly; ties break by id.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from freeret.store import Loaded, Store
from probes import Geometry

Filter = Mapping[str, Any] | Callable[[Mapping[str, Any]], bool]
"""Metadata that hits must have (a list means any of its values), or a function of the metadata."""
Block = tuple[Sequence[str], Float[Tensor, "_ hidden"]]
"""Ids, and unit vectors in the geometry of the corpus."""

NEAR = 1e-5
"""More than the rounding of a float32 dot product of unit vectors."""
ENOUGH = 2**29
"""Bytes of a block where memory is no concern; larger ones are no faster."""
CHUNK = 4096
"""Pairs summed in float64 at once."""


def best(
    blocks: Iterable[Block], queries: Float[Tensor, "q hidden"], count: int
) -> list[list[tuple[str, float]]]:
    """For every query the `count` best ids with their scores, best first."""
    asked, scores, ids = np.empty(0, int), np.empty(0), np.empty(0, object)
    bound = torch.full((len(queries),), -torch.inf)
    for names, vectors in blocks:
        if count < 1 or len(names) == 0:
            continue
        product = vectors @ queries.T
        if len(names) >= count and bound.isinf().any():
            bound = torch.maximum(bound, product.topk(count, dim=0).values[-1] - NEAR)
        rows, of = (product >= bound).nonzero(as_tuple=True)
        asked = np.concatenate([asked, of.numpy()])
        scores = np.concatenate([scores, _dots(vectors, queries, rows, of)])
        ids = np.concatenate([ids, np.array([names[i] for i in rows.tolist()], object)])
        last = _last(asked, scores, len(queries), count)
        kept = scores >= last[asked]
        asked, scores, ids = asked[kept], scores[kept], ids[kept]
        bound = torch.maximum(bound, torch.from_numpy(last).float() - NEAR)
    found: list[list[tuple[str, float]]] = [[] for _ in range(len(queries))]
    for query, id, score in zip(asked.tolist(), ids.tolist(), scores.tolist(), strict=True):
        found[query].append((id, score))
    return [sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:count] for pairs in found]


def _dots(vectors: Tensor, queries: Tensor, rows: Tensor, of: Tensor) -> np.ndarray:
    """Dot products of pairs, in float64."""
    parts = [
        (vectors[r].double() * queries[q].double()).sum(1)
        for r, q in zip(rows.split(CHUNK), of.split(CHUNK), strict=True)
    ]
    return torch.cat(parts).numpy()


def _last(asked: np.ndarray, scores: np.ndarray, queries: int, count: int) -> np.ndarray:
    """The score in place `count` of each query, -inf where there are fewer."""
    order = np.lexsort((-scores, asked))
    starts = np.searchsorted(asked[order], np.arange(queries + 1))
    last = np.full(queries, -np.inf)
    enough = np.diff(starts) >= count
    last[enough] = scores[order][starts[:-1][enough] + count - 1]
    return last


# -- where the blocks come from --------------------------------------------------------------


def block_rows(dimension: int, queries: int, memory: float = ENOUGH) -> int:
    """Rows of a block: their vectors as read, mapped and summed, and their scores."""
    return int(max(1, min(ENOUGH, memory) // (4 * (4 * dimension + 2 * queries))))


def stored(
    store: Store, geometry: Geometry, rows: int, filter: Filter | None = None
) -> Iterator[Block]:
    """Everything stored that passes the filter, in its geometry, so many rows at a time."""
    where = condition(filter) if filter else None
    for block in store.blocks(rows, metadata=bool(filter), where=where):
        yield passing(block, geometry.map(block.vectors, block.signatures, "document"), filter)


def passing(
    block: Loaded, mapped: Float[Tensor, "n hidden"], filter: Filter | None = None
) -> Block:
    """What of a block a filter lets through."""
    if not filter:
        return block.ids, mapped
    kept = [i for i, facts in enumerate(block.metadata) if passes(facts, filter)]
    return [block.ids[i] for i in kept], mapped[torch.tensor(kept, dtype=torch.long)]


def passes(metadata: Mapping[str, Any], wanted: Filter) -> bool:
    if callable(wanted):
        return bool(wanted(metadata))
    return all(
        key in metadata and metadata[key] in (value if isinstance(value, list) else [value])
        for key, value in wanted.items()
    )


def condition(wanted: Filter) -> str | None:
    """SQL that holds for all that passes, and for little else: strings are looked for in the
    written metadata, so that most of what does not pass is never read."""
    if callable(wanted):
        return None
    clauses = []
    for key, value in wanted.items():
        values = value if isinstance(value, list) else [value]
        if values and all(isinstance(v, str) for v in values):
            written = [json.dumps({key: v}, ensure_ascii=False)[1:-1] for v in values]
            quoted = ["'" + text.replace("'", "''") + "'" for text in written]
            clauses.append("(" + " OR ".join(f"contains(metadata, {q})" for q in quoted) + ")")
    return " AND ".join(clauses) or None
