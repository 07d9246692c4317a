"""Means, medians, areas and separations, each with a 95% bootstrap interval."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped
from numpy import ndarray

RESAMPLES = 2000


class Interval(NamedTuple):
    """An estimate and its 95% percentile bootstrap interval; each a float or an array."""

    mean: Any
    low: Any
    high: Any

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def __repr__(self) -> str:
        size = np.size(self.mean)
        return f"Interval({self if np.ndim(self.mean) == 0 else f'{size} values'})"

    def to_list(self) -> list:
        return [np.asarray(value).tolist() for value in self]


def mean_interval(values: Shaped[ndarray, "samples *shape"], seed: int = 0) -> Interval:
    """Mean over the first axis, resampling that axis."""
    return _interval(np.mean, values, seed)


def median_interval(values: Shaped[ndarray, "samples *shape"], seed: int = 0) -> Interval:
    """Median over the first axis, in the place of the mean, resampling that axis."""
    return _interval(np.median, values, seed)


def _interval(average: Callable[..., Any], values: ndarray, seed: int) -> Interval:
    values = np.asarray(values, dtype=float)
    middle = average(values, axis=0)
    if len(values) < 2:
        return Interval(middle, middle, middle)
    bounds = _resample(lambda picks: average(values[picks], axis=1), len(values), seed)
    return Interval(middle, *bounds)


def auc(scores: Float[ndarray, " samples"], labels: Bool[ndarray, " samples"]) -> float:
    """Area under the ROC curve: P(a positive scores above a negative), ties counting one half."""
    from scipy.stats import rankdata  # half a second, which a search need not wait for

    positives = int(labels.sum())
    negatives = len(labels) - positives
    ranks = rankdata(scores)
    return (ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives)


def paired_auc(
    positives: Float[ndarray, " groups"], negatives: Float[ndarray, " groups"], seed: int = 0
) -> Interval:
    """AUC of one positive and one negative a group (query), resampling groups."""

    def area(picks: ndarray) -> ndarray:
        wins = np.sign(positives[:, None] - negatives[None, :]) / 2 + 0.5
        return np.array([wins[np.ix_(pick, pick)].mean() for pick in picks])

    everything = np.arange(len(positives))[None]
    return Interval(float(area(everything)[0]), *_resample(area, len(positives), seed))


def d_prime(
    signal: Float[ndarray, " pairs"], noise: Float[ndarray, " controls"], seed: int = 0
) -> Interval:
    """d' = (mean signal - mean noise) / sqrt((var signal + var noise) / 2), resampling both."""
    from scipy.stats import bootstrap

    def separation(a: ndarray, b: ndarray, axis: int = -1) -> Any:
        spread = np.sqrt((a.var(axis=axis, ddof=1) + b.var(axis=axis, ddof=1)) / 2)
        return (a.mean(axis=axis) - b.mean(axis=axis)) / np.maximum(spread, 1e-12)

    found = bootstrap(
        (signal, noise), separation, n_resamples=RESAMPLES, method="percentile", rng=seed
    ).confidence_interval
    return Interval(float(separation(signal, noise)), float(found.low), float(found.high))


def _resample(statistic: Callable[[ndarray], ndarray], size: int, seed: int) -> tuple[Any, Any]:
    """The 2.5% and 97.5% points of `statistic` over rows of resampled indices."""
    picks = np.random.default_rng(seed).integers(size, size=(RESAMPLES, size))
    # Blocks keep a wide statistic (all layers of many prompts) in little memory.
    found = np.concatenate([statistic(block) for block in np.array_split(picks, 20)])
    low, high = np.percentile(found, [2.5, 97.5], axis=0)
    return (float(low), float(high)) if np.ndim(low) == 0 else (low, high)
