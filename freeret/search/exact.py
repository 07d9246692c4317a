"""Exact top-k search over blocks of vectors, whether they lie in memory or stream from disk.

Candidates are found by matrix products: in float32 on a CPU, in float16 on a GPU. A product may
differ from the score by its rounding error, for which there is a bound; every item that can be
among the best within this bound is a candidate, so that none is lost. Candidates are scored again
from the float32 vectors, in float64 and row by row, so that hits and scores are the same on every
device and equal vectors tie exactly; ties break by id.

Each block holds one modality signature. Where the cosines of signatures are put on one scale
(`Geometry.calibration`), which changes no order within a signature, the candidates of each are kept
apart until then.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.geometry import Affine
from probes.model.batches.memory import free_bytes


class Block(NamedTuple):
    """Items of one modality signature."""

    ids: Sequence[str]
    vectors: Float[Tensor, "_ hidden"]
    """Unit vectors in the geometry of the corpus, float32."""
    signature: str = ""
    copy: Float[Tensor, "_ hidden"] | None = None
    """The same vectors on the device and in the number format that candidates are found in."""


TILE = {"cpu": 2**22, "cuda": 2**27}
"""Scores of one matrix product: on a CPU as many as stay in its cache, on a GPU 512 MB."""
STAGED = 2**26
"""Bytes of vectors that are copied to a GPU at once, from pinned memory."""
SUMMED = 2**18
"""Products that are summed in float64 at once."""
SHARE = 0.75
"""Part of a GPU's free memory that copies of vectors may take; forwards need the rest."""

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Pairs of query and item: the places of the queries, the scores, and the items."""


def top_k(
    blocks: Iterable[Block],
    queries: Float[Tensor, "q hidden"],
    count: int,
    calibration: Mapping[str, Affine] | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> list[list[tuple[str, float]]]:
    """The best items of every query.

    Args:
        queries: Unit vectors in the geometry of the corpus, on the CPU.
        count: The number of items per query, over all signatures.
        calibration: Gain and shift that turn cosines into scores, by signature; without one, the
            cosines are the scores.
        device: Where candidates are found.
        dtype: The number format that they are found in; by default that of `number_format`.

    Returns:
        For every query, pairs of id and score, best first.
    """
    if count < 1 or len(queries) == 0:
        return [[] for _ in queries]
    wide, by_scale = queries.double(), dict[str, _Leaders]()
    narrow = queries.to(device, dtype or number_format(device))
    error = product_error(narrow.dtype, queries.shape[1])
    for block in blocks:
        scale = block.signature if calibration else ""
        leaders = by_scale.setdefault(scale, _Leaders(len(queries), count))
        places, rows = _candidates(block, narrow, count, leaders.bound - error, error)
        scores = _dots(wide, block.vectors, places, rows)
        leaders.add(places, scores, _ids(block.ids, rows))
    return _merged(by_scale, len(queries), count, calibration or {})


def number_format(device: torch.device | str) -> torch.dtype:
    """The number format in which candidates are found on a device: float16 has more digits than
    bfloat16, and unit vectors need no larger range."""
    return torch.float32 if torch.device(device).type == "cpu" else torch.float16


def product_error(dtype: torch.dtype, dimension: int) -> float:
    """Largest difference between a product of two rounded unit vectors and their dot product.

    Rounding to a format with unit roundoff u and smallest number s moves a unit vector by at most
    u + s·√d/2. By the Cauchy–Schwarz inequality the dot product moves by as much for each of the
    two vectors. Summing d products in float32 adds at most d·2⁻²³ times the sum of their
    magnitudes, which is at most 1 (Higham 2002, Accuracy and Stability of Numerical Algorithms,
    section 3.1); twice this allows for units that align summands before they add, and truncate
    (Fasi et al. 2021, doi:10.7717/peerj-cs.330). The last term allows for norms that are 1 up to
    float32 rounding and for that of the bounds themselves.
    """
    limits = torch.finfo(dtype)
    rounding = limits.eps / 2 + limits.tiny * limits.eps * dimension**0.5 / 2
    return 2 * rounding + dimension * 2**-22 + 2e-6


def resident(blocks: Sequence[Block], device: torch.device | str) -> list[Block]:
    """The blocks with copies of their vectors on a GPU, if all fit in its free memory. They are
    unchanged if not, or on a CPU."""
    device, dtype = torch.device(device), number_format(device)
    needed = sum(block.vectors.numel() for block in blocks) * dtype.itemsize
    if device.type != "cuda" or needed > SHARE * free_bytes(device):
        return list(blocks)
    return [block._replace(copy=_copied(block.vectors, device, dtype)) for block in blocks]


def _copied(vectors: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    copy = torch.empty(vectors.shape, device=device, dtype=dtype)
    rows = max(1, STAGED // (4 * vectors.shape[1]))
    for part, source in zip(copy.split(rows), vectors.split(rows), strict=True):
        part.copy_(_staged(source, device))
    return copy


def _staged(vectors: Tensor, device: torch.device) -> Tensor:
    """Vectors on the device. From pinned memory they are copied while the CPU goes on."""
    if device.type == "cuda" and not vectors.is_cuda:
        vectors = vectors.pin_memory()
    return vectors.to(device, non_blocking=True)


def _candidates(
    block: Block,
    queries: Float[Tensor, "q hidden"],
    count: int,
    bound: Float[np.ndarray, " q"],
    error: float,
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Places of queries and rows of a block: all pairs that can be among the best.

    Args:
        queries: On the device and in the number format in which candidates are found.
        bound: Products of the best are no lower.
        error: Largest difference between a product and a score.
    """
    # The `count`-th highest score may be lower than the `count`-th highest product by the error,
    # and the product of an item lower than its score by as much again.
    found = _Leaders(len(queries), count, slack=2 * error, bound=bound)
    device, size = queries.device, block.vectors.shape[1]
    rows = max(1, TILE.get(device.type, TILE["cpu"]) // len(queries))
    if block.copy is None and device.type != "cpu":
        rows = max(1, min(rows, STAGED // (4 * size)))
    source = block.vectors if block.copy is None else block.copy
    for start in range(0, len(block.ids), rows):
        tile = _staged(source[start : start + rows], device).to(queries.dtype)
        products = _products(queries, tile)
        if len(tile) >= count and np.isinf(found.bound).any():
            found.raise_bound(products.topk(count, dim=1).values[:, -1].double().cpu().numpy())
        least = torch.from_numpy(found.bound).to(device, torch.float32)
        places, columns = _true_entries(products >= least[:, None])
        scores = products[places, columns].double()
        found.add(places.cpu().numpy(), scores.cpu().numpy(), columns.cpu().numpy() + start)
    places, _, rows_of = found.best()
    return places, rows_of


def _products(queries: Tensor, vectors: Tensor) -> Float[Tensor, "q n"]:
    """Dot products, summed in float32 whatever the number format of the vectors."""
    if queries.is_cuda and queries.dtype != torch.float32:
        return torch.mm(queries, vectors.T, out_dtype=torch.float32)
    return queries.float() @ vectors.float().T


def _merged(
    by_scale: Mapping[str, "_Leaders"],
    queries: int,
    count: int,
    calibration: Mapping[str, Affine],
) -> list[list[tuple[str, float]]]:
    pools: list[Pairs] = []
    for signature, leaders in by_scale.items():
        places, scores, ids = _ranked(leaders.best(), count)
        if signature in calibration:
            gain, shift = (a.double().numpy()[places] for a in calibration[signature])
            scores = gain * scores + shift
        pools.append((places, scores, ids))
    if not pools:
        return [[] for _ in range(queries)]
    places, scores, ids = _ranked(_joined(pools), count)
    pairs = list(zip(ids.tolist(), scores.tolist(), strict=True))
    ends = np.searchsorted(places, np.arange(queries + 1))
    return [pairs[start:end] for start, end in pairwise(ends.tolist())]


def _ranked(pairs: Pairs, count: int) -> Pairs:
    """The `count` best pairs of each query, best first; ties by id."""
    order = np.lexsort((-pairs[1], pairs[0]))
    places, scores, ids = (column[order] for column in pairs)
    tied = (places[1:] == places[:-1]) & (scores[1:] == scores[:-1])
    edges = np.flatnonzero(np.diff(np.r_[False, tied, False].astype(np.int8)))
    for first, last in edges.reshape(-1, 2).tolist():
        ids[first : last + 1] = sorted(ids[first : last + 1])
    within = np.arange(len(places)) - np.searchsorted(places, places) < count
    return places[within], scores[within], ids[within]


def _joined(parts: Sequence[Pairs]) -> Pairs:
    places, scores, items = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return places, scores, items


class _Leaders:
    """All (query, score, item) that can still be among the `count` best of their query.

    Args:
        slack: Scores this far below the `count`-th highest are kept.
        bound: Lower bounds of the scores of the best, where they are known.
    """

    def __init__(
        self, queries: int, count: int, slack: float = 0.0, bound: np.ndarray | None = None
    ):
        self.queries, self.count, self.slack = queries, count, slack
        self.bound = np.full(queries, -np.inf) if bound is None else bound
        """Scores below it are not among the best."""
        self.parts: list[Pairs] = []
        self.pruned = False
        self.size = self.capacity = 0

    def raise_bound(self, scores: Float[np.ndarray, " q"]) -> None:
        """`count` items are known to have at least these scores."""
        self.bound = np.maximum(self.bound, scores - self.slack)

    def add(self, places: np.ndarray, scores: np.ndarray, items: np.ndarray) -> None:
        self.parts.append((places, scores, items))
        self.pruned = False
        self.size += len(places)
        if self.size > self.capacity:
            self.size = len(self.best()[0])
            self.capacity = max(self.size, self.queries * self.count) * 13 // 10

    def best(self) -> Pairs:
        """Drop pairs below the `count`-th highest score of their query, unless there are too few.
        Place of the query and quantised score (step 2e-9) are packed into one int64: one integer
        sort is many times faster than sorting the pairs."""
        if not self.parts:
            return np.empty(0, int), np.empty(0), np.empty(0, int)
        if not self.pruned:
            places, scores, items = _joined(self.parts)
            if len(places) >= self.queries * self.count:
                keys = np.sort((places << 32) + np.floor((scores + 2) * 2**29).astype(int))
                ends = np.searchsorted(keys, np.arange(self.queries + 1) << 32)
                last, enough = np.full(self.queries, -np.inf), np.diff(ends) >= self.count
                last[enough] = (keys[ends[1:][enough] - self.count] & (2**32 - 1)) / 2**29 - 2
                self.raise_bound(last)
                kept = scores >= self.bound[places]
                places, scores, items = places[kept], scores[kept], items[kept]
            self.parts, self.pruned = [(places, scores, items)], True
        return self.parts[0]


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


def _dots(queries: Tensor, vectors: Tensor, places: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Dot products of pairs, summed in float64 and row by row: the same in every block."""
    step = max(1, SUMMED // vectors.shape[1])
    pairs = zip(
        torch.from_numpy(places).split(step), torch.from_numpy(rows).split(step), strict=True
    )
    parts = [
        vectors.index_select(0, r).double().mul_(queries.index_select(0, p)).sum(1)
        for p, r in pairs
    ]
    return torch.cat(parts).numpy()


def _ids(ids: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """The ids of rows, as objects; each is read once, however often it occurs."""
    distinct, places = np.unique(rows, return_inverse=True)
    return np.array([ids[row] for row in distinct.tolist()], object)[places]
