"""The map from raw vectors to scores: what is subtracted, transformed and put on one scale."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.geometry.estimates import blend, scale_mass, unit
from probes.measure.reference import KINDS, Reference, cross_modal
from probes.prompts import Side

GeometryKind = Literal["none", "centre", "whiten"]
GEOMETRY_KINDS: tuple[GeometryKind, ...] = ("none", "centre", "whiten")
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

        They are their mean, and their upper semideviation sqrt(mean(max(0, cosine - mean)²)), both
        `[q]`, float64. Only the upper half counts, since the highest cosines compete: cosines with
        a few near matches are skewed, and under a symmetric deviation those matches would crowd out
        the best documents of other signatures.
        """
        groups = [(queries @ rows.T).double() for rows in (self.documents, self.prior) if len(rows)]
        mean = self._blended([cosines.mean(1) for cosines in groups])
        above = [(cosines - mean[:, None]).clamp_min(0).square().mean(1) for cosines in groups]
        return mean, self._blended(above).sqrt()

    def _blended(self, values: list[Tensor]) -> Tensor:
        if len(values) == 1:
            return values[0]
        documents, prior = values
        return blend(documents, prior, self.count, scale_mass(self.count))


@dataclass(frozen=True)
class Geometry:
    """Maps raw vectors to unit vectors whose dot product, after calibration, is the score."""

    kind: GeometryKind = "none"
    means: dict[Key, Float[Tensor, " hidden"]] = field(default_factory=dict)
    transform: Float[Tensor, "hidden hidden"] | None = None
    scales: dict[str, Scale] = field(default_factory=dict)
    """By signature of the documents; empty where all documents have the same."""
    reference_queries: dict[str, Float[Tensor, "_ hidden"]] = field(default_factory=dict)
    """Unit vectors by signature, for queries of a signature that the corpus does not hold."""

    def __repr__(self) -> str:
        means = ", ".join(f"{side} {signature}" for side, signature in self.means)
        return f"Geometry({self.kind!r}{f', means of {means}' if means else ''})"

    def map(
        self, vectors: Float[Tensor, "n hidden"], signatures: str | Sequence[str], side: Side
    ) -> Float[Tensor, "n hidden"]:
        """Map raw vectors to unit vectors, float32.

        Queries are centred on the nearest of the reference queries of their signature, where there
        are any, or else on the mean of the queries, or of the documents, of this signature,
        or else on the mean of all documents.

        Args:
            vectors: Raw vectors.
            signatures: The modality signature of each, or the one of all.
            side: Whether they are queries or documents.
        """
        moved = unit(vectors)
        for signature, rows in rows_of(signatures).items():
            if side == "query" and signature in self.reference_queries:
                moved[rows] -= nearest_third(moved[rows], self.reference_queries[signature])
                continue
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
        """The same geometry with a centre for queries of each signature.

        Args:
            signatures: Signatures of the queries.
            reference: Supplies queries of a signature that the corpus does not hold.
            examples: Raw vectors of example queries by signature; their mean takes precedence.
        """
        if self.kind == "none":
            return self
        means = dict(self.means)
        for signature, vectors in (examples or {}).items():
            means["query", signature] = unit(vectors).mean(0)
        centred = {signature for _, signature in means}
        missing = sorted(set(signatures) - centred)
        references = {s: reference("query", cross_modal(s)) for s in missing}
        units = {s: unit(vectors) for s, vectors in references.items() if vectors is not None}
        return replace(self, means=means, reference_queries=units)


def nearest_third(
    queries: Float[Tensor, "q hidden"], references: Float[Tensor, "r hidden"]
) -> Float[Tensor, "q hidden"]:
    """The mean of the third of the reference queries that is nearest to each query; all are unit
    vectors.

    Reference queries are of three kinds: sentences, captions of drawn scenes, and captions of
    everyday things. A mean of all kinds leaves in a query what its kind shares, and a document that
    lies in this direction is near to every query (localized centering: Hara et al., 2015,
    doi:10.1609/aaai.v29i1.9629).
    """
    # In float64, so that the third does not depend on the batch that a query is in.
    cosines = queries.double() @ references.double().T
    third = cosines.topk(-(-len(references) // KINDS), dim=1).indices
    weights = torch.zeros_like(cosines).scatter_(1, third, 1 / third.shape[1])
    return (weights @ references.double()).float()


def rows_of(signatures: str | Sequence[str]) -> dict[str, Int[Tensor, " rows"] | slice]:
    """The rows of each signature; all of them, without a copy, where it is the only one."""
    names = [signatures] if isinstance(signatures, str) else list(dict.fromkeys(signatures))
    if len(names) == 1:
        return {names[0]: slice(None)}
    column = np.array(signatures)
    return {name: torch.from_numpy(np.flatnonzero(column == name)) for name in names}
