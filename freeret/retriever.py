"""FreeRet: the whole method on one page. Index, search, rerank, answer, with one model.

r = FreeRet(Backbone.load("smollm2-135m"))
r.index(["a text", "another"], store="my-store")
hits = r.search("a question", top_n=50, rerank=10)
print(r.answer("a question").text)

Stage 1 embeds an item by the hidden state at the recipe's site (in the paper, before the last MLP;
`freeret.embedder`), and ranks by cosine in the geometry of the corpus (`freeret.search.corpus`).
Stage 2 reranks the first hits by p(match), the model's own answer to a question about query and
candidate (`freeret.reranker`). What each stage reads and asks is a `Recipe`. The method is that of
arXiv 2509.24621.
"""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from jaxtyping import Float
from torch import Tensor

from freeret.embedder import Embedder
from freeret.hits import Answer, Hits, answer_prompt, fused, to_judge
from freeret.recipe import Recipe
from freeret.reports import recipe_for
from freeret.reranker import Reranker
from freeret.scale import Engine
from freeret.search import MEMORY, Index, Lexicality
from freeret.search.ann import Recall
from freeret.search.corpus import Corpus
from freeret.search.geometry import example_vectors
from freeret.sources.counting import count_items
from freeret.sources.queries import as_queries
from freeret.store.filters import Filter, Selection
from freeret.store.identity import store_identity
from freeret.store.indexing import Feed, Indexed, index_items
from freeret.store.recorded import reopen_backbone, require_for_search
from freeret.store.table import Store
from probes import Backbone, Item, Loading
from probes.arguments import check_choice, check_count
from probes.errors import BadSetting, StoreError
from probes.files import temporary_folder

log = logging.getLogger(__name__)


class FreeRet:
    """A retriever over one store.

    Args:
        backbone: The model that embeds, reranks and answers, or what `Backbone.load` takes: an
            alias, a folder or a hub id.
        recipe: Prompt, site, geometry and frame; by default what the probe report of the backbone
            supports.
        progress: Whether to show progress bars.
        memory: RAM budget in GiB for the stored vectors. Loading briefly needs three times their
            size; a store that exceeds the budget is scanned from disk in blocks.
        examples: Unlabelled example queries. Queries are centred on the mean of the examples of
            their modality, instead of on that of the corpus or of the reference items; a modality
            needs at least two.
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
        self._examples = example_vectors(self.embedder, examples)
        self._corpus: Corpus | None = None
        self._location: str | Path | None = None
        """Location of the last `index` call; kept after a failure, so that a retry goes there."""

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

        A backbone whose dtype or attention implementation was set explicitly, in `loading` or when
        it was loaded, may differ from the store's in these two: this warns, and such a retriever
        cannot add items.

        Args:
            store: Folder or object-store URL.
            backbone: A loaded backbone, or where the store's backbone is now; by default it is
                loaded by the name that the store records. Other arguments are those of `FreeRet`.
            loading: Settings in place of those that the store records.

        Raises:
            StoreError: There is no readable store.
            StoreMismatch: The backbone differs from the one that made the store.
        """
        opened = Store.open(store)
        recipe = Recipe.from_json(opened.recipe(), str(store))
        if not isinstance(backbone, Backbone):
            backbone = reopen_backbone(opened, backbone, loading or Loading())
        elif loading is not None:
            raise BadSetting("loading is for a backbone that is not loaded yet; give its name")
        retriever = cls(backbone, recipe, progress=progress, memory=memory, examples=examples)
        require_for_search(opened, store_identity(retriever.embedder, recipe), backbone)
        retriever.store = opened
        return retriever

    @property
    def store(self) -> Store | None:
        """The open store, or None."""
        return None if self._corpus is None else self._corpus.store

    @store.setter
    def store(self, store: Store | None) -> None:
        self._corpus = None
        if store is not None:
            self._corpus = Corpus(
                store, self.embedder, self.recipe,
                memory=self.memory, examples=self._examples, progress=self.progress,
            )  # fmt: skip

    @property
    def corpus(self) -> Corpus:
        """The open store in the geometry of the recipe. Raises StoreError when none is open."""
        if self._corpus is None:
            raise StoreError("no store is open: call index() first, or FreeRet.load(store)")
        return self._corpus

    def __len__(self) -> int:
        """The number of stored items; 0 before a store is open."""
        return 0 if self.store is None else len(self.store)

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
        """Embed and upsert items. Idempotent: unchanged items are not embedded again, and after a
        kill the same call resumes where it stopped.

        Args:
            items: A list or stream of any accepted forms; a lone item is a list of one. A path, or
                `freeret.sources.files.Files`, stands for everything in the file or folder.
            store: Folder or object-store URL; by default the open store, or else a temporary one,
                which is removed with this retriever (`save` copies it to a lasting place).
            on_error: "raise", or "skip" to report bad items and go on.
            prune: Remove items that came from the same files and folders and are no longer there.
            shards: `k/n` indexes only that part of the items, while other processes index the
                others. `fit()` after all of them, or else the first search, fits the geometry.
            engine: "ray" spreads the work over actors of Ray (`freeret.scale.ray`). Each
                loads the model with the settings given here, and picks the rest for its own device.
            num_actors: Number of actors; by default one per GPU, or one per node without GPUs.
            address: A running Ray cluster; by default Ray is started on this machine.

        Returns:
            Counts of added, replaced and unchanged items, and the skipped ones with reasons.

        Raises:
            BadItem: An item cannot be read, and `on_error` is "raise". Items that are embedded
                already stay.
            StoreError: The store cannot be written.
            StoreMismatch: The store was made with other settings; or an actor chose a different
                dtype: load the backbone with an explicit dtype.
        """
        check_choice("engine", engine, get_args(Engine))
        feed = Feed.of(items, on_error, prune, shards)
        if store is None and self.store is None:
            store = self._location or temporary_folder(self)
        created = store is not None and feed.shard is None and not Store.exists(store)
        identity = store_identity(self.embedder, self.recipe)
        if store is not None:
            self.store = Store.create(store, identity, self.embedder.dimension)
            self._location = store
        else:  # a store opened in another dtype is read-only: check before writing
            self.corpus.store.require(identity)
        opened = self.corpus.store
        try:
            if engine == "ray":
                from freeret.scale.ray import Cluster, index_with_ray, opening_like

                done = index_with_ray(
                    opening_like(opened, self.backbone, self.recipe), feed.stream,
                    Cluster(num_actors, address), on_error=on_error, progress=self.progress,
                )  # fmt: skip
                opened.refresh()
            else:
                total = count_items(feed.stream) if self.progress else None
                done = index_items(
                    opened, self.embedder, enumerate(feed.stream),
                    on_error=on_error, progress=self.progress, total=total,
                )  # fmt: skip
        except BaseException:
            # A shard leaves its store alone: the processes of other shards may be about to write.
            if created and opened.remove_if_empty():
                self.store = None
            raise
        feed.finish(done, opened)
        if feed.shard is None:
            self.fit()
        return done

    def fit(self) -> None:
        """Compact the store and fit its geometry, as `index` does, except for a shard."""
        self.corpus.fit()

    def delete(self, ids: str | Sequence[str] = (), *, filter: Filter | None = None) -> int:
        """Remove items by their ids or by a filter, as in `search`; returns how many there were."""
        ids = [ids] if isinstance(ids, str) else list(ids)
        if filter is None:
            return self.corpus.store.delete(ids)
        if ids:
            raise BadSetting("name the items to delete by their ids or by a filter, not by both")
        store = self.corpus.store
        return store.delete(store.selected(Selection.of(filter)))

    def save(self, location: str | Path) -> None:
        """Copy the store, for example to a lasting place, and use the copy from now on."""
        source = self.corpus.store
        identity = {**source.identity, "recipe": self.recipe.to_json()}
        copy = Store.create(location, identity, self.embedder.dimension)
        copy.take(source)
        self.store = copy

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
        lexical: Lexicality = "auto",
    ) -> Hits:
        """The best items for one query. Exact search over float32 vectors; ties break by id.

        Args:
            query: Anything that `as_item` reads.
            top_n: The number of hits.
            rerank: The number of first hits that stage 2 reranks. Where the recipe has no frame
                this is logged as a warning, and the order of stage 1 stays.
            filter: Metadata that hits must have, or a function of the metadata.
            ann: Score only the candidates of the approximate index (see `build_ann`); a filtered
                search is always exact.
            task: Task prior of the query, a key of `probes.prompts.TASKS` or free text, instead of
                the recipe's. Documents stay as they were indexed.
            kinds: Search only items that hold at least one of these: `text`, `image`, `video`,
                `audio`. A picture with a caption holds an image and a text. Scores stay the same.
            lexical: Whether the words of the query are searched for too (`freeret.search.hybrid`):
                "auto" where the recipe gives them a weight, "on" always, or "off" never.

        Returns:
            Hits, best first.

        Raises:
            BadItem: The query cannot be read.
            BadSetting: `task` is given and the recipe's prompt states no task; `filter` is no
                filter, or one of `kinds` is no kind.
            StoreError: `lexical` is "on", and the store was made before stores kept words.
        """
        [hits] = self.search_many(
            [query], top_n, rerank, filter, ann=ann, task=task, kinds=kinds, lexical=lexical
        )
        return hits

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
        lexical: Lexicality = "auto",
        raw: Float[Tensor, "queries hidden"] | None = None,
    ) -> list[Hits]:
        """`search` for many queries at once, with its arguments, in one pass over the store.

        Args:
            queries: A list of anything that `as_item` reads; a lone query is a list of one.
            raw: Raw vectors of the queries, where the embedder has encoded them already.

        Returns:
            Hits of each query, best first.
        """
        check_count("top_n", top_n)
        check_count("rerank", rerank, least=0)
        items, selection, corpus = as_queries(queries), Selection.of(filter, kinds), self.corpus
        embedder, signatures = self.embedder.for_task(task), [item.signature for item in items]
        if raw is None:
            raw = embedder.encode_query(items)
        read = functools.partial(embedder.words, side="query")
        words = corpus.words_asked(items, read, selection) if corpus.weight(lexical) else ()
        hits = corpus.search(
            raw, signatures, top_n, selection, words=words, lexical=lexical, approximate=ann
        )
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

        The item itself is not among the hits; the other arguments are those of `search`. Raises
        NotStored.
        """
        check_count("top_n", top_n)
        return self.corpus.similar(id, top_n, Selection.of(filter, kinds))

    def build_ann(self, kind: Index = "hnsw") -> Recall:
        """Build LanceDB's approximate index over everything stored.

        Args:
            kind: `hnsw` or `pq` (see `freeret.search.ann`).

        Returns:
            Its recall, measured against exact search.

        Raises:
            StoreError: There are too few items, or the store cannot be written.
        """
        return self.corpus.build_ann(kind)

    def _rerank(self, query: Item, hits: Hits, count: int) -> Hits:
        if self.recipe.frame is None:
            log.warning("not reranked: %s", self.recipe.why_not_reranked)
            return hits
        pairs = [(query, hit.item) for hit in to_judge(hits, count, self.recipe.cascade)]
        margins = self.reranker.margins(pairs, progress=self.progress)
        return fused(hits, margins, self.recipe.fusion)

    @functools.cached_property
    def reranker(self) -> Reranker:
        """Stage 2. Raises UnsupportedBackbone where the recipe has none."""
        return Reranker.from_recipe(self.backbone, self.recipe)

    def answer(
        self,
        question: str,
        top_n: int = 5,
        *,
        rerank: int = 0,
        filter: Filter | None = None,
        task: str | None = None,
        kinds: str | Sequence[str] | None = None,
        lexical: Lexicality = "auto",
        max_new_tokens: int = 128,
    ) -> Answer:
        """Retrieve as `search` does, then generate from the hits with the same weights.

        Args:
            question: The question; the other arguments are those of `search`.
            top_n: The number of hits that the model is given.
            max_new_tokens: The longest answer, in tokens.

        Returns:
            The text, and the hits as its sources.

        Raises:
            StoreError: Nothing stored passes filter and kinds.
        """
        check_count("top_n", top_n)
        check_count("max_new_tokens", max_new_tokens)
        hits = self.search(
            question, max(top_n, rerank), rerank, filter, task=task, kinds=kinds, lexical=lexical
        )[:top_n]
        return Answer(self.backbone.generate(answer_prompt(question, hits), max_new_tokens), hits)
