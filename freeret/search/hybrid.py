"""Hybrid search: the candidates of the vectors and of the words of a query, in one ranking.

The candidates are the best of each leg (`probes.measure.diagnostic.hybrid.CANDIDATES`). Each has
its exact cosine and its BM25 score, which is 0 where it shares no word with the query; the weighted
BM25 score is added to the cosine, standardised over the candidates (`probes.measure.fusion.fuse`).
All other items follow in the order of their cosines, so that the first hits do not depend on how
many are asked for. A query without words, or with words that no item has, leaves the order of the
vectors as it is.
"""

from collections.abc import Callable, Mapping, Sequence

from freeret.hits import Legs
from probes.measure.fusion import fuse

Scores = Mapping[str, float]
"""Scores by id, best first."""
Candidate = tuple[str, float, Legs]
"""Id, fused score, and the scores of both legs."""


def fuse_legs(
    nearest: Scores,
    matches: Scores,
    cosines: Callable[[Sequence[str]], Scores],
    bm25: Callable[[Sequence[str]], Scores],
    weight: float,
) -> list[Candidate]:
    """Rank the candidates of both legs of one query.

    Args:
        nearest: Cosines of the nearest items.
        matches: BM25 scores of the items that share most words with the query.
        cosines: Returns the cosines of other items.
        bm25: Returns the BM25 scores of other items; those that it leaves out are 0.
        weight: Weight of the BM25 score against the standardised cosine.

    Returns:
        All candidates, best first; ties by id.
    """
    ids = sorted(nearest.keys() | matches.keys())
    near = {**nearest, **cosines([id for id in ids if id not in nearest])}
    words = {**matches, **bm25([id for id in ids if id not in matches])}
    by_cosine, by_bm25 = (
        {id: rank for rank, id in enumerate(leg, start=1)} for leg in (nearest, matches)
    )
    legs = [Legs(near[id], by_cosine.get(id), words.get(id, 0.0), by_bm25.get(id)) for id in ids]
    if not legs:
        return []
    fused = fuse([leg.cosine for leg in legs], [leg.bm25 for leg in legs], weight).tolist()
    return sorted(zip(ids, fused, legs, strict=True), key=lambda row: (-row[1], row[0]))


def lowered(candidates: Sequence[Candidate], highest: float) -> float:
    """What is added to the cosine of any other item, so that it stands below the candidates.

    Args:
        highest: No cosine is higher.
    """
    return min(score for _, score, _ in candidates) - 1 - highest
