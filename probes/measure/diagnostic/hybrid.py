"""The gain of hybrid search: words beside vectors, over either of them alone.

At the extraction that the diagnostic supports, the BM25 score of every document is added to its
standardised stage-1 score at several weights, as hybrid search adds it. BM25 approximates log-odds
of relevance (Robertson and Zaragoza, 2009) and is fused as those of stage 2 are: standardised
itself, it would be largest where a single document shares a single word with the query. As in a
search, only the candidates of both legs are fused.

Paraphrases avoid the words of their sentence, and many questions use those of their passage: a
weight must serve both. Pictures have no words, so scenes are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from probes.display import Results
from probes.measure.diagnostic.lexical import lexical_scores
from probes.measure.diagnostic.scores import DiagnosticScore
from probes.measure.diagnostic.sets import QuerySet, SetName, scored_set
from probes.measure.fusion import fuse
from probes.model.backbone import Backbone
from probes.stats import Interval, mean_interval, mean_of_means

SETS: tuple[SetName, ...] = ("paraphrases", "passages")
CANDIDATES = 100
"""Items that each leg of a hybrid search proposes, the vectors and the words."""
LEXICAL_WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
LEVEL = 100 - 5 / len(LEXICAL_WEIGHTS)
"""Confidence level of the interval of each weight's gain, in percent (Bonferroni)."""


@dataclass(frozen=True)
class Hybrid:
    """Mean reciprocal rank by vectors and words together, on one query set."""

    queries: SetName
    weight: float
    """Weight of the lexical score against the standardised stage-1 score."""
    reciprocal_rank: Interval
    over_vectors: Interval
    """Mean paired difference to vectors alone, with an interval at LEVEL."""
    over_words: Interval
    """Mean paired difference to words alone, with an interval at LEVEL."""


def hybrid_gain(
    backbone: Backbone, extraction: DiagnosticScore, *, seed: int = 0, progress: bool = False
) -> Results[Hybrid]:
    """Measure hybrid search with this extraction as stage 1, on each query set of SETS and at each
    weight of LEXICAL_WEIGHTS. `seed` is that of the bootstrap intervals."""
    gains: Results[Hybrid] = Results()
    for name in SETS:
        found, scores = scored_set(backbone, extraction, name, progress=progress)
        gains += fusions(found, scores.double().numpy(), word_scores(found), seed)
    return gains


def word_scores(found: QuerySet, count: int | None = None) -> Float[np.ndarray, "queries count"]:
    """BM25 scores of the first documents of a query set, by default of its pool."""
    texts = [document.text for document in found.documents[: count or found.pool]]
    return lexical_scores([query.text for query in found.queries], texts)


def hybrid_ranks(
    found: QuerySet,
    scores: Float[np.ndarray, "queries documents"],
    words: Float[np.ndarray, "queries pool"],
    weight: float,
) -> Float[np.ndarray, " answers"]:
    """Reciprocal ranks of the answers by stage-1 and lexical scores together."""
    together = hybrid_scores(scores[:, : found.pool], words, weight)
    return found.by_answer(1 / found.ranks(together))


def hybrid_scores(
    scores: Float[np.ndarray, "queries documents"],
    words: Float[np.ndarray, "queries documents"],
    weight: float,
) -> Float[np.ndarray, "queries documents"]:
    """Fused scores of the candidates of both legs, and minus infinity for other documents; the
    stage-1 scores themselves where the weight is 0."""
    if weight == 0:
        return scores
    candidates = _proposed(scores) | (_proposed(words) & (words > 0))
    return np.where(candidates, fuse(scores, words, weight, candidates), -np.inf)


def _proposed(leg: Float[np.ndarray, "queries documents"]) -> Bool[np.ndarray, "queries documents"]:
    """Whether each document is among the first CANDIDATES of a leg."""
    first = np.argsort(-leg, kind="stable")[:, :CANDIDATES]
    proposed = np.zeros(leg.shape, dtype=bool)
    np.put_along_axis(proposed, first, values=True, axis=1)
    return proposed


def fusions(
    found: QuerySet,
    scores: Float[np.ndarray, "queries documents"],
    words: Float[np.ndarray, "queries pool"],
    seed: int = 0,
) -> list[Hybrid]:
    """The reciprocal ranks that stage-1 and BM25 scores together lead to, at each weight."""
    alone = [found.by_answer(1 / found.ranks(each)) for each in (scores, words)]
    gains = []
    for weight in LEXICAL_WEIGHTS:
        ranks = hybrid_ranks(found, scores, words, weight)
        over = (mean_interval(ranks - each, seed, level=LEVEL) for each in alone)
        gains.append(Hybrid(found.name, weight, mean_interval(ranks, seed), *over))
    return gains


def select_weight(gains: Sequence[Hybrid]) -> float:
    """The lexical weight that the gains support, 0 where none exceeds noise.

    Words are used if the gain over vectors alone exceeds noise at any weight. The weight is then
    the largest whose reciprocal rank, the mean over the query sets, is within one standard error of
    the highest; a larger weight makes the gain over vectors noisier, and need not exceed that noise
    itself. A tie goes to the words because paraphrases were written to avoid those of their
    sentence, which answers in use rarely do, and because words still tell where the model does not
    know the subject.
    """
    if not any(gain.low > 0 for gain in mean_gains(gains).values()):
        return 0.0
    ranks = {
        weight: mean_of_means([g.reciprocal_rank for g in gains if g.weight == weight])
        for weight in dict.fromkeys(gain.weight for gain in gains)
    }
    best = max(ranks.values(), key=lambda interval: interval.mean)
    error = (best.high - best.low) / 2 / 1.96
    return max(weight for weight, rank in ranks.items() if rank.mean >= best.mean - error)


def gain_of_words(gains: Sequence[Hybrid]) -> tuple[float, Interval]:
    """The lexical weight that the gains support, or that of the largest gain where none exceeds
    noise; and its gain over vectors alone."""
    means = mean_gains(gains)
    weight = select_weight(gains) or max(means, key=lambda weight: means[weight].mean)
    return weight, means[weight]


def mean_gains(gains: Sequence[Hybrid]) -> dict[float, Interval]:
    """By weight, the gain over vectors alone: the mean over the query sets, which are independent
    of each other, with equal weights."""
    return {
        weight: mean_of_means([gain.over_vectors for gain in gains if gain.weight == weight])
        for weight in dict.fromkeys(gain.weight for gain in gains)
    }
