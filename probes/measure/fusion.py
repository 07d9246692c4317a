"""The gain of reranking over stage 1 alone, measured on the paraphrase set with the best frame.

At the extraction that the diagnostic supports, the first candidates of the first 50 sentences are
judged and the two scores fused at several weights: standardised stage-1 score + w · log-odds. A
weight is accepted only if its paired gain per sentence excludes zero.

Several weights are tried, so the intervals of their gains are Bonferroni-corrected: together they
hold with 95%, and a judge at chance shows a spurious gain at some weight with probability about
2.5%. The frame needs no such correction: it is chosen on other texts, the labelled pairs of
`framing_bias`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.measure.diagnostic.scores import DiagnosticScore
from probes.measure.diagnostic.sets import answer_ranks, scored_set
from probes.measure.framing import FRAMES, judge
from probes.model.backbone import Backbone
from probes.stats import Interval, mean_interval

SENTENCES, CANDIDATES = 50, 5
WEIGHTS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, None)
"""Weights of the log-odds; None leaves stage 2 alone to decide."""
GAIN_LEVEL = 100 - 5 / len(WEIGHTS)
"""Confidence level of the interval of each weight's gain, in percent."""


@dataclass(frozen=True)
class Fusion:
    """Mean reciprocal rank of the partner after reranking, and its gain over stage 1."""

    frame: str
    weight: float | None
    reciprocal_rank: Interval
    gain: Interval
    """Mean paired difference to stage 1 alone, with an interval at GAIN_LEVEL."""


def fuse(
    stage1: Sequence[float] | Float[np.ndarray, "*queries candidates"],
    margins: Sequence[float] | Float[np.ndarray, "*queries candidates"],
    weight: float | None,
) -> Float[np.ndarray, "*queries candidates"]:
    """Each query's candidates by two scores: standardised stage-1 score + weight · log-odds.

    Args:
        stage1: Stage-1 scores. Equal ones standardise to 0.
        margins: Log-odds of a match, or BM25, which approximates them (Robertson and Zaragoza,
            2009).
        weight: None leaves the log-odds alone to decide.

    Returns:
        Fused scores, float64; higher is better.
    """
    second = np.asarray(margins, dtype=float)
    return second if weight is None else standardise(stage1) + weight * second


def standardise(
    scores: Sequence[float] | Float[np.ndarray, "*queries candidates"],
) -> Float[np.ndarray, "*queries candidates"]:
    """The scores of each query's candidates with mean 0 and deviation 1; zeros if all are equal."""
    values = np.asarray(scores, dtype=float)
    spread = values.std(-1, keepdims=True)
    return (values - values.mean(-1, keepdims=True)) / np.where(spread > 0, spread, 1.0)


def rerank_gain(
    backbone: Backbone,
    extraction: DiagnosticScore,
    frame: str,
    *,
    seed: int = 0,
    progress: bool = False,
) -> list[Fusion]:
    """Measure the gain of reranking over stage 1 at each weight of WEIGHTS.

    Args:
        backbone: The model that embeds and judges.
        extraction: The extraction of stage 1.
        frame: A name in FRAMES.
        seed: Seed of the bootstrap intervals.
        progress: Whether to show a bar.

    Returns:
        One entry per weight, over the first SENTENCES sentences of the paraphrase set; the pool of
        stage 1 holds all its paraphrases and near-misses.
    """
    found, scores = scored_set(backbone, extraction, "paraphrases", progress=progress)
    scores = scores[:SENTENCES]
    candidates = scores.topk(CANDIDATES).indices
    pairs = [
        (query, found.documents[place])
        for query, places in zip(found.queries, candidates.tolist(), strict=False)
        for place in places
    ]
    bar = f"reranking, {frame}" if progress else None
    margins = judge(backbone, FRAMES[frame], pairs, progress=bar).reshape(candidates.shape)
    return fusion_gains(frame, scores, candidates, margins, seed)


def fusion_gains(
    frame: str,
    scores: Float[Tensor, "queries pool"],
    candidates: Int[Tensor, "queries candidates"],
    margins: Float[np.ndarray, "queries candidates"],
    seed: int = 0,
) -> list[Fusion]:
    """The reciprocal ranks that reranking leads to, and their gain over stage 1, at each weight.

    As in `search(rerank=5)` only the candidates change places: a partner that is not among them
    keeps its stage-1 rank. The gain is therefore zero where stage 1 missed the partner.

    Args:
        frame: The name of the frame that gave the margins.
        scores: Stage-1 scores of the pool; the partner of query i stands at place i.
        candidates: Places in the pool of each query's highest scores.
        margins: Log-odds of a match of each candidate.
        seed: Seed of the bootstrap intervals.

    Returns:
        One entry per weight of WEIGHTS.
    """
    ranks = answer_ranks(scores.numpy(), np.arange(len(scores)))
    partner = candidates.numpy() == np.arange(len(candidates))[:, None]
    judged = partner.any(axis=1)
    stage1 = scores.gather(1, candidates).double().numpy()
    fusions = []
    for weight in WEIGHTS:
        fused = np.stack([fuse(s, m, weight) for s, m in zip(stage1, margins, strict=True)])
        reranked = 1 / ranks
        reranked[judged] = reciprocal_ranks(fused[judged], partner[judged])
        gain = mean_interval(reranked - 1 / ranks, seed, level=GAIN_LEVEL)
        fusions.append(Fusion(frame, weight, mean_interval(reranked, seed), gain))
    return fusions


def reciprocal_ranks(
    scores: Float[np.ndarray, "queries candidates"],
    partner: Bool[np.ndarray, "queries candidates"],
) -> Float[np.ndarray, " queries"]:
    """1 / rank of the partner among the candidates; ties count against it."""
    return 1 / (scores >= scores[partner][:, None]).sum(1)
