"""Label-free geometry: what a corpus itself says about the directions of its embeddings.

- `none`: the unit vector.
- `centre`: minus the mean of the unit vectors of its kind.
- `whiten`: centred, then shrinkage-whitened (ReAlign, arXiv 2512.19115): the directions that
  dominate all similarities are divided by their size.

Every modality signature (text, image, image+text, …) has its own mean, since another modality moves
all vectors of a kind together. Queries share the mean of the documents of their signature; where
the corpus has none, they have a mean of their own, fitted on other queries of that kind.
Whitening is one transform for all, from the covariance pooled around those means, so that documents
of every signature and queries stay comparable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from probes.errors import BadSetting
from probes.prompts import Side

Kind = Literal["none", "centre", "whiten"]
KINDS: tuple[Kind, ...] = ("none", "centre", "whiten")
Vectors = Mapping[str, Float[Tensor, "_ hidden"]]
"""Raw vectors by signature."""


@dataclass(frozen=True)
class Geometry:
    """Maps raw vectors to unit vectors whose dot product is the score."""

    kind: Kind = "none"
    means: dict[tuple[Side, str], Float[Tensor, " hidden"]] = field(default_factory=dict)
    transform: Float[Tensor, "hidden hidden"] | None = None

    @classmethod
    def fit(
        cls,
        kind: Kind,
        documents: Vectors,
        queries: Vectors | None = None,
        shrinkage: float | None = None,
    ) -> "Geometry":
        """Fit on raw documents by signature; `queries` give only means of their own.

        Raises ValueError for an unknown kind.
        """
        return Moments.of(documents).fit(kind, queries, shrinkage)

    def map(
        self, vectors: Float[Tensor, "n hidden"], signatures: Sequence[str], side: Side
    ) -> Float[Tensor, "n hidden"]:
        """Raw vectors of the given signatures as unit vectors, float32.

        A query signature without a mean of its own takes that of the documents.
        """
        moved = unit(vectors)
        for signature in set(signatures):
            mean = self.means.get((side, signature), self.means.get(("document", signature)))
            if mean is not None:
                rows = torch.tensor([s == signature for s in signatures])
                if rows.all():  # without two copies of a corpus of one kind
                    moved -= mean
                else:
                    moved[rows] -= mean
        if self.transform is not None:
            moved = moved @ self.transform
        return moved if self.kind == "none" else unit(moved)


class Moments:
    """Counts, sums and second moments of unit vectors by signature: one pass, any corpus size."""

    def __init__(self) -> None:
        self.count: dict[str, int] = {}
        self.total: dict[str, Tensor] = {}
        self.square: dict[str, Tensor] = {}

    @classmethod
    def of(cls, documents: Vectors) -> "Moments":
        """Those of raw vectors by signature."""
        moments = cls()
        for signature, vectors in documents.items():
            moments.add(signature, vectors)
        return moments

    def add(self, signature: str, vectors: Float[Tensor, "n hidden"]) -> None:
        """Take in raw vectors of one signature."""
        units = unit(vectors).double()
        if signature not in self.count:
            size = units.shape[1]
            self.count[signature] = 0
            self.total[signature] = torch.zeros(size, dtype=torch.double)
            self.square[signature] = torch.zeros(size, size, dtype=torch.double)
        self.count[signature] += len(units)
        self.total[signature] += units.sum(0)
        self.square[signature] += units.T @ units

    def fit(
        self, kind: Kind, queries: Vectors | None = None, shrinkage: float | None = None
    ) -> Geometry:
        """The geometry of everything taken in. Raises ValueError for an unknown kind."""
        if kind not in KINDS:
            raise BadSetting(f"{kind!r} is not a geometry; choose one of {', '.join(KINDS)}")
        if kind == "none":
            return Geometry()
        means: dict[tuple[Side, str], Tensor] = {
            ("document", s): self.total[s] / n
            for s, n in self.count.items()
            if n > 1  # a lone vector would be its own mean, and vanish
        }
        transform = None
        if kind == "whiten" and means:
            scatter = sum(
                (
                    self.square[s] - self.count[s] * torch.outer(mean, mean)
                    for (_, s), mean in means.items()
                ),
                torch.zeros(()),
            )
            everything = sum(self.count.values())
            transform = whitening(scatter / everything, everything, shrinkage)
        own = (queries or {}).items()
        means |= {("query", s): unit(v).double().mean(0) for s, v in own if len(v)}
        return Geometry(kind, {key: mean.float() for key, mean in means.items()}, transform)


def whitening(
    covariance: Float[Tensor, "hidden hidden"], count: int, shrinkage: float | None = None
) -> Float[Tensor, "hidden hidden"]:
    """The symmetric (ZCA) root W = (C + λ·tr(C)/d·I)^(-1/2) of a covariance of unit vectors."""
    weight = default_shrinkage(count, len(covariance)) if shrinkage is None else shrinkage
    values, vectors = torch.linalg.eigh(covariance.double())
    values = values.clamp_min(0)
    root = (values + weight * values.mean().clamp_min(1e-12)).rsqrt()
    return (vectors * root @ vectors.T).float()


def default_shrinkage(count: int, size: int) -> float:
    """λ = 1 + d/n: one mean eigenvalue at least, more when there are few vectors a dimension."""
    return 1.0 + size / max(count, 1)


def unit(vectors: Float[Tensor, "n hidden"]) -> Float[Tensor, "n hidden"]:
    """Float32 vectors of length 1."""
    return torch.nn.functional.normalize(vectors.float(), dim=-1)
