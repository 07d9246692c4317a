"""Means, medians, AUC and d′, each with a percentile bootstrap interval (95% by default)."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy import ndarray

RESAMPLES = 2000
LEVEL = 95.0
"""Confidence level of intervals, in percent."""


class Interval(NamedTuple):
    """An estimate with its percentile bootstrap interval; each a float or an array."""

    mean: Any
    low: Any
    high: Any

    def __format__(self, spec: str) -> str:
        """`mean [low, high]` in a number format such as `.2f`, by default `.3f`. Of an array all
        values are listed."""
        if np.ndim(self.mean) == 0:
            mean, low, high = (format(float(value), spec or ".3f") for value in self)
            return f"{mean} [{low}, {high}]"
        values = (np.ravel(value).tolist() for value in self)
        return ", ".join(format(Interval(*ends), spec) for ends in zip(*values, strict=True))

    def __str__(self) -> str:
        return format(self)

    def __repr__(self) -> str:
        size = np.size(self.mean)
        return f"Interval({self if np.ndim(self.mean) == 0 else f'{size} values'})"

    def to_list(self) -> list:
        """`[mean, low, high]` as plain floats or nested lists of them."""
        return [np.asarray(value).tolist() for value in self]


class Spread(NamedTuple):
    """A distribution of values by five of its percentiles."""

    p5: float
    p25: float
    p50: float
    p75: float
    p95: float

    @classmethod
    def of(cls, values: Float[ndarray, " samples"]) -> "Spread":
        return cls(*map(float, np.percentile(values, (5, 25, 50, 75, 95))))

    def __str__(self) -> str:
        return f"{self.p50:.2f} ({self.p5:.2f} to {self.p95:.2f})"


def mean_interval(
    values: Shaped[ndarray, "samples *shape"], seed: int = 0, level: float = LEVEL
) -> Interval:
    """Mean over the first axis with its bootstrap interval, resampling that axis."""
    return _interval(np.mean, values, seed, level)


def mean_of_means(intervals: Sequence[Interval]) -> Interval:
    """The mean of independent means with equal weights; deviations add up in squares."""
    mean = sum(float(i.mean) for i in intervals) / len(intervals)
    below = math.hypot(*(float(i.mean - i.low) for i in intervals)) / len(intervals)
    above = math.hypot(*(float(i.high - i.mean) for i in intervals)) / len(intervals)
    return Interval(mean, mean - below, mean + above)


def median_interval(values: Shaped[ndarray, "samples *shape"], seed: int = 0) -> Interval:
    """Median over the first axis, in the field `mean`, with its bootstrap interval."""
    return _interval(np.median, values, seed, LEVEL)


def _interval(average: Callable[..., Any], values: ndarray, seed: int, level: float) -> Interval:
    values = np.asarray(values, dtype=float)
    center = average(values, axis=0)
    if len(values) < 2:
        return Interval(center, center, center)
    estimates = bootstrap(lambda picks: average(values[picks], axis=1), len(values), seed)
    return Interval(center, *percentiles(estimates, level))


def auc(scores: Float[ndarray, " samples"], labels: Bool[ndarray, " samples"]) -> float:
    """Area under the ROC curve: P(s₊ > s₋) + P(s₊ = s₋) / 2 over pairs of a positive and a
    negative, computed from ranks (Mann and Whitney, 1947)."""
    from scipy.stats import rankdata  # half a second, which a search need not wait for

    positives = int(labels.sum())
    negatives = len(labels) - positives
    ranks = rankdata(scores)
    return (ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives)


def paired_auc(
    positives: Float[ndarray, " groups"], negatives: Float[ndarray, " groups"], seed: int = 0
) -> Interval:
    """AUC over groups (queries) of one positive and one negative each, resampling groups."""

    def area(picks: ndarray) -> ndarray:
        wins = np.sign(positives[:, None] - negatives[None, :]) / 2 + 0.5
        return np.array([wins[np.ix_(pick, pick)].mean() for pick in picks])

    everything = np.arange(len(positives))[None]
    estimates = bootstrap(area, len(positives), seed)
    return Interval(float(area(everything)[0]), *percentiles(estimates))


def d_prime(
    signal: Float[ndarray, " pairs"], noise: Float[ndarray, " controls"], seed: int = 0
) -> Interval:
    """Sensitivity index d′ = (μ_signal - μ_noise) / sqrt((σ²_signal + σ²_noise) / 2) (Green and
    Swets, 1966), resampling both groups independently. Variances are those of samples."""
    from scipy.stats import bootstrap as resample

    def separation(a: ndarray, b: ndarray, axis: int = -1) -> Any:
        spread = np.sqrt((a.var(axis=axis, ddof=1) + b.var(axis=axis, ddof=1)) / 2)
        return (a.mean(axis=axis) - b.mean(axis=axis)) / np.maximum(spread, 1e-12)

    interval = resample(
        (signal, noise), separation, n_resamples=RESAMPLES, method="percentile", rng=seed
    ).confidence_interval
    return Interval(float(separation(signal, noise)), float(interval.low), float(interval.high))


def bootstrap(
    statistic: Callable[[Int[ndarray, "block samples"]], ndarray], size: int, seed: int
) -> Shaped[ndarray, "resamples *shape"]:
    """A statistic over RESAMPLES resamples of `size` samples, with replacement. It takes a block of
    resamples, each a row of indices into the samples, and returns one estimate (a number or an
    array) per row."""
    picks = np.random.default_rng(seed).integers(size, size=(RESAMPLES, size))
    # Blocks keep a wide statistic (all layers of many prompts) in little memory.
    return np.concatenate([statistic(block) for block in np.array_split(picks, 20)])


def percentiles(estimates: Shaped[ndarray, "resamples *shape"], level: float = LEVEL) -> tuple:
    """The ends of the percentile interval of bootstrapped estimates: two floats or two arrays."""
    tail = (100 - level) / 2
    low, high = np.percentile(estimates, [tail, 100 - tail], axis=0)
    return (float(low), float(high)) if np.ndim(low) == 0 else (low, high)
