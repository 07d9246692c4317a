"""What a geometry is estimated with: moments, their priors, the whitening transform."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

FEW = 100
"""Number of documents of a signature from which on the corpus alone determines its geometry."""
RANK = 0.25
"""Share of the dimensions up to which a covariance is treated as one of low rank."""
SCALE_WEIGHT = 5.0
"""Documents that the reference counts for in estimates of scales, which need few."""


class Moments:
    """Count, sum and second moment of unit vectors, float64.

    Vectors are kept as they are until there are too many for `whitening` to profit from them.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor = torch.zeros((), dtype=torch.double)
        self.square: Tensor = torch.zeros((), dtype=torch.double)
        """Of the vectors that are not kept."""
        self.kept: list[Tensor] = []

    @classmethod
    def of(cls, vectors: Float[Tensor, "n hidden"]) -> "Moments":
        """The moments of raw vectors."""
        moments = cls()
        moments.add(vectors)
        return moments

    def add(self, vectors: Float[Tensor, "n hidden"]) -> None:
        """Add raw vectors."""
        units = unit(vectors).double()
        self.count += len(units)
        self.total = self.total + units.sum(0)
        self._keep(units)

    def _keep(self, units: Tensor) -> None:
        self.kept.append(units)
        if self.count > RANK * units.shape[1]:
            for kept in self.kept:
                self.square = self.square + kept.T @ kept
            self.kept = []

    def joined(self, other: "Moments") -> "Moments":
        """The moments of both sets of vectors together."""
        moments = Moments()
        moments.count = self.count + other.count
        moments.total, moments.square = self.total + other.total, self.square + other.square
        for kept in (*self.kept, *other.kept):
            moments._keep(kept)
        return moments

    @property
    def mean(self) -> Float[Tensor, " hidden"]:
        return self.total / self.count

    @property
    def scatter(self) -> Float[Tensor, "hidden hidden"]:
        """Sum of outer products around the mean."""
        square = sum((kept.T @ kept for kept in self.kept), self.square)
        return square - self.count * torch.outer(self.mean, self.mean)

    @property
    def variation(self) -> float:
        """Sum of the squared distances to the mean: the trace of `scatter`."""
        rows = self.deviations
        return float(self.scatter.trace() if rows is None else rows.square().sum())

    @property
    def deviations(self) -> Float[Tensor, "n hidden"] | None:
        """The vectors around their mean, if all of them are kept."""
        few = sum(map(len, self.kept)) == self.count > 0
        return torch.cat(self.kept) - self.mean if few else None


def prior_weight(moments: Moments, prior: Float[Tensor, " hidden"], variance: float) -> float:
    """Weight of the prior in the mean of a signature, from 0 to 1: the positive-part James–Stein
    estimator, B = σ² / (n·‖x̄ - p‖²), times 1 - n / FEW, since the prior is unknown from FEW on.

    A prior p that is as near as the sampling error of the mean x̄ of n documents replaces it; one
    that is far, as the mean of all modalities is from that of pictures, hardly counts. The variance
    σ² is that of documents around their means.
    """
    distance = float((moments.mean - prior).square().sum())
    sampling = variance / moments.count
    return max(0.0, 1 - moments.count / FEW) * (
        1.0 if sampling >= distance else sampling / distance
    )


def scale_mass(count: int) -> float:
    """Documents that the prior of a scale counts for beside `count` documents of the corpus; 0 from
    FEW on."""
    return SCALE_WEIGHT * max(0.0, 1 - count / FEW)


def scatter_mass(count: int) -> float:
    """The same for the prior of a covariance, which needs more vectors."""
    return float(max(0, FEW - count))


def blend(estimate: Tensor, prior: Tensor, count: int, mass: float) -> Tensor:
    """The mean of an estimate from `count` documents and a prior that counts for `mass`."""
    return (count * estimate + mass * prior) / (count + mass)


def whitening(
    covariance: Float[Tensor, "hidden hidden"], count: float | int, shrinkage: float | None = None
) -> Float[Tensor, "hidden hidden"]:
    """The ZCA whitening transform W = (C + λ·tr(C)/d·I)^(-1/2) of a covariance C of unit vectors in
    d dimensions, with shrinkage λ (whitening: Su et al., 2021, arXiv 2103.15316).

    W is symmetric and float32. By default λ is the `default_shrinkage` of the number of vectors
    that C was estimated from.
    """
    weight = default_shrinkage(count, len(covariance)) if shrinkage is None else shrinkage
    values, vectors = torch.linalg.eigh(covariance.double())
    values = values.clamp_min(0)
    root = (values + weight * values.mean().clamp_min(1e-12)).rsqrt()
    return (vectors * root @ vectors.T).float()


def whitening_of(
    parts: Sequence[tuple[float, Moments]], count: float
) -> Float[Tensor, "hidden hidden"]:
    """`whitening` of the covariance Σ weight·scatter / count of several sets of vectors.

    Args:
        parts: The weight of each set, and its moments.
        count: The number of vectors that they count for together.
    """
    deviations = [(weight, moments.deviations) for weight, moments in parts]
    rows = [math.sqrt(weight / count) * of for weight, of in deviations if of is not None]
    if len(rows) == len(parts) and sum(map(len, rows)) <= RANK * rows[0].shape[1]:
        return _whitening_of_rows(torch.cat(rows), count)
    scatter = torch.zeros((), dtype=torch.double)
    for weight, moments in parts:
        scatter = scatter + weight * moments.scatter
    return whitening(scatter / count, count)


def _whitening_of_rows(
    rows: Float[Tensor, "rows hidden"], count: float | int
) -> Float[Tensor, "hidden hidden"]:
    """`whitening` of a covariance C = RᵀR of few rows R, in a fraction of the time.

    The eigenvectors of C with eigenvalues v > 0 are those of RRᵀ, mapped back: V. With the ridge
    r = λ·tr(C)/d, W = r^(-1/2)·I + V·((v + r)^(-1/2) - r^(-1/2))·Vᵀ.
    """
    size = rows.shape[1]
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    known = values > 1e-12 * values[-1].clamp_min(1e-12)
    values, directions = values[known], rows.T @ vectors[:, known]
    directions = directions / values.sqrt()
    ridge = default_shrinkage(count, size) * (values.sum() / size).clamp_min(1e-12)
    root = (values + ridge).rsqrt() - ridge.rsqrt()
    transform = directions * root @ directions.T
    transform.diagonal().add_(ridge.rsqrt())
    return transform.float()


def default_shrinkage(count: float | int, size: int) -> float:
    """λ = 1 + d/n: at least one mean eigenvalue, more where there are few vectors per dimension."""
    return 1.0 + size / max(count, 1)


def unit(vectors: Float[Tensor, "*n hidden"]) -> Float[Tensor, "*n hidden"]:
    """Vectors scaled to norm 1, float32."""
    return torch.nn.functional.normalize(vectors.float(), dim=-1)
