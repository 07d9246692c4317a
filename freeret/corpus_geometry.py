"""The geometry of a corpus: its own moments, and the project's items for what it cannot tell.

A corpus tells how its documents lie together, and queries of a kind that it holds share their mean.
With few texts the project's own sentences help. Queries of a kind that it does not hold, such as
captions beside pictures, are centred on the project's own items of that kind; beside other kinds,
few texts do not tell how texts will ask either.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from freeret.embedder import Embedder
from freeret.store import Store
from probes import Geometry, Item
from probes.geometry import Kind, Moments, unit
from probes.own import own_documents, own_queries
from probes.prompts import Side

FEW = 100
"""With fewer text vectors than this, the project's own sentences help to fit the geometry."""

Encode = Callable[[Sequence[Item], Side], Float[Tensor, "items hidden"]]
Own = Callable[[Side, str], Float[Tensor, "_ hidden"] | None]
"""Raw vectors of the project's own items of a side and signature; None where it has none."""


def own_vectors(encode: Encode) -> Own:
    """The project's own items, encoded on demand."""

    def own(side: Side, signature: str) -> Tensor | None:
        items = own_documents() if side == "document" else own_queries(signature)
        return encode(items, side) if items else None

    return own


def kept_own(
    store: Store, embedder: Embedder, held: dict[str, Tensor | None], *, progress: bool = False
) -> Own:
    """The same, encoded once: what is `held` by `side:signature`, and else what is kept beside the
    store, is taken from there."""
    fresh = own_vectors(functools.partial(embedder.encode, progress=progress))

    def own(side: Side, signature: str) -> Tensor | None:
        name = f"{side}:{signature}"
        if name not in held:
            kept = store.own()
            held.update(kept)
            if name not in kept:
                held[name] = vectors = fresh(side, signature)
                if vectors is not None:
                    store.keep_own({name: vectors})
        return held[name]

    return own


def fit_geometry(kind: Kind, store: Store, own: Own) -> Geometry:
    """Fit on everything stored, in one pass that holds a block at a time."""
    moments = Moments()
    for block in store.blocks() if kind != "none" else ():
        for signature, vectors in block.by_signature().items():
            moments.add(signature, vectors)
    return _fit(kind, moments, own)


def fit_corpus(kind: Kind, documents: Mapping[str, Tensor], own: Own) -> Geometry:
    """The same from raw vectors by signature."""
    return _fit(kind, Moments.of(documents if kind != "none" else {}), own)


def _fit(kind: Kind, moments: Moments, own: Own) -> Geometry:
    if kind == "none" or not 0 < moments.count.get("text", 0) < FEW:
        return moments.fit(kind)
    sentences = own("document", "text")
    assert sentences is not None  # sentences there are always
    moments.add("text", sentences)
    asking = own("query", "text") if len(moments.count) > 1 else None
    return moments.fit(kind, None if asking is None else {"text": asking})


def with_queries(geometry: Geometry, signatures: Iterable[str], own: Own) -> Geometry:
    """With a mean for queries of each kind that the geometry does not know."""
    if geometry.kind == "none":
        return geometry
    known = {signature for _, signature in geometry.means}
    lacking = {s: own("query", s) for s in sorted(set(signatures) - known)}
    means: dict[tuple[Side, str], Tensor] = {
        ("query", s): unit(vectors).mean(0) for s, vectors in lacking.items() if vectors is not None
    }
    return replace(geometry, means={**geometry.means, **means})
