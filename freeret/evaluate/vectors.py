"""From vectors to a run: the geometry of the pool, then the best documents of each query."""

from jaxtyping import Float, Int
from torch import Tensor

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.metrics import to_run
from probes.geometry import CorpusGeometry, Kind
from probes.reference import Reference


def rank(
    dataset: Dataset,
    queries: Float[Tensor, "queries hidden"],
    documents: Float[Tensor, "documents hidden"],
    kind: Kind,
    reference: Reference,
) -> dict[str, dict[str, float]]:
    """The run that the retriever gives over a store of these documents.

    Args:
        dataset: Its queries, documents and candidates; judgements are not looked at.
        queries: Raw vectors.
        documents: Raw vectors.
        kind: The geometry, fitted on the documents alone: no query sees another.
        reference: For what the documents cannot tell.

    Returns:
        Query id -> document id -> score.
    """
    asked = [query.signature for query in dataset.queries]
    pool = [document.signature for document in dataset.documents]
    ids = [document.id or "" for document in dataset.documents]
    geometry = CorpusGeometry.of(kind, ids, pool, documents, reference)
    geometry = geometry.with_queries(asked, reference)
    a, b = geometry.map(queries, asked, "query"), geometry.map(documents, pool, "document")
    calibration = geometry.calibration(a)

    def score(query: int, places: Int[Tensor, " pool"] | None) -> Float[Tensor, " pool"]:
        chosen = range(len(pool)) if places is None else places.tolist()
        cosines = (b if places is None else b[places]) @ a[query]
        if not calibration:
            return cosines
        gains, shifts = (
            cosines.new_tensor([calibration[pool[i]][k][query] for i in chosen]) for k in (0, 1)
        )
        return gains * cosines + shifts

    return to_run(dataset, score)
