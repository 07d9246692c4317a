"""Estimates equal their definitions; intervals are as wide as theory says a 95% one is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray

from probes.stats import Interval, auc, d_prime, mean_interval, median_interval, paired_auc

SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=12)
WITHIN = 0.12
"""How far 2000 resamples may be from the theory of large samples, as a share of the width."""


def normal(size: int, seed: int = 0, mean: float = 0.0) -> ndarray:
    """Normal draws whose sample mean and deviation are exactly `mean` and 1."""
    values = np.random.default_rng(seed).normal(size=size)
    return (values - values.mean()) / values.std() + mean


def width(interval: Interval) -> float:
    return interval.high - interval.low


def by_definition(positives: ndarray, negatives: ndarray) -> float:
    pairs = [(p > n) + (p == n) / 2 for p in positives for n in negatives]
    return float(np.mean(pairs))


@given(SCORES, SCORES)
def test_auc_is_the_share_of_pairs_in_order(positives: list[int], negatives: list[int]) -> None:
    scores = np.array(positives + negatives, dtype=float)
    labels = np.array([True] * len(positives) + [False] * len(negatives))
    order = np.random.default_rng(0).permutation(len(scores))
    found = auc(scores[order], labels[order])
    assert found == pytest.approx(by_definition(np.array(positives), np.array(negatives)))


@settings(max_examples=10)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=10))
def test_paired_auc_compares_all_pairs(pairs: list[tuple[int, int]]) -> None:
    positives, negatives = np.array(pairs, dtype=float).T
    found = paired_auc(positives, negatives)
    assert found.mean == pytest.approx(by_definition(positives, negatives))
    assert 0.0 <= found.low <= found.high <= 1.0


def test_paired_auc_resamples_whole_groups() -> None:
    """Within a query the two scores move together: resampling them apart would hide that."""
    level = normal(60) * 10
    together = paired_auc(level + 0.5, level)
    wins = np.array([by_definition(level[i : i + 1] + 0.5, level) for i in range(60)])
    losses = np.array([by_definition(level + 0.5, level[i : i + 1]) for i in range(60)])
    # First-order (Hájek) deviation of a statistic of groups.
    spread = (wins + losses).std() / np.sqrt(60)
    assert width(together) == pytest.approx(2 * 1.96 * spread, rel=0.35)
    apart = np.sqrt((wins.var() + losses.var()) / 60)
    assert width(together) < 0.5 * (2 * 1.96 * apart)


@pytest.mark.parametrize("size", [50, 400])
def test_the_interval_of_a_mean_has_the_width_of_95_percent(size: int) -> None:
    found = mean_interval(normal(size, mean=2.0))
    assert found.mean == pytest.approx(2.0)
    assert width(found) == pytest.approx(2 * 1.96 / np.sqrt(size), rel=WITHIN)
    assert found.high - 2.0 == pytest.approx(2.0 - found.low, rel=0.25)


def test_a_curve_has_an_interval_at_every_point() -> None:
    """Samples are resampled whole; points are not mixed with one another."""
    curve = np.stack([normal(100, seed=i, mean=i) * 1.0 for i in range(6)], axis=1)
    found = mean_interval(curve.reshape(100, 2, 3))
    assert found.mean.shape == found.low.shape == found.high.shape == (2, 3)
    alone = mean_interval(curve[:, 4])
    assert (found.low[1, 1], found.high[1, 1]) == pytest.approx((alone.low, alone.high))
    assert (found.low < found.mean).all()
    assert (found.mean < found.high).all()


def test_one_sample_has_an_interval_without_width() -> None:
    found = mean_interval(np.array([[1.0, 2.0]]))
    assert [list(value) for value in found] == [[1.0, 2.0]] * 3


def test_outliers_do_not_move_a_median() -> None:
    values = np.array([[1.0, 9.0], [2.0, 4.0], [3.0, 1.0], [4.0, 2.0], [40_000.0, 3.0]])
    found = median_interval(values)
    np.testing.assert_array_equal(found.mean, [3.0, 3.0])
    assert mean_interval(values).mean[0] == 8002.0
    assert (found.low >= [1.0, 1.0]).all()
    np.testing.assert_array_equal(median_interval(values[:4]).mean, [2.5, 3.0])
    np.testing.assert_array_equal(median_interval(values[:1]).low, [1.0, 9.0])


def test_the_interval_of_a_median_has_the_width_of_95_percent() -> None:
    found = median_interval(np.random.default_rng(0).normal(size=401))
    assert width(found) == pytest.approx(2 * 1.96 * np.sqrt(np.pi / 2 / 401), rel=0.2)
    assert found.low < found.mean < found.high


def test_an_interval_is_that_of_resampling_by_hand() -> None:
    """Two thousand resamples of whole samples; the 2.5% and 97.5% points of their estimates."""
    values, other = normal(30), normal(30, seed=1, mean=0.7)
    rng = np.random.default_rng(99)
    means, medians, areas, distances = [], [], [], []
    for _ in range(20_000):
        pick, second = rng.integers(30, size=30), rng.integers(30, size=30)
        means.append(values[pick].mean())
        medians.append(np.median(values[pick]))
        a, b = other[pick], values[second]
        distances.append((a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2))
        if len(areas) < 4000:
            areas.append((other[pick][:, None] > values[pick][None]).mean())
    for found, resampled in (
        (mean_interval(values), means),
        (median_interval(values), medians),
        (paired_auc(other, values), areas),
        (d_prime(other, values), distances),
    ):
        low, high = np.percentile(resampled, [2.5, 97.5])
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.08 * (high - low))


@pytest.mark.parametrize("distance", [0.0, 2.0])
def test_d_prime_is_a_difference_in_deviations(distance: float) -> None:
    signal, noise = normal(200, seed=1, mean=distance) * 3, normal(200, seed=2) * 3
    found = d_prime(signal, noise)
    assert found.mean == pytest.approx(distance * np.sqrt(199 / 200))  # deviations of samples
    deviation = np.sqrt(2 / 200 + distance**2 / (4 * 200))  # Hedges and Olkin, 1985
    assert width(found) == pytest.approx(2 * 1.96 * deviation, rel=0.2)
    assert d_prime(noise, signal).mean == pytest.approx(-found.mean)


def test_d_prime_of_constants_is_finite() -> None:
    found = d_prime(np.ones(5), np.zeros(5))
    assert np.isfinite([found.mean, found.low, found.high]).all()


def test_the_same_seed_gives_the_same_interval() -> None:
    values, other = normal(40), normal(40, seed=1, mean=0.5)
    for estimate in (
        lambda seed: mean_interval(values, seed),
        lambda seed: paired_auc(other, values, seed),
        lambda seed: d_prime(other, values, seed),
    ):
        assert estimate(3) == estimate(3)
        assert estimate(3).low != estimate(4).low
    assert median_interval(values, 3) == median_interval(values, 3) != median_interval(values, 4)


def test_a_higher_level_is_a_wider_interval() -> None:
    values = normal(400)
    wide = mean_interval(values, level=99.0)
    assert width(wide) == pytest.approx(2 * 2.576 / np.sqrt(400), rel=WITHIN)
    assert mean_interval(values, level=95.0) == mean_interval(values)


def test_an_interval_is_written_with_three_digits() -> None:
    interval = Interval(0.12345, 0.1, 0.2)
    assert str(interval) == "0.123 [0.100, 0.200]"
    assert f"{interval:.1f}" == "0.1 [0.1, 0.2]"
    curve = Interval(np.array([0.5, 1.0]), np.array([0.25, 0.0]), np.array([0.75, 2.0]))
    assert str(curve) == "0.500 [0.250, 0.750], 1.000 [0.000, 2.000]"
    assert repr(curve) == "Interval(2 values)"
    assert interval.to_list() == [0.12345, 0.1, 0.2]
    assert mean_interval(np.array([[1.0, 2.0]])).to_list() == [[1.0, 2.0]] * 3
