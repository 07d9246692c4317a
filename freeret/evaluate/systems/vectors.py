"""The interface of systems, and how vectors become a ranking: the geometry of the pool, then the
best documents of each query."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from jaxtyping import Float, Int
from torch import Tensor

from freeret.embedder import not_finite
from freeret.evaluate.datasets import Dataset
from freeret.evaluate.rankings import Ranking, to_run
from freeret.evaluate.skipping import Skipped, encode_good
from freeret.evaluate.systems.realign import whiten_apart
from freeret.evaluate.systems.words import hybrid_scores, indexed_words
from freeret.recipe import Recipe
from freeret.search.lexical import words_asked
from probes import Backbone, Item
from probes.geometry import CorpusGeometry, GeometryKind
from probes.measure.reference import Reference, reference_vectors
from probes.prompts import Side

Space = GeometryKind | Literal["realign"]
"""A geometry of the retriever, or ReAlign's whitening of each side on its own."""
Prompts = dict[str, dict[str, list[str]]]
"""Side -> modality signature -> the prompts as they are tokenised, `{text}` or `{image}` standing
for content; empty for a system that puts content as it is."""


class System(Protocol):
    """Anything that ranks the documents of a dataset."""

    @property
    def name(self) -> str: ...

    @property
    def backbone(self) -> Backbone | None: ...

    @property
    def recipe(self) -> Recipe | None:
        """The recipe that stage 2 follows; None for a system without stage 2."""
        ...

    def run(
        self,
        dataset: Dataset,
        *,
        progress: bool = False,
        skipped: list[Skipped] | None = None,
    ) -> Ranking:
        """Rank the documents for each query.

        Args:
            dataset: Its judgements are not looked at.
            skipped: Takes the items that cannot be read; without it the first of them raises
                BadItem.
        """
        ...

    def identity(self) -> dict[str, Any]:
        """Everything that decides a score."""
        ...

    def prompts_for(self, dataset: Dataset) -> Prompts:
        """The prompts of a dataset's items as they are tokenised."""
        ...


def by_signature(dataset: Dataset, words: Callable[[Item, Side], list[str]]) -> Prompts:
    """The prompts of an item of each side and modality signature."""
    sides: dict[Side, list[Item]] = {"query": dataset.queries, "document": dataset.documents}
    return {
        side: {
            signature: words(item, side)
            for signature, item in {item.signature: item for item in items}.items()
        }
        for side, items in sides.items()
    }


class VectorSystem:
    """A system of one vector per item, compared by cosine in a geometry."""

    name: str
    backbone: Backbone | None
    recipe: Recipe | None
    geometry: Space

    def encode(
        self, items: Sequence[Item], side: Side, task: str, *, progress: bool = False
    ) -> Tensor:
        """Raw float32 vectors `[items, hidden]`; `task` is that of the dataset."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        raise NotImplementedError

    def prompts_for(self, dataset: Dataset) -> Prompts:
        return {}

    def run(
        self,
        dataset: Dataset,
        *,
        progress: bool = False,
        skipped: list[Skipped] | None = None,
    ) -> Ranking:
        """Encode both sides, and rank. Raises what `encode` raises, unless `skipped` takes it."""

        def encode(items: Sequence[Item], side: Side) -> Tensor:
            return self.encode(items, side, dataset.task, progress=progress)

        def words(items: Sequence[Item], side: Side) -> list[str]:
            return self.words(items, side, dataset.task)

        good, queries, documents = encode_sides(encode, dataset, skipped)
        reference, lexical = reference_vectors(encode), self.recipe.lexical if self.recipe else 0.0
        return rank(good, queries, documents, self.geometry, reference, lexical, words)

    def words(self, items: Sequence[Item], side: Side, task: str) -> list[str]:
        """What the lexical leg reads of items."""
        return texts(items, side)


def texts(items: Sequence[Item], side: Side) -> list[str]:
    """The text of items."""
    return [item.text for item in items]


def encode_sides(
    encode: Callable[[Sequence[Item], Side], Tensor],
    dataset: Dataset,
    skipped: list[Skipped] | None = None,
) -> tuple[Dataset, Float[Tensor, "queries *shape"], Float[Tensor, "documents *shape"]]:
    """Encode the queries and documents of a dataset.

    Args:
        skipped: Takes the items that cannot be encoded. Without it the first of them raises
            BadItem.

    Returns:
        The dataset without the skipped items, and the vectors of its queries and documents.
    """
    sides: dict[Side, list[Item]] = {"query": dataset.queries, "document": dataset.documents}
    if skipped is None:
        return dataset, encode(dataset.queries, "query"), encode(dataset.documents, "document")
    vectors: dict[Side, Tensor] = {}
    bad: list[Skipped] = []
    for side, items in sides.items():
        sides[side], vectors[side] = encode_good(encode, items, side, bad)
    if bad or skipped:
        good = dataset.only(sides["query"], sides["document"])
        still = {query.id for query in good.queries}
        rows = [place for place, query in enumerate(sides["query"]) if query.id in still]
        dataset, vectors["query"] = good, vectors["query"][rows]
    skipped += [one for one in bad if one not in skipped]
    return dataset, vectors["query"], vectors["document"]


def rank(
    dataset: Dataset,
    queries: Float[Tensor, "queries hidden"],
    documents: Float[Tensor, "documents hidden"],
    kind: Space,
    reference: Reference,
    lexical: float = 0.0,
    words: Callable[[Sequence[Item], Side], list[str]] = texts,
) -> dict[str, dict[str, float]]:
    """Rank as the retriever does over a store of these documents.

    Args:
        dataset: Its queries, documents and candidates; judgements are not looked at.
        kind: The geometry. Those of the retriever are fitted on the documents alone, so that a
            ranking does not depend on the other queries.
        reference: Vectors of the bundled reference items, for modalities with too few documents and
            for those of queries that the documents lack.
        lexical: Weight of the lexical leg; 0 for a ranking by vectors alone.

    Returns:
        Query id -> document id -> score.

    Raises:
        BadItem: A vector holds NaN or infinity.
    """
    for items, vectors in ((dataset.queries, queries), (dataset.documents, documents)):
        for error in not_finite(items, vectors).values():
            raise error
    if kind == "realign":
        queries, documents, kind = whiten_apart(queries), whiten_apart(documents), "none"
    signatures = [query.signature for query in dataset.queries]
    pool = [document.signature for document in dataset.documents]
    ids = [document.id or "" for document in dataset.documents]
    geometry = CorpusGeometry.of(kind, ids, pool, documents, reference)
    geometry = geometry.with_queries(signatures, reference)
    a, b = geometry.map(queries, signatures, "query"), geometry.map(documents, pool, "document")
    calibration = geometry.calibration(a)

    def cosine(query: int, places: Int[Tensor, " pool"] | None) -> Float[Tensor, " pool"]:
        indices = range(len(pool)) if places is None else places.tolist()
        cosines = (b if places is None else b[places]) @ a[query]
        if not calibration:
            return cosines
        gains, shifts = (
            cosines.new_tensor([calibration[pool[i]][k][query] for i in indices]) for k in (0, 1)
        )
        return gains * cosines + shifts

    if not lexical or not dataset.has_choice:  # words are a leg of search, not of similarity
        return to_run(dataset, cosine)
    asked = words_asked(dataset.queries, set(pool), lambda some: words(some, "query"))
    with indexed_words(dataset.documents, words(dataset.documents, "document")) as leg:
        return to_run(dataset, hybrid_scores(dataset, asked, leg, cosine, lexical))
