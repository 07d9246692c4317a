"""Label-free geometry: normalisation of embeddings, estimated from the corpus itself.

- `none`: the unit vector; scores are plain cosines.
- `centre`: minus the mean of the unit vectors of its modality signature.
- `whiten`: centred, then shrinkage-whitened: directions that dominate all similarities are divided
  by their size. ReAlign (arXiv 2512.19115) whitens each side by itself; here one transform, of the
  documents, serves both.

Means are estimated per modality signature (text, image, image+text, …), which removes the modality
gap (Liang et al., 2022). Queries share the mean of the documents of their signature. Reference
items (`probes.measure.reference`) supply what the corpus lacks: the mean of queries of a signature
that it does not hold, and a prior for the mean and the spread of a signature with fewer than FEW
documents; without such items the prior is the mean of all documents. Means are shrunk toward the
prior as far as the data support it (`prior_weight`). Whitening is one transform for all, from the
covariance pooled around the means.

Where a corpus holds several signatures, their cosines are not on one scale: a text query lies
closer to every text than to any picture. So the cosines of each signature are standardised, query
by query, against a sample of its documents (`Geometry.calibration`).
"""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.errors import BadSetting
from probes.measure.reference import Reference
from probes.prompts import Side

GeometryKind = Literal["none", "centre", "whiten"]
GEOMETRY_KINDS: tuple[GeometryKind, ...] = ("none", "centre", "whiten")
FEW = 100
"""Number of documents of a signature from which on the corpus alone determines its geometry."""
SCALE_WEIGHT = 5.0
"""Documents that the reference counts for in estimates of scales, which need few."""
SAMPLE = 512
"""Number of documents of each signature that its scale is estimated from."""
POOLED = ""
"""Key of the mean over all signatures, for queries of a signature without a mean."""
SMALLEST = 1e-6
"""Lower bound of the deviation of cosines, which is 0 for equal documents."""


Key = tuple[Side, str]
"""Side and modality signature."""
SIDES: tuple[Side, ...] = ("document", "query")


class Affine(NamedTuple):
    """score = gain · cosine + shift, one pair per query."""

    gain: Float[Tensor, " queries"]
    shift: Float[Tensor, " queries"]


@dataclass(frozen=True)
class Scale:
    """Data that the spread of the cosines of a signature is estimated from: mapped documents, and a
    prior where they are few."""

    documents: Float[Tensor, "_ hidden"]
    """A sample."""
    count: int
    """How many documents of the signature there are."""
    prior: Float[Tensor, "_ hidden"]
    """Mapped reference items; without rows where the documents suffice."""

    def of(self, queries: Float[Tensor, "q hidden"]) -> tuple[Tensor, Tensor]:
        """Location and spread of each query's cosines with the documents.

        Returns:
            Their mean, and their upper semideviation sqrt(mean(max(0, cosine - mean)²)), both
            `[q]`, float64. Only the upper half counts, since the highest cosines compete:
            cosines with a few near matches are skewed, and under a symmetric deviation those
            matches would crowd out the best documents of other signatures.
        """
        groups = [(queries @ rows.T).double() for rows in (self.documents, self.prior) if len(rows)]
        mean = self._blended([cosines.mean(1) for cosines in groups])
        above = [(cosines - mean[:, None]).clamp_min(0).square().mean(1) for cosines in groups]
        return mean, self._blended(above).sqrt()

    def _blended(self, values: list[Tensor]) -> Tensor:
        if len(values) == 1:
            return values[0]
        documents, prior = values
        return _blend(documents, prior, self.count, scale_mass(self.count))


@dataclass(frozen=True)
class Geometry:
    """Maps raw vectors to unit vectors whose dot product, after calibration, is the score."""

    kind: GeometryKind = "none"
    means: dict[Key, Float[Tensor, " hidden"]] = field(default_factory=dict)
    transform: Float[Tensor, "hidden hidden"] | None = None
    scales: dict[str, Scale] = field(default_factory=dict)
    """By signature of the documents; empty where all documents have the same."""

    def __repr__(self) -> str:
        means = ", ".join(f"{side} {signature}" for side, signature in self.means)
        return f"Geometry({self.kind!r}{f', means of {means}' if means else ''})"

    def map(
        self, vectors: Float[Tensor, "n hidden"], signatures: str | Sequence[str], side: Side
    ) -> Float[Tensor, "n hidden"]:
        """Map raw vectors to unit vectors, float32.

        Queries of a signature without a query mean take the mean of the documents of this
        signature, or else the mean of all documents.

        Args:
            vectors: Raw vectors.
            signatures: The modality signature of each, or the one of all.
            side: Whether they are queries or documents.
        """
        moved = unit(vectors)
        for signature, rows in _rows_of(signatures).items():
            keys: list[Key] = [(side, signature), ("document", signature), ("document", POOLED)]
            mean = next((self.means[key] for key in keys if key in self.means), None)
            if mean is not None:
                moved[rows] -= mean
        if self.transform is not None:
            moved = moved @ self.transform
        return moved if self.kind == "none" else unit(moved)

    def calibration(self, queries: Float[Tensor, "q hidden"]) -> dict[str, Affine]:
        """The affine maps that put the cosines of all signatures on one scale, query by query.

        The cosines of a signature, standardised by their mean and upper semideviation over its
        documents, are rescaled to the mean and deviation over all documents, so that scores
        still read as cosines. All gains are positive: the order within a signature is kept.

        Args:
            queries: Mapped unit vectors.

        Returns:
            By document signature; empty where all documents have the same, whose cosines are the
            scores.
        """
        if not self.scales:
            return {}
        counts = torch.tensor([scale.count for scale in self.scales.values()], dtype=torch.double)
        pairs = [scale.of(queries) for scale in self.scales.values()]
        means = torch.stack([mean for mean, _ in pairs])
        deviations = torch.stack([deviation for _, deviation in pairs]).clamp_min(SMALLEST)
        share = (counts / counts.sum())[:, None]
        gains = (share * deviations).sum(0) / deviations
        shifts = (share * means).sum(0) - gains * means
        return {
            signature: Affine(gain.float(), shift.float())
            for signature, gain, shift in zip(self.scales, gains, shifts, strict=True)
        }

    def with_queries(
        self,
        signatures: Iterable[str],
        reference: Reference,
        examples: Mapping[str, Float[Tensor, "_ hidden"]] | None = None,
    ) -> "Geometry":
        """The same geometry with a mean for queries of each signature.

        Args:
            signatures: Signatures of the queries.
            reference: Supplies the mean of a signature that the corpus does not hold.
            examples: Raw vectors of example queries by signature; their mean takes precedence.
        """
        if self.kind == "none":
            return self
        means = dict(self.means)
        with_means = {signature for _, signature in means}
        for signature in sorted(set(signatures) - with_means):
            vectors = reference("query", signature)
            if vectors is not None:
                means["query", signature] = unit(vectors).mean(0)
        for signature, vectors in (examples or {}).items():
            means["query", signature] = unit(vectors).mean(0)
        return replace(self, means=means)


class CorpusGeometry:
    """Fits the geometry of a corpus of any size in one pass: `add` its documents, then `fit`.

    It holds counts, sums and second moments of unit vectors by signature, and a sample of each.
    """

    def __init__(self, kind: GeometryKind):
        """Raises BadSetting for an unknown kind."""
        if kind not in GEOMETRY_KINDS:
            raise BadSetting(
                f"{kind!r} is not a geometry; choose one of {', '.join(GEOMETRY_KINDS)}"
            )
        self.kind: GeometryKind = kind
        self.moments: dict[str, Moments] = {}
        self.samples: dict[str, dict[bytes, Tensor]] = {}

    @classmethod
    def of(
        cls,
        kind: GeometryKind,
        ids: Sequence[str],
        signatures: Sequence[str],
        vectors: Float[Tensor, "n hidden"],
        reference: Reference,
    ) -> Geometry:
        """The geometry of a corpus in memory."""
        corpus = cls(kind)
        corpus.add(ids, signatures, vectors)
        return corpus.fit(reference)

    def add(
        self,
        ids: Sequence[str],
        signatures: str | Sequence[str],
        vectors: Float[Tensor, "n hidden"],
    ) -> None:
        """Add raw vectors of documents, with the signature of each or the one of all."""
        if self.kind == "none":
            return
        for signature, rows in _rows_of(signatures).items():
            places = range(len(ids)) if isinstance(rows, slice) else rows.tolist()
            self.moments.setdefault(signature, Moments()).add(vectors[rows])
            self._sample(signature, [ids[int(i)] for i in places], vectors[rows])

    def fit(self, reference: Reference) -> Geometry:
        """The geometry of all documents that were added.

        Args:
            reference: Supplies the prior of signatures with fewer than FEW documents.
        """
        if self.kind == "none":
            return Geometry()
        few = [s for s, moments in self.moments.items() if moments.count < FEW]
        priors: Priors = {(side, s): reference(side, s) for s in few for side in SIDES}
        means = self._means(priors)
        geometry = Geometry(self.kind, means, self._transform(priors))
        return replace(geometry, scales=self._scales(geometry, priors))

    def _means(self, priors: "Priors") -> dict[Key, Tensor]:
        if sum(moments.count for moments in self.moments.values()) < 2:
            return {}  # a lone vector is its own mean, and would become zero
        pooled = functools.reduce(Moments.joined, self.moments.values()).mean
        variance = self._variance()
        means: dict[Key, Tensor] = {("document", POOLED): pooled}
        for signature, moments in self.moments.items():
            means["document", signature] = moments.mean
        for (side, signature), vectors in priors.items():
            moments = self.moments[signature]
            prior = pooled if vectors is None else unit(vectors).double().mean(0)
            weight = prior_weight(moments, prior, variance)
            means[side, signature] = torch.lerp(moments.mean, prior, weight)
        return {key: mean.float() for key, mean in means.items()}

    def _variance(self) -> float:
        """Variance of the documents around the means of their signatures, summed over dimensions;
        infinite where no signature has two documents."""
        spare = sum(moments.count - 1 for moments in self.moments.values())
        total = sum(float(moments.scatter.trace()) for moments in self.moments.values())
        return total / spare if spare else math.inf

    def _transform(self, priors: "Priors") -> Tensor | None:
        if self.kind != "whiten" or not self.moments:
            return None
        scatter, count = torch.zeros((), dtype=torch.double), 0.0
        for signature, moments in self.moments.items():
            scatter, count = scatter + moments.scatter, count + moments.count
            vectors = priors.get(("document", signature))
            if vectors is not None:
                prior, mass = Moments.of(vectors), scatter_mass(moments.count)
                scatter, count = scatter + mass / prior.count * prior.scatter, count + mass
        return whitening(scatter / count, count)

    def _scales(self, geometry: Geometry, priors: "Priors") -> dict[str, Scale]:
        if len(self.moments) < 2:
            return {}
        mapped = {
            s: geometry.map(torch.stack(list(rows.values())), [s] * len(rows), "document")
            for s, rows in self.samples.items()
        }
        scales = {}
        for signature, moments in self.moments.items():
            prior = mapped[signature][:0]
            if moments.count < FEW:
                vectors = priors["document", signature]
                prior = (
                    torch.cat([rows for s, rows in mapped.items() if s != signature])
                    if vectors is None
                    else geometry.map(vectors, [signature] * len(vectors), "document")
                )
            scales[signature] = Scale(mapped[signature], moments.count, prior)
        return scales

    def _sample(self, signature: str, ids: Sequence[str], rows: Tensor) -> None:
        """Keep the rows with the smallest hashes of their ids, whatever the order of the rows."""
        keys = [blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest() for id in ids]
        sample = self.samples.setdefault(signature, {})
        last = max(sample) if len(sample) == SAMPLE else b"\xff" * 9
        sample |= {key: rows[i].clone() for i, key in enumerate(keys) if key < last}
        for key in sorted(sample)[SAMPLE:]:
            del sample[key]


def _rows_of(signatures: str | Sequence[str]) -> dict[str, Int[Tensor, " rows"] | slice]:
    """The rows of each signature; all of them, without a copy, where it is the only one."""
    names = [signatures] if isinstance(signatures, str) else list(dict.fromkeys(signatures))
    if len(names) == 1:
        return {names[0]: slice(None)}
    column = np.array(signatures)
    return {name: torch.from_numpy(np.flatnonzero(column == name)) for name in names}


Priors = Mapping[Key, Tensor | None]
"""Raw vectors of the reference items of each signature with few documents."""


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

    A prior that is as near as the sampling error of the mean x̄ of n documents replaces it; one that
    is far, as the mean of all modalities is from that of pictures, hardly counts.

    Args:
        moments: Of the documents of the signature.
        prior: p.
        variance: σ², of documents around their means.
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


def _blend(estimate: Tensor, prior: Tensor, count: int, mass: float) -> Tensor:
    return (count * estimate + mass * prior) / (count + mass)


def whitening(
    covariance: Float[Tensor, "hidden hidden"], count: float | int, shrinkage: float | None = None
) -> Float[Tensor, "hidden hidden"]:
    """The ZCA whitening transform W = (C + λ·tr(C)/d·I)^(-1/2) of a covariance C of unit vectors in
    d dimensions, with shrinkage λ (whitening: Su et al., 2021, arXiv 2103.15316).

    Args:
        covariance: C.
        count: Number n of vectors that it was estimated from, for the default of λ.
        shrinkage: λ; by default `default_shrinkage`.

    Returns:
        W, symmetric, float32.
    """
    weight = default_shrinkage(count, len(covariance)) if shrinkage is None else shrinkage
    values, vectors = torch.linalg.eigh(covariance.double())
    values = values.clamp_min(0)
    root = (values + weight * values.mean().clamp_min(1e-12)).rsqrt()
    return (vectors * root @ vectors.T).float()


def default_shrinkage(count: float | int, size: int) -> float:
    """λ = 1 + d/n: at least one mean eigenvalue, more where there are few vectors per dimension."""
    return 1.0 + size / max(count, 1)


def unit(vectors: Float[Tensor, "n hidden"]) -> Float[Tensor, "n hidden"]:
    """Vectors scaled to norm 1, float32."""
    return torch.nn.functional.normalize(vectors.float(), dim=-1)
