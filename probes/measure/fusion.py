"""The one rule by which two scores of a query's candidates are fused, and when stage 2 is spared.

Stage 1 and stage 2 are fused by it, and so are vectors and words: standardised first score +
weight · margin, where the margin is log-odds of a match or approximates them.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

CANDIDATES = 5
"""Candidates of a query that reranking is measured on."""


def fuse(
    stage1: Sequence[float] | Float[np.ndarray, "*queries candidates"],
    margins: Sequence[float] | Float[np.ndarray, "*queries candidates"],
    weight: float | None,
    among: Bool[np.ndarray, "*queries candidates"] | bool = True,
) -> Float[np.ndarray, "*queries candidates"]:
    """Each query's candidates by two scores: standardised stage-1 score + weight · margin, float64,
    higher is better.

    Args:
        stage1: Stage-1 scores. Equal ones standardise to 0.
        margins: Log-odds of a match, or what approximates them: pointwise mutual information, or
            BM25 (Robertson and Zaragoza, 2009).
        weight: None leaves the margins alone to decide.
        among: Which of them are candidates; the scores of others mean nothing.
    """
    second = np.asarray(margins, dtype=float)
    return second if weight is None else standardise(stage1, among) + weight * second


def standardise(
    scores: Sequence[float] | Float[np.ndarray, "*queries candidates"],
    among: Bool[np.ndarray, "*queries candidates"] | bool = True,
) -> Float[np.ndarray, "*queries candidates"]:
    """The scores of each query's candidates with mean 0 and deviation 1; zeros if all are equal.
    `among` is as in `fuse`."""
    values = np.asarray(scores, dtype=float)
    spread = values.std(-1, keepdims=True, where=among)
    centred = values - values.mean(-1, keepdims=True, where=among)
    return centred / np.where(spread > 0, spread, 1.0)


def lead(stage1: Sequence[float] | Float[np.ndarray, " candidates"]) -> float:
    """How far the first of a query's candidates is ahead of the second, in standard deviations of
    the first CANDIDATES of them, whose scores are in descending order; infinite for a lone one."""
    first = standardise(stage1[:CANDIDATES])
    return float(first[0] - first[1]) if len(first) > 1 else math.inf


def undecided(
    stage1: Sequence[float] | Float[np.ndarray, " candidates"], cascade: float | None
) -> bool:
    """Whether stage 2 judges a query: one whose `lead` is at most `cascade`, or any if None."""
    return cascade is None or lead(stage1) <= cascade
