"""Label-free geometry: normalisation of embeddings, estimated from the corpus itself.

- `none`: the unit vector; scores are plain cosines.
- `centre`: minus the mean of the unit vectors of its modality signature.
- `whiten`: centred, then shrinkage-whitened: directions that dominate all similarities are divided
  by their size. ReAlign (arXiv 2512.19115) whitens each side by itself; here one transform, of the
  documents, serves both.

Means are estimated per modality signature (text, image, image+text, …), which removes the modality
gap (Liang et al., 2022). Queries share the mean of the documents of their signature. Reference
items (`probes.measure.reference`) supply what the corpus lacks: queries of a signature that it does
not hold, the nearest third of which each query is centred on (`nearest_third`), and a prior for the
mean and the spread of a signature with fewer than FEW documents; without such items the prior is
the mean of all documents. Means are shrunk toward the prior as far as the data support it
(`prior_weight`). Whitening is one transform for all, from the covariance pooled around the means.

Where a corpus holds several signatures, their cosines are not on one scale: a text query lies
closer to every text than to any picture. So the cosines of each signature are standardised, query
by query, against a sample of its documents (`Geometry.calibration`).
"""

from probes.geometry.corpus import SAMPLE, CorpusGeometry
from probes.geometry.estimates import FEW, Moments, default_shrinkage, prior_weight, unit, whitening
from probes.geometry.mapping import (
    GEOMETRY_KINDS,
    Affine,
    Geometry,
    GeometryKind,
    Scale,
    nearest_third,
)

__all__ = [
    "FEW", "GEOMETRY_KINDS", "SAMPLE", "Affine", "CorpusGeometry", "Geometry", "GeometryKind",
    "Moments", "Scale", "default_shrinkage", "nearest_third", "prior_weight", "unit", "whitening",
]  # fmt: skip
