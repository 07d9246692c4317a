"""Stage 2 over a first stage's run: the first candidates of each query, judged by the model."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.metrics import Run, ordered
from probes.reranking import fuse

Margins = dict[str, dict[str, float]]
"""Query id -> document id -> log-odds of a match."""


class Judge(Protocol):
    """What a `Reranker` is to an evaluation."""

    def margins(
        self, pairs: Sequence[tuple[Any, Any]], *, progress: bool = False
    ) -> np.ndarray: ...


def judge_run(
    dataset: Dataset, run: Run, reranker: Judge, depth: int, *, progress: bool = False
) -> Margins:
    """The log-odds of the first `depth` candidates of every query."""
    documents = {document.id: document for document in dataset.documents}
    pairs, places = [], []
    for query in dataset.queries:
        for id in list(run.get(query.id or "", {}))[:depth]:
            pairs.append((query, documents[id]))
            places.append((query.id or "", id))
    margins: Margins = {}
    judged = reranker.margins(pairs, progress=progress)
    for (query, id), margin in zip(places, judged.tolist(), strict=True):
        margins.setdefault(query, {})[id] = margin
    return margins


def rerank_run(
    run: Run, margins: Margins, depth: int, fusion: float | None = None
) -> dict[str, dict[str, float]]:
    """The run with its first `depth` candidates in stage 2's order, above the others.

    Ties keep the order of their ids, as in `FreeRet.search`.
    """
    found: dict[str, dict[str, float]] = {}
    for query, scores in run.items():
        ids = list(scores)
        head, tail = ids[:depth], ids[depth:]
        if not head:
            found[query] = {}
            continue
        judged = np.array([margins[query][id] for id in head])
        fused = fuse([scores[id] for id in head], judged, fusion).tolist()
        ranked = sorted(zip(head, fused, strict=True), key=lambda pair: (-pair[1], pair[0]))
        lift = (scores[tail[0]] if tail else 0.0) + 1 - min(fused)
        told = {id: score + lift for id, score in ranked} | {id: scores[id] for id in tail}
        found[query] = ordered(told)
    return found
