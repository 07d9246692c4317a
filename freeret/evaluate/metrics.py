"""Metrics by ir-measures, kept per query so that methods can be compared in pairs.

`Spearman` is the one metric that is not a mean over queries: over pairs of sentences it is the rank
correlation of scores and grades, and the value of one pair is its score.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ir_measures
import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import rankdata
from torch import Tensor

from freeret.evaluate.datasets import Dataset
from probes.errors import BadSetting
from probes.stats import RESAMPLES, Interval

Run = Mapping[str, Mapping[str, float]]
"""Query id -> document id -> score."""
Values = Float[np.ndarray, " queries"]
SPEARMAN = "Spearman"
DEPTH = 1000
"""Documents of a query that a run keeps."""


def per_query(dataset: Dataset, run: Run, metric: str) -> Values:
    """The metric of each query in the dataset's order; a query without hits counts 0.

    Raises BadSetting for a metric that ir-measures does not know.
    """
    if metric == SPEARMAN:
        return np.array([_lone_score(run, query.id or "") for query in dataset.queries])
    try:
        measure = ir_measures.parse_measure(metric)
    except (NameError, ValueError, SyntaxError) as error:
        raise BadSetting(f"{metric!r} is no metric of ir-measures ({error})") from None
    graded = {q: {d: int(g) for d, g in row.items()} for q, row in dataset.judgements.items()}
    by_query = {m.query_id: m.value for m in ir_measures.iter_calc([measure], graded, run)}
    return np.array([float(by_query.get(query.id or "", 0.0)) for query in dataset.queries])


def score_run(dataset: Dataset, run: Run, metric: str) -> "Scores":
    """What a run is worth on a dataset."""
    return Scores(metric, per_query(dataset, run, metric), grades(dataset, metric))


def grades(dataset: Dataset, metric: str) -> Values | None:
    """The grade of each pair, for Spearman alone."""
    if metric != SPEARMAN:
        return None
    return np.array([max(dataset.judgements[q.id or ""].values()) for q in dataset.queries], float)


@dataclass(frozen=True)
class Scores:
    """One system's values on one dataset, and how they become a figure."""

    metric: str
    values: Values
    grades: Values | None = None
    """Of each pair, for Spearman alone."""

    def over(self, picks: Int[np.ndarray, "resamples n"]) -> Float[np.ndarray, " resamples"]:
        """The metric over resampled queries, given as indices."""
        if self.metric != SPEARMAN:
            return self.values[picks].mean(-1)
        if self.grades is None:
            raise BadSetting("Spearman needs the grades of the pairs")
        return spearman(self.values[picks], self.grades[picks])

    @property
    def value(self) -> float:
        """The metric over all queries."""
        return float(self.over(np.arange(len(self.values))[None])[0])

    def interval(self, seed: int = 0) -> Interval:
        """The metric with its 95% bootstrap interval over queries."""
        return mean_of([self], seed)


def mean_of(figures: Sequence[Scores], seed: int = 0) -> Interval:
    """The mean over datasets, each resampled by itself."""
    own = np.mean([score_run.value for score_run in figures])
    drawn = np.mean([_bootstrap(f.over, len(f.values), seed + i) for i, f in enumerate(figures)], 0)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(own), float(low), float(high))


def difference(pairs: Sequence[tuple[Scores, Scores]], seed: int = 0) -> tuple[Interval, float]:
    """a - b, as the mean over datasets, with its paired bootstrap interval and the p-value of a
    paired permutation test: if nothing told the systems apart, they could be swapped on any query.
    """
    if all(np.array_equal(a.values, b.values) for a, b in pairs):
        return Interval(0.0, 0.0, 0.0), 1.0

    def gap(a: Scores, b: Scores, picks: np.ndarray) -> np.ndarray:
        return a.over(picks) - b.over(picks)

    own = float(np.mean([a.value - b.value for a, b in pairs]))
    drawn = [
        _bootstrap(functools.partial(gap, a, b), len(a.values), seed + i)
        for i, (a, b) in enumerate(pairs)
    ]
    null = np.mean([_swapped(a, b, seed + i) for i, (a, b) in enumerate(pairs)], axis=0)
    low, high = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
    p = (1 + int((np.abs(null) >= abs(own) - 1e-12).sum())) / (1 + len(null))
    return Interval(own, float(low), float(high)), p


def spearman(
    scores: Float[np.ndarray, "*_ n"], grades: Float[np.ndarray, "*_ n"]
) -> Float[np.ndarray, "*_"]:
    """Rank correlation along the last axis, ties sharing their mean rank; 0 where one of the two
    is constant."""
    a, b = (rankdata(x, axis=-1) for x in (scores, grades))
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    length = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.where(length > 0, (a * b).sum(-1) / np.where(length > 0, length, 1), 0.0)


def _bootstrap(statistic: Callable[[np.ndarray], np.ndarray], size: int, seed: int) -> np.ndarray:
    picks = np.random.default_rng(seed).integers(size, size=(RESAMPLES, size))
    # Blocks keep many queries in little memory.
    return np.concatenate([statistic(block) for block in np.array_split(picks, 20)])


def _swapped(a: Scores, b: Scores, seed: int) -> np.ndarray:
    """Differences of the two after random swaps. Scores are swapped as ranks, whatever their
    scales."""
    x, y = (rankdata(f.values) if f.metric == SPEARMAN else f.values for f in (a, b))
    found, draw = [], np.random.default_rng(seed)
    for _ in range(20):
        swap = draw.random((RESAMPLES // 20, len(x))) < 0.5
        first, second = np.where(swap, y, x), np.where(swap, x, y)
        if a.metric != SPEARMAN:
            found.append((first - second).mean(-1))
            continue
        grades = np.broadcast_to(np.asarray(a.grades), first.shape)
        found.append(spearman(first, grades) - spearman(second, grades))
    return np.concatenate(found)


Score = Callable[[int, Int[Tensor, " pool"] | None], Float[Tensor, " pool"]]
"""Scores of one query (by its place) for documents (by their places; None: all, in order)."""


def to_run(dataset: Dataset, score: Score, depth: int = DEPTH) -> dict[str, dict[str, float]]:
    """The best documents of each query among those it may find, never itself
    (`Dataset.in_corpus`); ties break by document id."""
    ids = [document.id or "" for document in dataset.documents]
    by_id = torch.tensor(sorted(range(len(ids)), key=ids.__getitem__))
    place = {id: i for i, id in enumerate(ids)}
    run: dict[str, dict[str, float]] = {}
    for number, query in enumerate(dataset.queries):
        if dataset.candidates is None:
            pool, scores = by_id, score(number, None)[by_id]
        else:
            own = sorted(set(dataset.candidates[query.id or ""]))
            pool = torch.tensor([place[id] for id in own])
            scores = score(number, pool)
        if query.id in dataset.in_corpus:
            others = pool != place[query.id or ""]
            pool, scores = pool[others], scores[others]
        best = scores.sort(descending=True, stable=True)
        ranked = zip(best.indices[:depth].tolist(), best.values[:depth].tolist(), strict=True)
        run[query.id or ""] = ordered({ids[int(pool[i])]: value for i, value in ranked})
    return run


def ordered(scores: Mapping[str, float]) -> dict[str, float]:
    """The same scores in the order given, no two equal: what stands first stays first.

    Tools break ties in their own ways (trec_eval by id downwards, in float32), so equal
    neighbours are set apart by the smallest step that a float32 shows.
    """
    told: dict[str, float] = {}
    last = np.float32(np.inf)
    for id, score in scores.items():
        last = min(np.float32(score), np.nextafter(last, np.float32(-np.inf)))
        told[id] = float(last)
    return told


def _lone_score(run: Run, query: str) -> float:
    return max(run.get(query, {}).values(), default=0.0)
