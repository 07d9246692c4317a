"""Corpus: one store seen through one recipe. It fits the geometry and finds nearest neighbours.

Raw vectors stay in the store; the geometry is fitted on all of them and kept until the store
changes. Vectors that fit the memory budget are mapped once and kept too; a larger store is scanned
from disk, block by block. If the backbone is on a GPU, candidates are found there, in a copy of the
kept vectors where it fits. Results are the same.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from freeret.embedder import Embedder
from freeret.hits import Hit, Hits, words_of_media
from freeret.recipe import Recipe
from freeret.search import MEMORY, Index, Lexicality, ann
from freeret.search.exact import Block, resident, top_k
from freeret.search.geometry import fit_geometry, reference_of
from freeret.search.hybrid import Candidate, fuse_legs, lowered
from freeret.search.lexical import Lexical, has_text, words_asked
from freeret.search.scan import apply_filter, block_rows, map_rows, scan
from freeret.store.filters import EVERYTHING, Selection
from freeret.store.rows import Loaded
from freeret.store.table import Store
from probes import Geometry, Item
from probes.arguments import check_choice
from probes.errors import NotStored, StoreError
from probes.measure.diagnostic.hybrid import CANDIDATES

COPIES = 3
"""Copies of all vectors that exist at once while they are loaded and mapped."""


class Corpus:
    """Nearest neighbours in a store, under the geometry of a recipe.

    Args:
        embedder: The one that made the vectors; it encodes the reference items too.
        recipe: Names the geometry.
        memory: RAM budget in GiB for the vectors, as for `FreeRet`.
        examples: Raw vectors of example queries by modality signature. Queries are centred on the
            mean of the examples of their modality, instead of on that of the corpus or of the
            reference items.
    """

    def __init__(
        self,
        store: Store,
        embedder: Embedder,
        recipe: Recipe,
        *,
        memory: float = MEMORY,
        examples: Mapping[str, Float[Tensor, "_ hidden"]] | None = None,
        progress: bool = False,
    ):
        self.store, self.recipe = store, recipe
        self.memory, self.examples = memory, examples or {}
        self.reference = reference_of(embedder, progress=progress)
        self._geometry: tuple[int, Geometry] | None = None
        """The geometry, with the version of the store that it was fitted on."""
        self.device = _search_device(embedder.backbone.device)
        self._mapped: tuple[int, list[tuple[Loaded, Tensor | None]]] | None = None
        """All vectors in the geometry by signature, with their copies on a GPU that they fit, and
        the version of the store; None while they have not been needed, or exceed the budget."""

    # -- geometry ------------------------------------------------------------------------------

    def fit(self) -> None:
        """Compact the files of the store, and fit the geometry on everything in it.

        The reference items that queries of text need are encoded too, where the store holds no
        texts to centre them by: the model is loaded, and the first search need not wait for them.
        """
        self.store.compact()
        self._geometry = (self.store.version, self._fit())
        if len(self.store):
            self.geometry_for(["text"])

    def geometry(self) -> Geometry:
        """The geometry of what is stored now; kept in memory until the store changes."""
        if self._geometry is None or self._geometry[0] != self.store.version:
            self._geometry = (self.store.version, self._fit())
        return self._geometry[1]

    def geometry_for(self, signatures: Sequence[str]) -> Geometry:
        """The geometry, with a mean for queries of each of these modality signatures.

        Its `map` turns raw vectors of the embedder into unit vectors whose dot product is the
        stage-1 cosine, before the cosines of all signatures are put on one scale.
        """
        return self.geometry().with_queries(signatures, self.reference, self.examples)

    def _fit(self) -> Geometry:
        """Loaded if the store holds one for this version and recipe, else fitted and stored."""
        stored = self.store.geometry()
        if stored is not None and Recipe.from_json(self.store.recipe()) == self.recipe:
            return stored
        geometry = fit_geometry(self.recipe.geometry, self.store, self.reference)
        self.store.keep_geometry(geometry, self.recipe.to_json())
        return geometry

    # -- nearest neighbours --------------------------------------------------------------------

    def search(
        self,
        raw: Float[Tensor, "queries hidden"],
        signatures: Sequence[str],
        top_n: int,
        selection: Selection = EVERYTHING,
        *,
        approximate: bool = False,
        words: Sequence[str] = (),
        lexical: Lexicality = "off",
    ) -> list[Hits]:
        """The best items for each query, in one pass over the store. Ties break by id.

        Args:
            raw: Raw vectors of the queries.
            approximate: Score only the candidates of the approximate index; a selection with a
                filter is searched exactly all the same.
            words: What `words_asked` returns for the queries, where there is a lexical leg.
            lexical: Whether there is one (`freeret.search.hybrid`): "auto" where the recipe gives
                it a weight, "on" with that weight or else that of `Recipe.hybrid`, "off" never.

        Returns:
            Hits of each query, best first.

        Raises:
            StoreError: The store cannot be read, has no approximate index for its present items, or
                keeps no words and `lexical` is "on".
        """
        weight = self.weight(lexical)
        geometry = self.geometry_for(signatures)
        queries = geometry.map(raw, signatures, "query")
        depth = max(top_n, CANDIDATES) if weight else top_n
        if approximate and selection.filter is None:
            indexed = self._signatures(geometry, selection)
            nearest = [self._approximate(geometry, q[None], depth, indexed) for q in queries]
        else:
            nearest = self._nearest(geometry, queries, depth, selection)
        if not weight:
            return self._as_hits(nearest)
        leg = Lexical(self.store.table, self.store.location)
        rankings = []
        for query, near, text in zip(queries, nearest, words, strict=True):
            candidates = fuse_legs(
                dict(near[:CANDIDATES]),
                leg.best(text, CANDIDATES, selection),
                partial(self._cosines, geometry, query[None]),
                partial(leg.scores, text),
                weight,
            )
            rankings.append(_with_others(candidates, near)[:top_n])
        return self._as_hits(rankings)

    def words_asked(
        self,
        queries: Sequence[Item],
        read: Callable[[list[Item]], list[str]],
        selection: Selection = EVERYTHING,
    ) -> list[str]:
        """`freeret.search.lexical.words_asked` of queries over the selected items."""
        media_alone = not all(has_text(query.signature) for query in queries)
        names = self.store.signatures() if media_alone else ()  # a column of the store is read
        return words_asked(queries, [n for n in names if selection.takes_signature(n)], read)

    def weight(self, lexical: Lexicality) -> float:
        """The weight of the lexical leg; 0 for none. Raises BadSetting, StoreError."""
        check_choice("lexical", lexical, get_args(Lexicality))
        if lexical == "on" and not self.store.has_words:
            raise StoreError(
                f"store {self.store.location} was made by an earlier version and keeps no words to "
                "search for; index its items again into a new store, or search by vectors alone"
            )
        if lexical == "off" or not self.store.has_words:
            return 0.0
        return self.recipe.lexical if lexical == "auto" else self.recipe.hybrid().lexical

    def similar(self, id: str, top_n: int, selection: Selection = EVERYTHING) -> Hits:
        """The items nearest to a stored one, which is not among them.

        Raises:
            NotStored: There is no such item.
        """
        item = self.store.vectors([id])
        if not item.ids:
            raise NotStored(f"store {self.store.location} holds no item {id!r}")
        geometry = self.geometry()
        query = geometry.map(item.vectors, item.signatures, "document")
        [hits] = self._as_hits(self._nearest(geometry, query, top_n + 1, selection))
        return Hits(hit for hit in hits if hit.id != id)[:top_n]

    def build_ann(self, kind: Index = "hnsw") -> ann.Recall:
        """Build the approximate index, and measure its recall against exact search."""
        geometry, rows = self.geometry(), self._rows(1)
        ann.build_index(self.store, lambda: scan(self.store, geometry, rows), kind)
        return ann.measure_recall(self.store, rows=rows)

    def _nearest(
        self,
        geometry: Geometry,
        queries: Float[Tensor, "queries hidden"],
        top_n: int,
        selection: Selection,
    ) -> list[list[tuple[str, float]]]:
        """The items nearest to mapped queries, exactly."""
        blocks = self._blocks(geometry, selection, len(queries))
        calibration = geometry.calibration(queries)
        return top_k(blocks, queries, top_n, calibration, device=self.device)

    def _cosines(
        self, geometry: Geometry, query: Float[Tensor, "1 hidden"], ids: Sequence[str]
    ) -> dict[str, float]:
        """Scores of a mapped query with these items, as `_nearest` gives them."""
        parts = map_rows(self.store.vectors(ids), geometry) if ids else []
        blocks = map(apply_filter, parts)
        return dict(top_k(blocks, query, max(1, len(ids)), geometry.calibration(query))[0])

    def _blocks(self, geometry: Geometry, selection: Selection, queries: int) -> Iterable[Block]:
        """All selected items in the geometry, from memory or from the disk."""
        store = self.store
        if COPIES * 4 * store.dimension * len(store) > self.memory * 2**30:
            rows = self._rows(queries)
            if selection.filter is None and ann.current(store) is not None:
                return ann.scan_index(store, rows, selection)  # the index stores mapped vectors
            return scan(store, geometry, rows, selection)
        mapped = self._mapped
        if mapped is None or mapped[0] != store.version:
            mapped = self._mapped = None  # frees the memory of the copies for new ones
            parts = map_rows(store.vectors(), geometry)
            blocks = resident([apply_filter(part) for part in parts], self.device)
            copies = [block.copy for block in blocks]
            mapped = self._mapped = store.version, list(zip(parts, copies, strict=True))
        return [apply_filter(part, selection, copy) for part, copy in mapped[1]]

    def _rows(self, queries: int) -> int:
        return block_rows(self.store.dimension, queries, self.memory * 2**30)

    def _signatures(self, geometry: Geometry, selection: Selection) -> list[str] | list[None]:
        """Signatures to search one at a time in the approximate index; [None] means a single search
        over all."""
        if not geometry.scales and not selection.kinds:
            return [None]
        names = geometry.scales or self.store.signatures()
        return [name for name in names if selection.takes_signature(name)]

    def _approximate(
        self,
        geometry: Geometry,
        query: Float[Tensor, "1 hidden"],
        top_n: int,
        signatures: Iterable[str | None],
    ) -> list[tuple[str, float]]:
        """Candidates of the approximate index with these signatures, scored exactly."""
        blocks = [ann.ann_candidates(self.store, query[0], top_n, signature=s) for s in signatures]
        return top_k(blocks, query, top_n, geometry.calibration(query))[0]

    def _as_hits(self, rankings: Sequence[Sequence[tuple[Any, ...]]]) -> list[Hits]:
        """Hits of rankings of id, score and, in a hybrid search, both legs."""
        ids = sorted({id for ranking in rankings for id, *_ in ranking})
        items = dict(zip(ids, self.store.items(ids), strict=True))
        words = self.store.words([id for id in ids if items[id].media])
        return [
            Hits(
                Hit(
                    id,
                    score,
                    score,
                    None,
                    items[id],
                    words_of_media(items[id], words.get(id, "")),
                    *legs,
                )
                for id, score, *legs in ranking
            )
            for ranking in rankings
        ]


def _with_others(
    candidates: list[Candidate], nearest: Sequence[tuple[str, float]]
) -> list[tuple[Any, ...]]:
    """The candidates of a hybrid search, and below them the other ones of the nearest items."""
    if not candidates:
        return []
    known, shift = {id for id, *_ in candidates}, lowered(candidates, nearest[0][1])
    return [*candidates, *((id, s + shift) for id, s in nearest if id not in known)]


def _search_device(backbone: torch.device) -> torch.device:
    """A GPU that the backbone is on, else the CPU."""
    return backbone if backbone.type == "cuda" else torch.device("cpu")
