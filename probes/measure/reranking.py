"""The gain of reranking over stage 1 alone, measured for each judge that may earn its cost.

At the extraction that the diagnostic supports, the first candidates of some queries of each set are
judged and the two scores fused at several weights: standardised stage-1 score + w · margin. A
weight is accepted only if its paired gain, the mean over the query sets, exceeds noise.

Several weights and judges are tried, so the intervals of their gains are Bonferroni-corrected:
together they hold with 95%, and judges at chance show a spurious gain at some weight with
probability about 2.5%. The frame needs no such correction: the best one is chosen on other texts,
the labelled pairs of `framing_bias`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from probes.measure.diagnostic.hybrid import SETS, hybrid_scores, word_scores
from probes.measure.diagnostic.scores import DiagnosticScore
from probes.measure.diagnostic.sets import SetName, answer_ranks, scored_set
from probes.measure.framing import FrameBias, best_frame
from probes.measure.fusion import CANDIDATES, fuse, lead
from probes.measure.judges.heads import NO_HEADS, RelevanceHeads
from probes.measure.judges.named import LIKELIHOOD, judged_by
from probes.model.backbone import Backbone
from probes.stats import Interval, mean_interval, mean_of_means

QUERIES = 50
WEIGHTS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, None)
"""Weights of the margins; None leaves stage 2 alone to decide, as the paper does. That is measured
and shown, but never chosen (see `gains_by_judge`)."""
TRIED = 3
"""Judges that are tried at most: the best frame, the likelihood and the best heads."""
GAIN_LEVEL = 100 - 5 / (TRIED * len(WEIGHTS))
"""Confidence level of the interval of each gain, in percent."""


@dataclass(frozen=True)
class Fusion:
    """Mean reciprocal rank of the answer after reranking, and its gain over stage 1, on one query
    set."""

    frame: str
    """The judge: a frame, "likelihood", or heads such as `heads[15.7, 17.6]`."""
    weight: float | None
    reciprocal_rank: Interval
    gain: Interval
    """Mean paired difference to stage 1 alone, with an interval at GAIN_LEVEL."""
    queries: SetName = "paraphrases"
    lead: float | None = None
    """The largest lead (see `lead`) of a query whose answer moves up; None where none does."""
    judged: float = 1.0
    """Share of queries that are judged where those with a larger lead are not."""
    loss: Interval | None = None
    """Mean paired difference of the reciprocal rank when these are not judged, with a threshold
    that was found on the other half of the queries."""


def judges_of(framing: Sequence[FrameBias], heads: RelevanceHeads = NO_HEADS) -> list[str]:
    """The judges that are worth measuring: the best frame and the best heads, unless they are at
    chance, and the likelihood."""
    best = best_frame(framing)
    return [
        *([best.frame] if best.discriminates else []),
        LIKELIHOOD,
        *([heads.judge] if heads.discriminates else []),
    ]


def rerank_gain(
    backbone: Backbone,
    extraction: DiagnosticScore,
    judge: str,
    lexical: float = 0.0,
    *,
    seed: int = 0,
    progress: bool = False,
) -> list[Fusion]:
    """Measure the gain of reranking over stage 1, at each weight of WEIGHTS and on each query set
    of SETS, over QUERIES queries of the set, evenly spaced.

    Args:
        backbone: The model that embeds and judges.
        extraction: The extraction of stage 1.
        judge: A name that `probes.measure.judges.named.check_judge` knows.
        lexical: Weight of the lexical score beside the vectors of stage 1.
        seed: Seed of the bootstrap intervals.
        progress: Whether to show a bar.
    """
    gains = []
    for name in SETS:
        found, vectors = scored_set(backbone, extraction, name, progress=progress)
        scores = vectors.double().numpy()
        if lexical:
            scores = hybrid_scores(scores, word_scores(found, len(found.documents)), lexical)
        count = len(found.queries)
        picks = np.arange(0, count, max(1, count // QUERIES))[:QUERIES]
        scores = scores[picks]
        candidates = np.argsort(-scores, kind="stable")[:, :CANDIDATES]
        pairs = [
            (found.queries[query], found.documents[place])
            for query, places in zip(picks, candidates, strict=True)
            for place in places
        ]
        bar = f"reranking, {judge}, {name}" if progress else None
        margins = judged_by(judge, backbone, pairs, progress=bar).reshape(candidates.shape)
        answers = found.answers[picks]
        gains += fusion_gains(judge, name, scores, answers, candidates, margins, seed)
    return gains


def fusion_gains(
    judge: str,
    queries: SetName,
    scores: Float[np.ndarray, "queries pool"],
    answers: Int[np.ndarray, " queries"],
    candidates: Int[np.ndarray, "queries candidates"],
    margins: Float[np.ndarray, "queries candidates"],
    seed: int = 0,
) -> list[Fusion]:
    """The reciprocal ranks that reranking leads to, and their gain over stage 1, at each weight.

    As in `search(rerank=5)` only the candidates change places: an answer that is not among them
    keeps its stage-1 rank. The gain is therefore zero where stage 1 missed the answer. Answers and
    candidates, those of the highest scores, are places in the pool; margins are those of the judge.
    """
    ranks = answer_ranks(scores, answers)
    answer = candidates == answers[:, None]
    judged = answer.any(axis=1) & (ranks <= candidates.shape[1])  # not by the luck of a tie
    stage1 = np.take_along_axis(scores, candidates, 1)
    leads = np.array([lead(scores) for scores in stage1])
    fusions = []
    for weight in WEIGHTS:
        fused = np.stack([fuse(s, m, weight) for s, m in zip(stage1, margins, strict=True)])
        reranked = 1 / ranks
        reranked[judged] = reciprocal_ranks(fused[judged], answer[judged])
        gains = reranked - 1 / ranks
        threshold = _threshold(leads, gains)
        fusions.append(
            Fusion(
                judge,
                weight,
                mean_interval(reranked, seed),
                mean_interval(gains, seed, level=GAIN_LEVEL),
                queries,
                None if threshold == -math.inf else threshold,
                float((leads <= threshold).mean()),
                mean_interval(_losses(leads, gains), seed),
            )
        )
    return fusions


def _threshold(leads: Float[np.ndarray, " queries"], gains: Float[np.ndarray, " queries"]) -> float:
    """The largest lead of a query that gains; minus infinity if none does."""
    return float(leads[gains > 0].max(initial=-math.inf))


def _losses(
    leads: Float[np.ndarray, " queries"], gains: Float[np.ndarray, " queries"]
) -> Float[np.ndarray, " queries"]:
    """What each query loses when only those up to the threshold of the other half are judged."""
    losses = np.zeros(len(gains))
    for half in (0, 1):
        skipped = leads[half::2] > _threshold(leads[1 - half :: 2], gains[1 - half :: 2])
        losses[half::2] = np.where(skipped, -gains[half::2], 0.0)
    return losses


def gains_by_judge(fusions: Sequence[Fusion]) -> dict[tuple[str, float], Interval]:
    """The gain of each judge at each weight that leaves stage 1 a say: the mean over the query
    sets, which are independent of each other, with equal weights.

    Half of the documents of the paraphrases are near-misses, written to repeat the words of the
    query. A judge that discards stage 1 gains where it looks away from such words, and loses where,
    as in most corpora, they are a sign of relevance. Beside stage 1 its mistakes cost little, and a
    judge that is sure of its answers decides all the same.
    """
    return {
        key: mean_of_means([f.gain for f in fusions if (f.frame, f.weight) == key])
        for key in dict.fromkeys((f.frame, f.weight) for f in fusions if f.weight is not None)
    }


def surest_gain(fusions: Sequence[Fusion]) -> tuple[str, float, Interval]:
    """The judge and weight whose gain has the highest lower bound, since the largest of several
    noisy means is biased upward; and that gain."""
    gains = gains_by_judge(fusions)
    judge, weight = max(gains, key=lambda tried: gains[tried].low)
    return judge, weight, gains[judge, weight]


def reciprocal_ranks(
    scores: Float[np.ndarray, "queries candidates"],
    answer: Bool[np.ndarray, "queries candidates"],
) -> Float[np.ndarray, " queries"]:
    """1 / rank of the answer among the candidates; ties count against it."""
    return 1 / (scores >= scores[answer][:, None]).sum(1)
