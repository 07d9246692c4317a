"""What a geometry is estimated with: moments, the weight of a prior, whitening."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.geometry import Moments, default_shrinkage, prior_weight, unit, whitening
from probes.geometry.estimates import whitening_of
from tests.test_geometry import SIZE, covariance, vectors


@pytest.mark.parametrize("shrinkage", [0.0, 0.5, 3.0])
def test_whitening_is_the_inverse_root(shrinkage: float) -> None:
    of = covariance(vectors(200))
    transform = whitening(of, 200, shrinkage).double()
    assert torch.equal(transform, transform.T)
    ridge = shrinkage * of.diagonal().mean() * torch.eye(SIZE)
    torch.testing.assert_close(
        transform @ (of + ridge) @ transform, torch.eye(SIZE).double(), atol=1e-5, rtol=0
    )


@given(
    sizes=st.lists(st.integers(2, 40), min_size=1, max_size=3),
    size=st.sampled_from([64, 400]),
    distinct=st.integers(1, 40),
)
@settings(max_examples=40)
def test_few_vectors_are_whitened_as_many_are(sizes: list[int], size: int, distinct: int) -> None:
    """Sets whose vectors are kept, of which some may be the same, and sets whose are not."""
    draw = torch.Generator().manual_seed(distinct)
    sets = [torch.randn(distinct, size, generator=draw)[torch.arange(n) % distinct] for n in sizes]
    parts = [(1.0 + i, Moments.of(rows)) for i, rows in enumerate(sets)]
    count = float(sum(sizes))
    pooled = sum(weight * len(rows) * covariance(rows) for (weight, _), rows in
                 zip(parts, sets, strict=True)) / count  # fmt: skip
    assert isinstance(pooled, torch.Tensor)
    found, expected = whitening_of(parts, count), whitening(pooled, count)
    if distinct == 1:  # without any variance, whitening is a multiple of the identity
        expected = expected.diagonal().mean() * torch.eye(size)
    assert ((found - expected).norm() / expected.norm()).item() <= 1e-6


def test_many_vectors_are_not_kept() -> None:
    moments = Moments()
    for number in range(30):
        moments.add(vectors(10, seed=number, size=64))
    assert not moments.kept
    assert moments.deviations is None
    every = torch.cat([vectors(10, seed=number, size=64) for number in range(30)])
    torch.testing.assert_close(moments.scatter / 300, covariance(every))
    few = Moments.of(vectors(2, size=64)).joined(Moments.of(vectors(1, seed=1, size=64)))
    assert few.deviations is not None
    torch.testing.assert_close(few.deviations.T @ few.deviations, few.scatter)
    assert few.variation == pytest.approx(few.scatter.trace())
    assert moments.variation == pytest.approx(moments.scatter.trace())
    assert few.joined(moments).deviations is None


def test_fewer_vectors_are_shrunk_more() -> None:
    assert default_shrinkage(10**9, 576) == pytest.approx(1.0, abs=1e-5)
    assert default_shrinkage(576, 576) == 2.0
    assert default_shrinkage(0, 8) > default_shrinkage(100, 8)


# ------------------------------------------------------------------------------ modalities


def test_a_prior_counts_as_far_as_it_is_near() -> None:
    """A prior within the sampling error replaces the mean; that of another modality hardly does."""
    documents = Moments.of(vectors(10, seed=1))
    variance = float(documents.scatter.trace()) / 9
    away = torch.nn.functional.one_hot(torch.tensor(0), SIZE).double()
    at = [prior_weight(documents, documents.mean + d * away, variance) for d in (0, 0.01, 1, 10)]
    assert at[0] == at[1] == pytest.approx(0.9)
    assert 0.9 > at[2] > 50 * at[3] > 0


def test_moments_are_those_of_unit_vectors() -> None:
    raw = vectors(40)
    moments = Moments.of(raw)
    torch.testing.assert_close(moments.mean, unit(raw).double().mean(0))
    torch.testing.assert_close(moments.scatter / 40, covariance(raw))
