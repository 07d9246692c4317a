"""The geometry of a corpus of any size, fitted in one pass."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b

import torch
from jaxtyping import Float
from torch import Tensor

from probes.errors import BadSetting
from probes.geometry.estimates import FEW, Moments, prior_weight, scatter_mass, unit, whitening_of
from probes.geometry.mapping import (
    GEOMETRY_KINDS,
    POOLED,
    SIDES,
    Geometry,
    GeometryKind,
    Key,
    Scale,
    rows_of,
)
from probes.measure.reference import Reference

SAMPLE = 512
"""Number of documents of each signature that its scale is estimated from."""

Priors = Mapping[Key, Tensor | None]
"""Raw vectors of the reference items of each signature with few documents."""


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
        for signature, rows in rows_of(signatures).items():
            places = range(len(ids)) if isinstance(rows, slice) else rows.tolist()
            self.moments.setdefault(signature, Moments()).add(vectors[rows])
            self._sample(signature, [ids[int(i)] for i in places], vectors[rows])

    def fit(self, reference: Reference) -> Geometry:
        """The geometry of all documents that were added. The reference supplies the prior of
        signatures with fewer than FEW documents."""
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
        total = sum(moments.variation for moments in self.moments.values())
        return total / spare if spare else math.inf

    def _transform(self, priors: "Priors") -> Tensor | None:
        if self.kind != "whiten" or not self.moments:
            return None
        parts, count = [], 0.0
        for signature, moments in self.moments.items():
            parts.append((1.0, moments))
            count += moments.count
            vectors = priors.get(("document", signature))
            if vectors is not None:
                prior, mass = Moments.of(vectors), scatter_mass(moments.count)
                parts.append((mass / prior.count, prior))
                count += mass
        return whitening_of(parts, count)

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
