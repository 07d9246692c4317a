"""Metrics, kept per query so that systems can be compared in pairs.

A metric is an object that knows its values per query and how they aggregate. Those of ir-measures
aggregate to their mean over queries, and so does `Share`, of a modality among the hits. `Spearman`,
over pairs of sentences, is the rank correlation of scores and grades; the value of one pair is its
score.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ir_measures
import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.stats import rankdata

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.rankings import Run
from probes.errors import BadSetting
from probes.stats import RESAMPLES, Interval, bootstrap, percentiles

Values = Float[ndarray, " queries"]
BLOCKS = 20
"""Parts in which the swaps of a permutation test are drawn, to limit memory."""


class Metric:
    """A measure of rankings: its values per query, and their aggregate, by default the mean."""

    name: str

    def per_query(self, dataset: Dataset, run: Run) -> Values:
        """The value of each query, in the dataset's order."""
        raise NotImplementedError

    def grades(self, dataset: Dataset) -> Values | None:
        """The judged grade of each query, where the aggregate needs it; else None."""
        return None

    def aggregate(
        self, values: Float[ndarray, "*_ n"], grades: Float[ndarray, "*_ n"] | None = None
    ) -> Float[ndarray, "*_"]:
        """The metric over the last axis."""
        return values.mean(-1)

    def exchangeable(self, values: Values) -> Values:
        """Values on a scale that two systems share, so that they can be swapped between them."""
        return values


@dataclass(frozen=True)
class MeanMetric(Metric):
    """A measure of ir-measures, averaged over queries; a query without hits counts 0."""

    name: str

    def __post_init__(self) -> None:
        self.measure  # noqa: B018  an unknown name is refused at once

    @property
    def measure(self) -> Any:
        """The measure of ir-measures. Raises BadSetting when there is none of this name."""
        try:
            return ir_measures.parse_measure(self.name)
        except (NameError, ValueError, SyntaxError) as error:
            raise BadSetting(f"{self.name!r} is no metric of ir-measures ({error})") from None

    def per_query(self, dataset: Dataset, run: Run) -> Values:
        graded = {q: {d: int(g) for d, g in row.items()} for q, row in dataset.judgements.items()}
        by_query = {
            measured.query_id: measured.value
            for measured in ir_measures.iter_calc([self.measure], graded, run)
        }
        return np.array([float(by_query.get(query.id or "", 0.0)) for query in dataset.queries])


@dataclass(frozen=True)
class Spearman(Metric):
    """Rank correlation of scores and grades over pairs; each query has one document."""

    name: str = "Spearman"

    def per_query(self, dataset: Dataset, run: Run) -> Values:
        rows = (run.get(query.id or "", {}) for query in dataset.queries)
        return np.array([max(row.values(), default=0.0) for row in rows])

    def grades(self, dataset: Dataset) -> Values:
        rows = (dataset.judgements[query.id or ""] for query in dataset.queries)
        return np.array([max(row.values()) for row in rows], float)

    def aggregate(
        self, values: Float[ndarray, "*_ n"], grades: Float[ndarray, "*_ n"] | None = None
    ) -> Float[ndarray, "*_"]:
        if grades is None:
            raise BadSetting("Spearman needs the grades of the pairs")
        return spearman(values, np.broadcast_to(grades, values.shape))

    def exchangeable(self, values: Values) -> Values:
        return rankdata(values)


@dataclass(frozen=True)
class Share(Metric):
    """Share of one modality signature among the first hits, averaged over queries. It says how a
    system treats modalities, not how good it is: unbiased is the share among the answers."""

    signature: str
    depth: int

    @property
    def name(self) -> str:
        return f"Share({self.signature})@{self.depth}"

    def per_query(self, dataset: Dataset, run: Run) -> Values:
        wanted = {d.id for d in dataset.documents if d.signature == self.signature}
        hits = [list(run.get(query.id or "", {}))[: self.depth] for query in dataset.queries]
        return np.array([np.mean([id in wanted for id in row]) if row else 0.0 for row in hits])


def parse_metric(name: str) -> Metric:
    """A metric by its name: `Spearman`, `Share(image)@10`, or as ir-measures writes it, such as
    `nDCG@10`.

    Raises BadSetting for an unknown name.
    """
    if share := re.fullmatch(r"Share\((.+)\)@(\d+)", name):
        return Share(share[1], int(share[2]))
    return Spearman() if name == "Spearman" else MeanMetric(name)


@dataclass(frozen=True)
class Scores:
    """The values of one system on one dataset, under one metric."""

    metric: Metric
    values: Values
    grades: Values | None = None

    def over(self, picks: Int[ndarray, "resamples n"]) -> Float[ndarray, " resamples"]:
        """The metric over resampled queries, given as indices."""
        grades = None if self.grades is None else self.grades[picks]
        return self.metric.aggregate(self.values[picks], grades)

    @property
    def value(self) -> float:
        """The metric over all queries."""
        return float(self.over(np.arange(len(self.values))[None])[0])

    def interval(self, seed: int = 0) -> Interval:
        """The metric with its 95% bootstrap interval over queries."""
        return mean_of([self], seed)


def score_run(dataset: Dataset, run: Run, name: str) -> Scores:
    """Score a ranking by a metric, given by its name."""
    metric = parse_metric(name)
    return Scores(metric, metric.per_query(dataset, run), metric.grades(dataset))


def mean_of(scores: Sequence[Scores], seed: int = 0) -> Interval:
    """The mean over datasets, the queries of each resampled on their own."""
    mean = np.mean([one.value for one in scores])
    draws = [bootstrap(one.over, len(one.values), seed + i) for i, one in enumerate(scores)]
    return Interval(float(mean), *percentiles(np.mean(draws, axis=0)))


def difference(pairs: Sequence[tuple[Scores, Scores]], seed: int = 0) -> tuple[Interval, float]:
    """a - b as the mean over datasets, paired by query.

    Returns:
        The difference with its 95% paired bootstrap interval, and the p-value of a paired
        permutation test. Null hypothesis: the two systems are exchangeable on every query.
    """
    if all(np.array_equal(a.values, b.values) for a, b in pairs):
        return Interval(0.0, 0.0, 0.0), 1.0

    def gap(a: Scores, b: Scores, picks: ndarray) -> ndarray:
        return a.over(picks) - b.over(picks)

    mean = float(np.mean([a.value - b.value for a, b in pairs]))
    draws = [
        bootstrap(functools.partial(gap, a, b), len(a.values), seed + i)
        for i, (a, b) in enumerate(pairs)
    ]
    null = np.mean([_permuted(a, b, seed + i) for i, (a, b) in enumerate(pairs)], axis=0)
    p = (1 + int((np.abs(null) >= abs(mean) - 1e-12).sum())) / (1 + len(null))
    return Interval(mean, *percentiles(np.mean(draws, axis=0))), p


def spearman(
    scores: Float[ndarray, "*_ n"], grades: Float[ndarray, "*_ n"]
) -> Float[ndarray, "*_"]:
    """Rank correlation along the last axis, ties sharing their mean rank; 0 where one of the two
    is constant."""
    a, b = (rankdata(x, axis=-1) for x in (scores, grades))
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    length = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.where(length > 0, (a * b).sum(-1) / np.where(length > 0, length, 1), 0.0)


def _permuted(a: Scores, b: Scores, seed: int) -> Float[ndarray, " resamples"]:
    """Differences of the two systems after their values are swapped on random queries."""
    x, y = a.metric.exchangeable(a.values), b.metric.exchangeable(b.values)
    differences, draw = [], np.random.default_rng(seed)
    for _ in range(BLOCKS):
        swap = draw.random((RESAMPLES // BLOCKS, len(x))) < 0.5
        first, second = np.where(swap, y, x), np.where(swap, x, y)
        differences.append(
            a.metric.aggregate(first, a.grades) - a.metric.aggregate(second, a.grades)
        )
    return np.concatenate(differences)
