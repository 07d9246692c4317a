"""Rankings: from the scores of a query to its best documents, and TREC run files."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.results.trec import trec_lines, trec_word
from probes.files import write_atomic

Ranking = dict[str, dict[str, float]]
Run = Mapping[str, Mapping[str, float]]
"""Query id -> document id -> score, best first."""
DEPTH = 1000
"""Documents per query that a run keeps."""
QueryScores = Callable[[int, Int[Tensor, " pool"] | None], Float[Tensor, " pool"]]
"""Scores of one query, given by its index, for documents, given by theirs; None: all, in order."""


def to_run(dataset: Dataset, score: QueryScores) -> Ranking:
    """The best documents of each query among its candidates, never the query itself
    (`Dataset.in_corpus`); ties break by document id."""
    ids = [document.id or "" for document in dataset.documents]
    by_id = torch.tensor(sorted(range(len(ids)), key=ids.__getitem__))
    place = {id: i for i, id in enumerate(ids)}
    run: Ranking = {}
    for number, query in enumerate(dataset.queries):
        if dataset.candidates is None:
            pool, scores = by_id, score(number, None)[by_id]
        else:
            candidates = sorted(set(dataset.candidates[query.id or ""]))
            pool = torch.tensor([place[id] for id in candidates])
            scores = score(number, pool)
        if query.id in dataset.in_corpus:
            others = pool != place[query.id or ""]
            pool, scores = pool[others], scores[others]
        best = scores.sort(descending=True, stable=True)
        ranked = zip(best.indices[:DEPTH].tolist(), best.values[:DEPTH].tolist(), strict=True)
        run[query.id or ""] = ordered({ids[int(pool[i])]: value for i, value in ranked})
    return run


def ordered(scores: Mapping[str, float]) -> dict[str, float]:
    """The same scores in the order given, no two equal, so that the order survives in a file.

    Tools break ties in different ways (trec_eval by descending id, in float32), so equal
    neighbours are set apart by the smallest step of a float32.
    """
    distinct: dict[str, float] = {}
    last = np.float32(np.inf)
    for id, score in scores.items():
        last = min(np.float32(score), np.nextafter(last, np.float32(-np.inf)))
        distinct[id] = float(last)
    return distinct


def write_trec(path: Path, run: Run, tag: str) -> Path:
    """Write a TREC run file, whole or not at all."""
    lines = (line for query, row in run.items() for line in trec_lines(query, row.items(), tag))
    return write_atomic(path, "".join(f"{line}\n" for line in lines))


def read_trec(path: Path, dataset: Dataset) -> Ranking | None:
    """The run over a dataset that `write_trec` wrote.

    Returns:
        None when the file is missing or damaged, or does not tell the dataset's ids apart.
    """
    queries = _by_word(query.id for query in dataset.queries)
    documents = _by_word(document.id for document in dataset.documents)
    if len(queries) < len(dataset.queries) or len(documents) < len(dataset.documents):
        return None
    run: Ranking = {id: {} for id in queries.values()}
    try:
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            query, _, document, _, score, _ = line.split(" ", 5)
            run[queries[query]][documents[document]] = float(score)
    except (OSError, ValueError, KeyError):
        return None
    return run


def _by_word(ids: Iterable[str | None]) -> dict[str, str]:
    return {trec_word(id or ""): id or "" for id in ids}
