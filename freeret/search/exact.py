"""Exact top-k search over blocks of vectors, whether they lie in memory or stream from disk.

Scores are float32 matrix products, a block of items against all queries. Scores near the current
k-th one are computed again in float64, row by row, so that equal vectors tie exactly; ties break by
id. Each block holds one modality signature. The candidates of each signature are kept apart until
the cosines of all are put on one scale (`Geometry.calibration`), which changes no order within a
signature.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.geometry import Affine


class Block(NamedTuple):
    """Items of one modality signature."""

    ids: Sequence[str]
    vectors: Float[Tensor, "_ hidden"]
    """Unit vectors in the geometry of the corpus."""
    signature: str = ""


NEAR = 1e-5
"""More than the rounding of a float32 dot product of unit vectors."""
TILE = 2**22
"""Scores of one matrix product: as many as stay in the cache of the processor."""
PAIRS = 512
"""Pairs summed in float64 at once."""


def top_k(
    blocks: Iterable[Block],
    queries: Float[Tensor, "q hidden"],
    count: int,
    calibration: Mapping[str, Affine] | None = None,
) -> list[list[tuple[str, float]]]:
    """The best items of every query.

    Args:
        blocks: The items that are searched.
        queries: Unit vectors in the geometry of the corpus.
        count: The number of items per query, over all signatures.
        calibration: Gain and shift that turn cosines into scores, by signature; without one, the
            cosines are the scores.

    Returns:
        For every query, pairs of id and score, best first.
    """
    if count < 1 or len(queries) == 0:
        return [[] for _ in queries]
    wide, by_signature = queries.double(), dict[str, _Leaders]()
    rows = max(1, TILE // len(queries))
    for names, vectors, signature in blocks:
        leaders = by_signature.setdefault(signature, _Leaders(len(queries), count))
        for start in range(0, len(names), rows):
            tile = vectors[start : start + rows]
            product = queries @ tile.T
            if len(tile) >= count and leaders.bound.isinf().any():
                leaders.raise_bound(product.topk(count, dim=1).values[:, -1])
            rows_of, columns = _true_entries(product >= leaders.bound[:, None])
            scores = _dots(wide, tile, rows_of, columns)
            ids = [names[start + column] for column in columns.tolist()]
            leaders.add(rows_of.numpy(), scores, np.array(ids, object))
    return _merged(by_signature, len(queries), count, calibration or {})


def _merged(
    by_signature: Mapping[str, "_Leaders"],
    queries: int,
    count: int,
    calibration: Mapping[str, Affine],
) -> list[list[tuple[str, float]]]:
    pools: list[list[tuple[str, float]]] = [[] for _ in range(queries)]
    for signature, leaders in by_signature.items():
        affine = calibration.get(signature)
        for place, ranked in enumerate(leaders.ranked()):
            gain, shift = (float(a[place]) for a in affine) if affine else (1.0, 0.0)
            pools[place] += [(id, gain * cosine + shift) for id, cosine in ranked]
    return [sorted(pool, key=lambda pair: (-pair[1], pair[0]))[:count] for pool in pools]


class _Leaders:
    """All (query, id, score) that can still be among the `count` best of their query."""

    def __init__(self, queries: int, count: int):
        self.queries, self.count = queries, count
        self.bound = torch.full((queries,), -torch.inf)
        """Lower bound of the `count`-th score of each query."""
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.size = self.capacity = 0

    def raise_bound(self, scores: Float[Tensor, " q"]) -> None:
        """`count` items are known to have at least these scores, in float32."""
        self.bound = torch.maximum(self.bound, scores.float() - NEAR)

    def add(self, queries: np.ndarray, scores: np.ndarray, ids: np.ndarray) -> None:
        self.parts.append((queries, scores, ids))
        self.size += len(queries)
        if self.size > self.capacity:
            self.size = len(self._prune()[0])
            self.capacity = max(self.size, self.queries * self.count) * 13 // 10

    def _prune(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Drop candidates below the current `count`-th score of their query. Query index and
        quantised score (step 2e-9) are packed into one int64: one integer sort is many times faster
        than sorting the pairs."""
        queries, scores, ids = (
            np.concatenate(columns) for columns in zip(*self.parts, strict=True)
        )
        keys = np.sort((queries << 32) + np.floor((scores + 2) * 2**29).astype(int))
        ends = np.searchsorted(keys, np.arange(self.queries + 1) << 32)
        last, enough = np.full(self.queries, -np.inf), np.diff(ends) >= self.count
        last[enough] = (keys[ends[1:][enough] - self.count] & (2**32 - 1)) / 2**29 - 2
        self.raise_bound(torch.from_numpy(last))
        best = scores >= last[queries]
        self.parts = [(queries[best], scores[best], ids[best])]
        return self.parts[0]

    def ranked(self) -> list[list[tuple[str, float]]]:
        """Pairs of id and score of every query, best first."""
        pairs: list[list[tuple[str, float]]] = [[] for _ in range(self.queries)]
        if self.parts:
            columns = (column.tolist() for column in self._prune())
            for query, score, id in zip(*columns, strict=True):
                pairs[query].append((id, score))
        return [sorted(some, key=lambda pair: (-pair[1], pair[0]))[: self.count] for some in pairs]


def _true_entries(mask: Bool[Tensor, "q n"]) -> tuple[Int[Tensor, " true"], Int[Tensor, " true"]]:
    """Row and column indices of the true entries. The mask is sparse, so that it is scanned eight
    booleans at a time."""
    if mask.numel() % 8:
        rows, columns = mask.nonzero(as_tuple=True)
        return rows, columns
    flat = mask.view(-1)
    groups = flat.view(torch.int64).nonzero().view(-1)
    group, offset = flat.view(-1, 8)[groups].nonzero(as_tuple=True)
    entries = groups[group] * 8 + offset
    return entries // mask.shape[1], entries % mask.shape[1]


def _dots(queries: Tensor, vectors: Tensor, rows: Tensor, columns: Tensor) -> np.ndarray:
    """Dot products of pairs, summed in float64 and row by row: the same in every block."""
    parts = [
        vectors.index_select(0, c).double().mul_(queries.index_select(0, r)).sum(1)
        for r, c in zip(rows.split(PAIRS), columns.split(PAIRS), strict=True)
    ]
    return torch.cat(parts).numpy()
