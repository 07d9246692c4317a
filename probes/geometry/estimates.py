"""What a geometry is estimated with: moments, their priors, the whitening transform."""

import torch
from jaxtyping import Float
from torch import Tensor

FEW = 100
"""Number of documents of a signature from which on the corpus alone determines its geometry."""
SCALE_WEIGHT = 5.0
"""Documents that the reference counts for in estimates of scales, which need few."""


class Moments:
    """Count, sum and second moment of unit vectors, float64."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor = torch.zeros((), dtype=torch.double)
        self.square: Tensor = torch.zeros((), dtype=torch.double)

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
        self.square = self.square + units.T @ units

    def joined(self, other: "Moments") -> "Moments":
        """The moments of both sets of vectors together."""
        moments = Moments()
        moments.count = self.count + other.count
        moments.total, moments.square = self.total + other.total, self.square + other.square
        return moments

    @property
    def mean(self) -> Float[Tensor, " hidden"]:
        return self.total / self.count

    @property
    def scatter(self) -> Float[Tensor, "hidden hidden"]:
        """Sum of outer products around the mean."""
        return self.square - self.count * torch.outer(self.mean, self.mean)


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


def default_shrinkage(count: float | int, size: int) -> float:
    """λ = 1 + d/n: at least one mean eigenvalue, more where there are few vectors per dimension."""
    return 1.0 + size / max(count, 1)


def unit(vectors: Float[Tensor, "*n hidden"]) -> Float[Tensor, "*n hidden"]:
    """Vectors scaled to norm 1, float32."""
    return torch.nn.functional.normalize(vectors.float(), dim=-1)
