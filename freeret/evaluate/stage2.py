"""Stage 2 over a run of stage 1: the model judges the first candidates of each query."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from tqdm.auto import tqdm

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.journal import MarginFile, Margins
from freeret.evaluate.rankings import Run, ordered
from freeret.evaluate.skipping import Skipped, work_on_good
from probes import Item
from probes.errors import BadItem
from probes.measure.fusion import fuse, undecided

Pair = tuple[Item, Item]


class Judge(Protocol):
    """The part of a `Reranker` that an evaluation needs."""

    def margins(
        self, pairs: Sequence[tuple[Any, Any]], *, progress: bool = False
    ) -> np.ndarray: ...


def judge_run(
    dataset: Dataset,
    run: Run,
    reranker: Judge,
    depth: int,
    *,
    cascade: float | None = None,
    kept: MarginFile | None = None,
    skipped: list[Skipped] | None = None,
    together: int = 1,
    progress: bool = False,
) -> Margins:
    """Judge the first `depth` candidates of every query.

    Args:
        depth: Candidates per query.
        cascade: Only queries whose first candidate leads by at most this are judged (see
            `probes.measure.fusion.lead`); None: all.
        kept: Margins of an earlier call, which are not measured again; new ones are added.
        skipped: Takes the pairs that cannot be judged. Without it the first of them raises BadItem.
        together: Queries per call of the reranker.

    Returns:
        The log-odds of a match, by query and document.
    """
    documents = {document.id: document for document in dataset.documents}
    margins: Margins = kept.margins if kept is not None else {}
    work: list[list[Pair]] = []
    for query in dataset.queries:
        known = margins.setdefault(query.id or "", {})
        found = run.get(query.id or "", {})
        left = [id for id in list(found)[:depth] if id not in known]
        if left and undecided(list(found.values()), cascade):
            work.append([(query, documents[id]) for id in left])
    total = sum(map(len, work))
    with tqdm(total=total, desc="reranking", unit="pair", disable=not progress, delay=2) as bar:
        for start in range(0, len(work), together):
            groups = work[start : start + together]
            judged = _judge([pair for group in groups for pair in group], reranker, skipped)
            for group in groups:
                query = group[0][0].id or ""
                rows = {d.id or "": judged[q.id, d.id] for q, d in group if (q.id, d.id) in judged}
                margins[query] |= rows
                if kept is not None:
                    kept.add_margins(query, rows)
                bar.update(len(group))
    return margins


def _judge(
    pairs: Sequence[Pair], reranker: Judge, skipped: list[Skipped] | None
) -> dict[tuple[str | None, str | None], float]:
    """Margins by the ids of query and document."""

    def work(some: Sequence[Pair]) -> list[float]:
        margins = reranker.margins(some)
        for (query, document), fine in zip(some, np.isfinite(margins), strict=True):
            if not fine:
                raise BadItem(f"{query.name} and {document.name}: their margin is not finite")
        return margins.tolist()

    names = [(query.id, document.id) for query, document in pairs]
    if skipped is None:
        return dict(zip(names, work(pairs), strict=True))
    done, bad = work_on_good(work, pairs, [None] * len(pairs))
    skipped += [
        Skipped("pair", " ".join(id or "" for id in names[place]), reason)
        for place, reason in bad.items()
    ]
    good = [name for place, name in enumerate(names) if place not in bad]
    return dict(zip(good, (margin for part in done for margin in part), strict=True))


def rerank_run(
    run: Run, margins: Margins, depth: int, fusion: float | None = None
) -> dict[str, dict[str, float]]:
    """Reorder the first `depth` candidates of each query by stage 2, above the others.

    Ties break by stage 1 and by id, as in `FreeRet.search`. A candidate without a margin stands
    below those that have one, in stage 1's order.

    Args:
        margins: Log-odds by query and document.
        depth: Candidates per query.
        fusion: Weight of the log-odds against the standardised score of stage 1; None: the log-odds
            alone decide.
    """
    reranked: dict[str, dict[str, float]] = {}
    for query, scores in run.items():
        known = margins.get(query, {})
        head = {id: None for id in list(scores)[:depth] if id in known}
        rest = [id for id in scores if id not in head]
        if not head:
            reranked[query] = dict(scores)
            continue
        judged = np.array([known[id] for id in head])
        fused = fuse([scores[id] for id in head], judged, fusion).tolist()
        ranked = sorted(
            zip(head, fused, strict=True), key=lambda pair: (-pair[1], -scores[pair[0]], pair[0])
        )
        lift = (scores[rest[0]] if rest else 0.0) + 1 - min(fused)
        lifted = {id: score + lift for id, score in ranked}
        reranked[query] = ordered(lifted | {id: scores[id] for id in rest})
    return reranked
