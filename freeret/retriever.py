"""FreeRet: the whole method on one page. Index, search, rerank, answer, with one model.

r = FreeRet(Backbone.load("smollm2-135m"))
r.index(["a text", "another"], store="my-store")
hits = r.search("a question", top_n=50, rerank=10)
print(r.answer("a question").text)
"""

import functools
import itertools
import logging
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import expit
from torch import Tensor

from freeret.embedder import Embedder
from freeret.hits import Answer, Hit, Hits
from freeret.recipe import Recipe
from freeret.reports import recipe_for
from freeret.reranker import Reranker
from freeret.search import ann as approximate
from freeret.search.ann import Recall
from freeret.search.exact import Block, apply_filter, block_rows, in_geometry, scan, top_k
from freeret.search.geometry import fit_geometry, reference_of
from freeret.store.feed import Feed
from freeret.store.filters import Filter, Selection
from freeret.store.indexing import Indexed, index_items
from freeret.store.recorded import reopen_backbone, require_for_search
from freeret.store.rows import Loaded
from freeret.store.table import Store
from probes import Backbone, Geometry, Item, Loading, as_item, as_items
from probes.arguments import check_choice, check_count
from probes.errors import BadSetting, NotStored, StoreError
from probes.items import several
from probes.measure.fusion import fuse
from probes.prompts import Prompted

log = logging.getLogger(__name__)

Engine = Literal["local", "ray"]
MEMORY = 4.0
"""GiB for vectors in memory."""
COPIES = 3
"""Of all vectors at once, while they are loaded and brought into the geometry."""
ANSWER = "Answer the question from the sources alone. Name the source you used, such as [1]."


class FreeRet:
    """A retriever over one store.

    Args:
        backbone: The model that embeds, reranks and answers, or what `Backbone.load` takes: an
            alias, a folder or a hub id.
        recipe: What to read, and how to ask; by default what the backbone's probe report supports.
        progress: Whether to show bars.
        memory: RAM budget in GiB for the stored vectors. Loading briefly needs three times their
            size; a store that exceeds the budget is scanned from disk in blocks.
        examples: Unlabelled examples of what will be asked. Queries of each modality among them are
            centred on their mean, instead of on that of the corpus or of the reference items.

    Raises:
        BadSetting: One example is the only one of its modality: it would be its own mean, and
            vanish.
    """

    def __init__(
        self,
        backbone: Backbone | str | Path,
        recipe: Recipe | None = None,
        *,
        progress: bool = False,
        memory: float = MEMORY,
        examples: Sequence[Any] = (),
    ):
        backbone = backbone if isinstance(backbone, Backbone) else Backbone.load(backbone)
        self.backbone, self.progress, self.memory = backbone, progress, memory
        self.recipe = recipe_for(backbone, recipe)
        self.embedder = Embedder.from_recipe(backbone, self.recipe)
        self.reference = reference_of(self.embedder, progress=progress)
        self.store: Store | None = None
        self._place: str | Path | None = None
        """Where `index` was told to store, in case that was taken back."""
        self._examples = self._encode_examples(examples)
        self._kept: tuple[int, Geometry] | None = None
        """The geometry, and the version of the store that it is of."""
        self._held: tuple[int, list[Loaded]] | None = None
        """All rows of a version by signature, in its geometry, where they fit in memory."""

    def __repr__(self) -> str:
        return f"FreeRet({self.backbone!r}, {self.recipe!r}, {self.store or 'no store'!r})"

    @classmethod
    def load(
        cls,
        store: str | Path,
        backbone: Backbone | str | Path | None = None,
        *,
        progress: bool = False,
        loading: Loading | None = None,
        memory: float = MEMORY,
        examples: Sequence[Any] = (),
    ) -> "FreeRet":
        """Open a store with the recipe and the backbone that made it.

        `backbone` is one that is loaded already, or where the store's is now; by default it is
        loaded by its name, as the store records it, but for the settings in `loading`. Its dtype
        and attention may differ from the store's where they were asked for, in `loading` or when
        the backbone was loaded. This warns, and such a retriever adds no items.
        Raises StoreError; StoreMismatch for a backbone that is another or differs in what was not
        asked for; BadSetting for `loading` beside a loaded backbone.
        """
        opened = Store.open(store)
        recipe = Recipe.from_json(opened.recipe(), str(store))
        if not isinstance(backbone, Backbone):
            backbone = reopen_backbone(opened, backbone, loading or Loading())
        elif loading is not None:
            raise BadSetting("loading is for a backbone that is not loaded yet; give its name")
        retriever = cls(backbone, recipe, progress=progress, memory=memory, examples=examples)
        require_for_search(opened, retriever.identity(), backbone)
        retriever.store = opened
        return retriever

    def identity(self) -> dict[str, Any]:
        """What the store must have been made with, and the recipe."""
        return {
            "backbone": self.backbone.fingerprint(),
            "loading": self.backbone.loading.given(),
            "embedder": self.embedder.identity(),
            "recipe": self.recipe.to_json(),
        }

    def __len__(self) -> int:
        """The number of stored items; 0 before a store is open."""
        return 0 if self.store is None else len(self.store)

    # -- index -------------------------------------------------------------------------------

    def index(
        self,
        items: Any,
        store: str | Path | None = None,
        *,
        on_error: str = "raise",
        prune: bool = False,
        shards: str | None = None,
        engine: Engine = "local",
        num_actors: int | None = None,
        address: str | None = None,
    ) -> Indexed:
        """Embed and store items; those already stored unchanged are not embedded again.

        Items are a list or stream of any accepted forms; a lone one is a list of one. A path, or
        `freeret.sources.files.Files`, stands for all that is in the file or folder; how many files
        in it are not read is counted in `Indexed.passed_over`. Without `store` the open store
        is used, or a temporary one, which is removed with this retriever (`save` copies it to a
        lasting place). Killed at any moment, the same call goes on where it stopped.
        `on_error="skip"` reports bad items instead of raising BadItem. `prune` removes what came
        from the same files and folders and is in them no more.

        `shards="k/n"` takes only that part of the items, beside other processes that take the
        others; `fit()` after all of them, or else the first search, fits the geometry.
        `engine="ray"` spreads the work over actors of Ray (`freeret.scale.ray`), here or on the
        cluster at `address`. They load the backbone with the settings that this one was given, and
        decide the others by their own device; where that makes another dtype than here, it is a
        StoreMismatch: load this backbone with the dtype that the actors should have.
        """
        check_choice("engine", engine, ("local", "ray"))
        feed = Feed.of(items, on_error, prune, shards)
        if store is None and self.store is None:
            store = self._place or self._temporary_folder()
        fresh = store is not None and feed.shard is None and not Store.exists(store)
        if store is not None:
            self.store = Store.create(store, self.identity(), self.embedder.dimension)
        else:  # what may be searched in another dtype may not be added to in it
            self._opened().require(self.identity())
        opened = self._opened()
        try:
            if engine == "ray":
                from freeret.scale.ray import index_with_ray, typed_loading

                done = index_with_ray(
                    opened.location, self.backbone.name, typed_loading(self.backbone), self.recipe,
                    feed.stream, on_error=on_error, num_actors=num_actors, address=address,
                    progress=self.progress,
                )  # fmt: skip
                opened.refresh()
            else:
                done = index_items(
                    opened, self.embedder, feed.stream,
                    on_error=on_error, among=feed.shard, progress=self.progress,
                )  # fmt: skip
        except BaseException:
            # Not beside other shards: their processes may be about to write.
            if fresh and opened.remove_if_empty():
                self.store, self._place = None, store
            raise
        feed.finish(done, opened)
        if feed.shard is None:
            self.fit()
        return done

    def fit(self) -> None:
        """Tidy the files of the store, and fit the geometry on everything stored: what `index` does
        at its end, for a store that several processes have filled with `shards`. The first search
        would fit the geometry otherwise."""
        opened = self._opened()
        opened.compact()
        self._geometry(opened)

    def delete(self, ids: str | Sequence[str] = (), *, filter: Filter | None = None) -> int:
        """Remove items by id, or all whose metadata passes a filter; returns how many there were.

        Raises:
            BadSetting: Both are given, which could mean either.
        """
        named = [ids] if isinstance(ids, str) else list(ids)
        if filter is None:
            return self._opened().delete(named)
        if named:
            raise BadSetting("name the items to delete by their ids or by a filter, not by both")
        opened = self._opened()
        return opened.delete(opened.selected(Selection.of(filter)))

    def save(self, location: str | Path) -> None:
        """Copy the store to another place, such as a temporary one to a lasting one."""
        opened = self._opened()
        identity = {**opened.identity, "recipe": self.recipe.to_json()}
        copy = Store.create(location, identity, self.embedder.dimension)
        copy.take(opened)
        self.store, self._kept, self._held = copy, None, None

    # -- search ------------------------------------------------------------------------------

    def search(
        self,
        query: Any,
        top_n: int = 50,
        rerank: int = 0,
        filter: Filter | None = None,
        *,
        ann: bool = False,
        task: str | None = None,
        kinds: str | Sequence[str] | None = None,
    ) -> Hits:
        """The best items for one query. Exact, in float32; ties break by id.

        Args:
            query: Anything that `as_item` reads.
            top_n: How many hits.
            rerank: How many of the first hits the model itself judges. Where the recipe has no
                frame this is logged as a warning, and stage 1 decides.
            filter: Metadata that hits must have, or a function of the metadata.
            ann: Score only what the index of `build_ann` proposes; a filtered search is always
                exact.
            task: What is searched for, a key of `probes.prompts.TASKS` or free text, instead of
                the recipe's task prior. Documents stay as they were indexed.
            kinds: Search only items that hold at least one of these: `text`, `image`, `video`,
                `audio`. A picture with a caption holds an image and a text. Scores stay the same.

        Returns:
            Hits, best first.

        Raises:
            BadItem: The query cannot be read.
            BadSetting: `task` is given, and the recipe's prompt states no task; `filter` is no
                filter, or one of `kinds` is no kind.
            StoreError: No store is open, or it cannot be read.
        """
        found = self.search_many([query], top_n, rerank, filter, ann=ann, task=task, kinds=kinds)
        return found[0]

    def search_many(
        self,
        queries: Any,
        top_n: int = 50,
        rerank: int = 0,
        filter: Filter | None = None,
        *,
        ann: bool = False,
        task: str | None = None,
        kinds: str | Sequence[str] | None = None,
        raw: Float[Tensor, "queries hidden"] | None = None,
    ) -> list[Hits]:
        """`search` for many queries at once, in one pass over the store. A lone query is a list of
        one. `raw` holds their vectors where the embedder has encoded them already."""
        check_count("top_n", top_n)
        check_count("rerank", rerank, least=0)
        items, selection = _as_queries(queries), Selection.of(filter, kinds)
        opened = self._opened()
        signatures = [item.signature for item in items]
        geometry = self.geometry_for(signatures)
        if raw is None:
            raw = self.embedder.for_task(task).encode_query(items)
        vectors = geometry.map(raw, signatures, "query")
        if ann and selection.filter is None:
            asked = self._signatures(opened, geometry, selection)
            hits = self._as_hits(
                [self._approximate(opened, geometry, v[None], top_n, asked) for v in vectors]
            )
        else:
            hits = self._nearest(geometry, vectors, top_n, selection)
        if not rerank:
            return hits
        return [self._rerank(q, h, rerank) if h else h for q, h in zip(items, hits, strict=True)]

    def similar(
        self,
        id: str,
        top_n: int = 10,
        filter: Filter | None = None,
        *,
        kinds: str | Sequence[str] | None = None,
    ) -> Hits:
        """The items nearest to a stored one, by its stored vector: no forward is needed.

        Args:
            id: The item, which is not among the hits.
            top_n: How many hits.
            filter: As in `search`.
            kinds: As in `search`.

        Returns:
            Hits, best first.

        Raises:
            NotStored: There is no such item.
        """
        check_count("top_n", top_n)
        opened = self._opened()
        stored_row = opened.vectors([id])
        if not stored_row.ids:
            raise NotStored(f"store {opened.location} holds no item {id!r}")
        geometry = self._fitted(opened)
        vector = geometry.map(stored_row.vectors, stored_row.signatures, "document")
        [hits] = self._nearest(geometry, vector, top_n + 1, Selection.of(filter, kinds))
        return Hits(hit for hit in hits if hit.id != id)[:top_n]

    def geometry_for(self, signatures: Sequence[str]) -> Geometry:
        """The store's geometry, with a mean for queries of each of these signatures.

        Its `map` brings raw vectors of the embedder to unit vectors whose dot product is the
        stage-1 cosine, before modalities are put on one scale.
        """
        fitted = self._fitted(self._opened())
        return fitted.with_queries(signatures, self.reference, self._examples)

    def _nearest(
        self,
        geometry: Geometry,
        vectors: Float[Tensor, "queries hidden"],
        top_n: int,
        selection: Selection,
    ) -> list[Hits]:
        """Exact hits of vectors that are in the geometry."""
        blocks = self._documents(geometry, selection, len(vectors))
        return self._as_hits(top_k(blocks, vectors, top_n, geometry.calibration(vectors)))

    def _as_hits(self, ranked: list[list[tuple[str, float]]]) -> list[Hits]:
        ids = sorted({id for pairs in ranked for id, _ in pairs})
        items = dict(zip(ids, self._opened().items(ids), strict=True))
        return [Hits(Hit(id, s, s, None, items[id]) for id, s in pairs) for pairs in ranked]

    def build_ann(self, kind: approximate.Index = "hnsw") -> Recall:
        """Build LanceDB's approximate index and measure its recall against exact search."""
        opened = self._opened()
        rows = self._rows(1)
        geometry = self._fitted(opened)
        approximate.build_index(opened, lambda: scan(opened, geometry, rows), kind)
        return approximate.measure_recall(opened, rows=rows)

    def _rerank(self, query: Item, hits: Hits, count: int) -> Hits:
        if self.recipe.frame is None:
            log.warning("not reranked: %s", self.recipe.why_not_reranked)
            return hits
        pairs = [(query, hit.item) for hit in hits[:count]]
        return self.fused(hits, self.reranker.margins(pairs, progress=self.progress))

    def fused(self, hits: Sequence[Hit], margins: Float[np.ndarray, " judged"]) -> Hits:
        """The first hits in the order that stage 1 and the margins of `reranker` give them
        together, and then those that were not judged."""
        head, tail = hits[: len(margins)], hits[len(margins) :]
        scores = fuse([hit.stage1_score for hit in head], margins, self.recipe.fusion)
        judged = [
            Hit(hit.id, 1 + float(expit(f)), hit.stage1_score, float(expit(m)), hit.item)
            for hit, f, m in zip(head, scores, margins, strict=True)
        ]
        return Hits([*sorted(judged, key=lambda hit: (-hit.score, hit.id)), *tail])

    @functools.cached_property
    def reranker(self) -> Reranker:
        """Stage 2. Raises UnsupportedBackbone where the recipe has none."""
        return Reranker.from_recipe(self.backbone, self.recipe)

    # -- answer ------------------------------------------------------------------------------

    def answer(
        self,
        question: str,
        top_n: int = 5,
        *,
        rerank: int = 0,
        filter: Filter | None = None,
        task: str | None = None,
        kinds: str | Sequence[str] | None = None,
        max_new_tokens: int = 128,
    ) -> Answer:
        """Retrieve as `search` does, then generate from the hits with the same weights."""
        check_count("top_n", top_n)
        check_count("max_new_tokens", max_new_tokens)
        found = self.search(question, max(top_n, rerank), rerank, filter, task=task, kinds=kinds)
        hits = found[:top_n]
        prompt = self.answer_prompt(question, hits)
        return Answer(self.backbone.generate(prompt, max_new_tokens), hits)

    def answer_prompt(self, question: str, hits: Sequence[Hit]) -> Prompted:
        """What the model is asked, with the hits as its numbered sources. Raises StoreError where
        there are none."""
        if not hits:
            opened = self._opened()
            held = "holds no item that was asked for" if len(opened) else "is empty"
            raise StoreError(f"store {opened.location} {held}: nothing to answer from")
        sources = itertools.chain.from_iterable(
            (f"\n[{number}] ", *hit.item.parts) for number, hit in enumerate(hits, start=1)
        )
        asked = as_item(question).parts
        return Prompted(user=(f"{ANSWER}\n\nQuestion: ", *asked, "\n\nSources:", *sources))

    # -- plumbing ----------------------------------------------------------------------------

    def _temporary_folder(self) -> str:
        """A new folder that is removed with the retriever, or else when the interpreter exits."""
        folder = tempfile.mkdtemp(prefix="freeret-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _opened(self) -> Store:
        if self.store is None:
            raise StoreError("no store is open: call index() first, or FreeRet.load(store)")
        return self.store

    def _fitted(self, store: Store) -> Geometry:
        """The geometry, kept until the store changes."""
        kept = self._kept
        if kept is None or kept[0] != store.version:
            kept = self._kept = (store.version, self._geometry(store))
        return kept[1]

    def _encode_examples(self, examples: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Raw vectors of example queries by signature."""
        items = as_items(examples)
        signatures = [item.signature for item in items]
        for signature, count in Counter(signatures).items():
            if count == 1:
                raise BadSetting(f"one example of {signature} alone has no mean; give two or more")
        raw = self.embedder.encode_query(items)
        return {
            signature: raw[torch.tensor([s == signature for s in signatures])]
            for signature in dict.fromkeys(signatures)
        }

    def _documents(self, geometry: Geometry, selection: Selection, queries: int) -> Iterable[Block]:
        """What a search passes over: blocks kept in memory until the store changes, or a stream of
        them when they do not fit."""
        store, held = self._opened(), self._held
        if COPIES * 4 * store.dimension * len(store) > self.memory * 2**30:
            rows = self._rows(queries)
            if selection.filter is None and approximate.current(store) is not None:
                return approximate.scan_index(store, rows, selection)
            return scan(store, geometry, rows, selection)
        if held is None or held[0] != store.version:
            held = self._held = (store.version, in_geometry(store.vectors(), geometry))
        return [apply_filter(part, selection) for part in held[1]]

    def _signatures(
        self, store: Store, geometry: Geometry, selection: Selection
    ) -> list[str] | list[None]:
        """The signatures that the approximate index is asked for one by one; [None] for all."""
        if not geometry.scales and not selection.kinds:
            return [None]
        names = geometry.scales or store.signatures()
        return [name for name in names if selection.takes_signature(name)]

    def _approximate(
        self,
        store: Store,
        geometry: Geometry,
        query: torch.Tensor,
        top_n: int,
        signatures: Iterable[str | None],
    ) -> list[tuple[str, float]]:
        """What the approximate index proposes of these signatures, scored exactly."""
        blocks = [
            approximate.ann_candidates(store, query[0], top_n, signature=s) for s in signatures
        ]
        return top_k(blocks, query, top_n, geometry.calibration(query))[0]

    def _rows(self, queries: int) -> int:
        return block_rows(self._opened().dimension, queries, self.memory * 2**30)

    def _geometry(self, store: Store) -> Geometry:
        """The recipe's geometry, fitted on everything stored and kept beside it."""
        kept = store.geometry()
        if kept is not None and Recipe.from_json(store.recipe()) == self.recipe:
            return kept
        geometry = fit_geometry(self.recipe.geometry, store, self.reference)
        store.keep_geometry(geometry, self.recipe.to_json())
        return geometry


def _as_queries(values: Any) -> list[Item]:
    """Read queries. Messages call those without id by their place."""
    queries = list(several(values))
    names = ["the query"] if len(queries) == 1 else [f"query {i}" for i in range(len(queries))]
    return [as_item(query, place=name) for query, name in zip(queries, names, strict=True)]
