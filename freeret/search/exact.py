"""Exact search: the best of all items, whether their vectors lie in memory or stream from disk.

Scores are float32 matrix products, a block of items against all queries. What comes near the cut is
summed again in float64, row by row, so that equal vectors tie exactly; ties break by id. Blocks are
of one modality signature each, whose best are kept apart until the cosines of all signatures are
put on one scale (`Geometry.calibration`): within a signature that changes no order.
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
"""Scores computed before they are looked at: what stays near the processor."""
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
        blocks: Everything that is searched.
        queries: Unit vectors in the geometry of the corpus.
        count: How many items each query gets, over all signatures.
        calibration: By signature, what turns its cosines into scores; where none is given, cosines
            are the scores.

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
            asked, places = _places(product >= leaders.bound[:, None])
            scores = _dots(wide, tile, asked, places)
            ids = [names[start + i] for i in places.tolist()]
            leaders.add(asked.numpy(), scores, np.array(ids, object))
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
    """All (query, id, score) that may yet be among the `count` best of their query."""

    def __init__(self, queries: int, count: int):
        self.queries, self.count = queries, count
        self.bound = torch.full((queries,), -torch.inf)
        """No score below it matters; of each query."""
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.held = self.room = 0

    def raise_bound(self, scores: Float[Tensor, " q"]) -> None:
        """So many items have at least these scores, in float32."""
        self.bound = torch.maximum(self.bound, scores.float() - NEAR)

    def add(self, asked: np.ndarray, scores: np.ndarray, ids: np.ndarray) -> None:
        self.parts.append((asked, scores, ids))
        self.held += len(asked)
        if self.held > self.room:
            self.held = len(self._drop()[0])
            self.room = max(self.held, self.queries * self.count) * 13 // 10

    def _drop(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Leave out what is below place `count` of its query. Whole numbers that hold query and
        score, 2e-9 apart, sort many times faster than the pairs."""
        asked, scores, ids = (np.concatenate(columns) for columns in zip(*self.parts, strict=True))
        keys = np.sort((asked << 32) + np.floor((scores + 2) * 2**29).astype(int))
        ends = np.searchsorted(keys, np.arange(self.queries + 1) << 32)
        last, enough = np.full(self.queries, -np.inf), np.diff(ends) >= self.count
        last[enough] = (keys[ends[1:][enough] - self.count] & (2**32 - 1)) / 2**29 - 2
        self.raise_bound(torch.from_numpy(last))
        kept = scores >= last[asked]
        self.parts = [(asked[kept], scores[kept], ids[kept])]
        return self.parts[0]

    def ranked(self) -> list[list[tuple[str, float]]]:
        found: list[list[tuple[str, float]]] = [[] for _ in range(self.queries)]
        if self.parts:
            for query, score, id in zip(*(column.tolist() for column in self._drop()), strict=True):
                found[query].append((id, score))
        return [
            sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[: self.count] for pairs in found
        ]


def _places(mask: Bool[Tensor, "q n"]) -> tuple[Int[Tensor, " hits"], Int[Tensor, " hits"]]:
    """Where a mask holds. Few places do, so eight are looked at in one."""
    if mask.numel() % 8:
        asked, rows = mask.nonzero(as_tuple=True)
        return asked, rows
    flat = mask.view(-1)
    eights = flat.view(torch.int64).nonzero().view(-1)
    of, at = flat.view(-1, 8)[eights].nonzero(as_tuple=True)
    places = eights[of] * 8 + at
    return places // mask.shape[1], places % mask.shape[1]


def _dots(queries: Tensor, vectors: Tensor, asked: Tensor, rows: Tensor) -> np.ndarray:
    """Dot products of pairs, in float64 and row by row: the same wherever a row stands."""
    parts = [
        vectors.index_select(0, r).double().mul_(queries.index_select(0, q)).sum(1)
        for q, r in zip(asked.split(PAIRS), rows.split(PAIRS), strict=True)
    ]
    return torch.cat(parts).numpy()
