"""Exact search: `freeret.search.exact` against a float32 matrix product and top-k of PyTorch."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from freeret.search.exact import Block, top_k
from gpu_parts.run import Results, Run
from probes.geometry import unit

TOP, ROWS = 100, 2**15
"""Hits of a query, and rows of a block."""
AGAIN = 3
"""Seconds up to which a search is repeated."""


def searching(run: Run) -> Iterator[Results]:
    """Seconds of a search over vectors in the memory of the host."""
    (count, dimension), device = run.scale.vectors, run.device
    rng = torch.Generator(device).manual_seed(0)
    vectors = torch.empty(count, dimension)
    for tile in vectors.split(ROWS):
        tile.copy_(unit(torch.randn(len(tile), dimension, generator=rng, device=device)))
    ids = [f"{place:08}" for place in range(count)]
    resident = vectors.to(device)
    for many in run.scale.searches:
        queries = unit(torch.randn(many, dimension, generator=rng, device=device)).cpu()
        blocks = [
            Block(ids[start : start + ROWS], vectors[start : start + ROWS])
            for start in range(0, count, ROWS)
        ]
        hits, seconds = taken(lambda: top_k(blocks, queries, TOP))  # noqa: B023
        found: Results = {"vectors": count, "dimension": dimension, "freeret": seconds}
        yield {f"{many} queries": found}
        if seconds < AGAIN:  # without what only the first search pays for
            found["freeret"] = taken(lambda: top_k(blocks, queries, TOP))[1]  # noqa: B023
        for name, source in (("on the device", resident), ("from the host", vectors)):
            plainly(device, source, queries)
            found[f"torch, vectors {name}"] = taken(lambda: plainly(device, source, queries))[1]  # noqa: B023
        best = reference(resident, queries, ids)
        ours = [[id for id, _ in pairs] for pairs in hits]
        found["queries_with_equal_ids"] = sum(a == b for a, b in zip(ours, best, strict=True))
        yield {f"{many} queries": found}


def taken(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result of `work` and its seconds."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def plainly(device: str, vectors: Tensor, queries: Tensor, count: int = TOP) -> tuple[Any, Any]:
    """Scores and places of the best, by block: what one would write with PyTorch."""
    asked = queries.to(device)
    scores = torch.empty(len(queries), 0, device=device)
    places = torch.empty(len(queries), 0, device=device, dtype=torch.long)
    for start in range(0, len(vectors), 8 * ROWS):
        product = asked @ vectors[start : start + 8 * ROWS].to(device).T
        best = product.topk(min(count, product.shape[1]), dim=1)
        scores = torch.cat([scores, best.values], dim=1)
        places = torch.cat([places, best.indices + start], dim=1)
    best = scores.topk(count, dim=1)
    return best.values.cpu(), places.gather(1, best.indices).cpu()


def reference(vectors: Tensor, queries: Tensor, ids: list[str]) -> list[list[str]]:
    """The ids of the best by float64 products of twice as many candidates; ties break by id."""
    places = plainly(str(vectors.device), vectors, queries, 2 * TOP)[1]
    found = []
    for query, row in zip(queries, places, strict=True):
        near = vectors[row.to(vectors.device)].double().cpu()
        pairs = zip((near * query.double()).sum(1).tolist(), row.tolist(), strict=True)
        best = sorted((-score, ids[place]) for score, place in pairs)
        found.append([id for _, id in best[:TOP]])
    return found
