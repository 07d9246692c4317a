"""Exact search: `freeret.search.exact` against a float32 matrix product and top-k of PyTorch."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from freeret.search.exact import Block, resident, top_k
from gpu_parts.run import Results, Run
from probes.geometry import unit

TOP, ROWS = 100, 2**15
"""Hits of a query, and rows of a tile."""
PART = "freeret on the CPU, a tenth of the vectors"


def searching(run: Run) -> Iterator[Results]:
    """Seconds of a search over unit vectors in the memory of the host."""
    (count, dimension), device = run.scale.vectors, run.device
    rng = torch.Generator(device).manual_seed(0)
    vectors = torch.empty(count, dimension)
    for tile in vectors.split(ROWS):
        tile.copy_(unit(torch.randn(len(tile), dimension, generator=rng, device=device)))
    ids = [f"{place:08}" for place in range(count)]
    searches = ways(Block(ids, vectors), device)
    yield {"vectors": count, "dimension": dimension, "top": TOP}

    copied = vectors.to(device)
    for many in run.scale.searches:
        queries = unit(torch.randn(many, dimension, generator=rng, device=device)).cpu()
        best = reference(copied, queries, ids)
        found: dict[str, Any] = {}
        for name, search in searches.items():
            hits, found[name] = taken(search, queries)
            if name != PART:
                ours = [[id for id, _ in pairs] for pairs in hits]
                equal = sum(a == b for a, b in zip(ours, best, strict=True))
                found[f"{name}: queries with the right ids"] = equal
            yield {f"{many} queries": found}
        for name, source in (("on the device", copied), ("on the host", vectors)):
            search = functools.partial(plainly, device, source)
            found[f"torch, float32 vectors {name}"] = taken(search, queries)[1]
        yield {f"{many} queries": found}


def ways(block: Block, device: str) -> dict[str, Callable[[Tensor], Any]]:
    """Ways to search with FreeRet: on a GPU from copies and streamed, on the CPU a part."""
    if device == "cpu":
        return {"freeret on the CPU": lambda queries: top_k([block], queries, TOP)}
    copies, tenth = resident([block], device), max(1, len(block.ids) // 10)
    part = Block(block.ids[:tenth], block.vectors[:tenth])
    return {
        "freeret, copies on the GPU": lambda queries: top_k(copies, queries, TOP, device=device),
        "freeret, streamed to the GPU": lambda queries: top_k([block], queries, TOP, device=device),
        PART: lambda queries: top_k([part], queries, TOP),
    }


def taken(search: Callable[[Tensor], Any], queries: Tensor) -> tuple[Any, float]:
    """The result of a search and its seconds, without what only the first one pays for."""
    search(queries[:1])
    start = time.perf_counter()
    result = search(queries)
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
