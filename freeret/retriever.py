"""FreeRet: the whole method on one page. Index, search, rerank, answer, with one model.

r = FreeRet(Backbone.load("smollm2-135m"))
r.index(["a text", "another"], store="my-store")
hits = r.search("a question", top_n=50, rerank=10)
print(r.answer("a question").text)
"""

import itertools
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy.special import expit

from freeret import ann as approximate
from freeret.ann import Recall
from freeret.corpus_geometry import Own, fit_geometry, kept_own, with_queries
from freeret.embedder import Embedder
from freeret.exact import Block, Filter, best, block_rows, passing, stored
from freeret.indexing import Indexed, index_items
from freeret.recipe import Recipe
from freeret.reports import own_recipe
from freeret.reranker import Reranker
from freeret.sharding import Shard
from freeret.store import Loaded, Store
from probes import Backbone, Geometry, Item, as_item
from probes.arguments import check_choice, check_count
from probes.errors import BadSetting, StoreError
from probes.geometry import unit
from probes.prompts import Prompted, Side

Engine = Literal["local", "ray"]
MEMORY = 4.0
"""GiB for vectors in memory."""
COPIES = 3
"""Of all vectors at once, while they are loaded and brought into the geometry."""
ANSWER = "Answer the question from the sources alone. Name the source you used, such as [1]."


@dataclass(frozen=True)
class Hit:
    """One result. `score` orders the list: reranked hits score above 1, others as in stage 1."""

    id: str
    score: float
    stage1_score: float
    """Cosine in the store's geometry."""
    stage2_score: float | None
    """p(match), or None when the hit was not reranked."""
    item: Item


@dataclass(frozen=True)
class Answer:
    """Generated text and the hits it was given, in the order of their numbers [1], [2], …"""

    text: str
    sources: list[Hit] = field(repr=False)


class FreeRet:
    """A retriever over one store. Without a recipe, the backbone's own report decides.

    `memory` is how many GiB the stored vectors may take while they are loaded, which is three times
    what they take then; a search of more reads them from the store block by block.
    """

    def __init__(
        self,
        backbone: Backbone,
        recipe: Recipe | None = None,
        *,
        progress: bool = False,
        memory: float = MEMORY,
    ):
        self.backbone, self.progress, self.memory = backbone, progress, memory
        self.recipe = recipe or own_recipe(backbone, progress=progress)
        self.embedder = Embedder.from_recipe(backbone, self.recipe)
        self.store: Store | None = None
        self._reranker: Reranker | None = None
        self._expected: dict[tuple[Side, str], torch.Tensor] = {}
        self._own: dict[str, torch.Tensor | None] = {}
        """Vectors of the project's own items, by side and signature; None where it has none."""
        self._kept: tuple[int, Geometry] | None = None
        """The geometry, and the version of the store that it is of."""
        self._held: tuple[int, Loaded] | None = None
        """All rows of a version, their vectors in its geometry, where they fit in memory."""

    @classmethod
    def load(
        cls,
        store: str | Path,
        backbone: Backbone | None = None,
        *,
        progress: bool = False,
        memory: float = MEMORY,
    ) -> "FreeRet":
        """Open a store with the recipe it was made with; the backbone is loaded by its name
        unless given. Raises StoreError, StoreMismatch."""
        opened = Store.open(store)
        recipe = Recipe.from_json(opened.recipe(), str(store))
        backbone = backbone or Backbone.load(opened.identity["backbone"]["model"])
        retriever = cls(backbone, recipe, progress=progress, memory=memory)
        opened.require(retriever.identity())
        retriever.store = opened
        return retriever

    def identity(self) -> dict[str, Any]:
        """What the store must have been made with, and the recipe."""
        return {
            "backbone": self.backbone.fingerprint(),
            "embedder": self.embedder.identity(),
            "recipe": self.recipe.to_json(),
        }

    # -- index -------------------------------------------------------------------------------

    def index(
        self,
        items: Iterable[Any],
        store: str | Path | None = None,
        *,
        on_error: str = "raise",
        shards: str | None = None,
        engine: Engine = "local",
        num_actors: int | None = None,
        address: str | None = None,
    ) -> Indexed:
        """Embed and store items; those already stored unchanged are not embedded again.

        Without `store` the store opened before is used, or a temporary one. Killed at any moment,
        the same call goes on where it stopped. `on_error="skip"` reports bad items instead of
        raising BadItem. `shards="k/n"` takes only that part of the items, beside other processes
        that take the others; `index([])` after all of them, or else the first search, fits the
        geometry. `engine="ray"` spreads the work over actors of Ray (`freeret.ray_engine`), here
        or on the cluster at `address`.
        """
        check_choice("engine", engine, ("local", "ray"))
        if store is None and self.store is None:
            store = tempfile.mkdtemp(prefix="freeret-")
        if store is not None:
            self.store = Store.create(store, self.identity(), self.embedder.dimension)
        opened = self._opened()
        shard = Shard.parse(shards) if shards is not None else None
        if shard is not None:
            items = shard.of(items)
        if engine == "ray":
            from freeret.ray_engine import index_with_ray

            done = index_with_ray(
                opened, self.backbone, self.recipe, items, on_error=on_error,
                num_actors=num_actors, address=address, progress=self.progress,
            )  # fmt: skip
            opened.refresh()
        else:
            done = index_items(
                opened, self.embedder, items,
                on_error=on_error, among=shard, progress=self.progress,
            )  # fmt: skip
        if shard is None:
            opened.compact()
            self._geometry(opened)
        return done

    def delete(self, ids: str | Sequence[str]) -> int:
        """Remove one item or several by id; returns how many were there."""
        return self._opened().delete([ids] if isinstance(ids, str) else ids)

    def save(self, location: str | Path) -> None:
        """Copy the store to another place, such as a temporary one to a lasting one."""
        copy = Store.create(location, self.identity(), self.embedder.dimension)
        copy.take(self._opened())
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
    ) -> list[Hit]:
        """The `top_n` best items; the first `rerank` of them judged by the model itself.

        Exact, in float32; ties break by id. With `ann` only what the index of `build_ann` proposes
        is scored; a filtered search is always exact. Where the recipe has no frame, asking for
        reranking warns and stage 1 decides.
        """
        return self.search_many([query], top_n, rerank, filter, ann=ann)[0]

    def expect(self, queries: Sequence[Any]) -> None:
        """Unlabelled examples of what will be asked, from now on.

        Queries of each kind among them are centred on their own mean: a corpus of pictures cannot
        tell how captions look, nor a mixed one how questions differ from its texts, and the
        project's own items only stand for what is asked of any corpus. No examples: the corpus
        and those decide again. Raises BadSetting for a lone example of its kind: it would be its
        own mean, and vanish.
        """
        asked = [as_item(query) for query in queries]
        kinds = [item.signature for item in asked]
        for kind, count in Counter(kinds).items():
            if count == 1:
                raise BadSetting(f"one example of {kind} alone has no mean; give two or more")
        units = unit(self.embedder.encode_query(asked))
        self._expected = {
            ("query", kind): units[torch.tensor([k == kind for k in kinds])].mean(0)
            for kind in dict.fromkeys(kinds)
        }

    def search_many(
        self,
        queries: Sequence[Any],
        top_n: int = 50,
        rerank: int = 0,
        filter: Filter | None = None,
        *,
        ann: bool = False,
    ) -> list[list[Hit]]:
        """`search` for many queries at once: what is stored is passed over once for all."""
        check_count("top_n", top_n)
        check_count("rerank", rerank, least=0)
        asked = [as_item(query) for query in queries]
        opened = self._opened()
        geometry = self._fitted(opened)
        raw, kinds = self.embedder.encode_query(asked), [item.signature for item in asked]
        if geometry.kind != "none":
            geometry = replace(geometry, means={**geometry.means, **self._expected})
            geometry = with_queries(geometry, kinds, self._own_items(opened))
        mapped = geometry.map(raw, kinds, "query")
        if ann and not filter:
            found = [
                best([approximate.propose(opened, one, top_n)], one[None], top_n)[0]
                for one in mapped
            ]
        else:
            found = best(self._documents(geometry, filter, len(asked)), mapped, top_n)
        items = {item.id: item for item in opened.items(sorted({id for f in found for id, _ in f}))}
        hits = [[Hit(id, score, score, None, items[id]) for id, score in f] for f in found]
        if not rerank:
            return hits
        return [self._rerank(q, h, rerank) if h else h for q, h in zip(asked, hits, strict=True)]

    def build_ann(self, kind: approximate.Index = "hnsw") -> Recall:
        """Build LanceDB's approximate index and measure its recall against exact search."""
        opened = self._opened()
        rows = self._rows(1)
        geometry = self._fitted(opened)
        approximate.build_index(opened, lambda: stored(opened, geometry, rows), kind)
        return approximate.measure_recall(opened, rows=rows)

    def _rerank(self, query: Item, hits: list[Hit], count: int) -> list[Hit]:
        if self.recipe.frame is None:
            warnings.warn(f"not reranked. {self.recipe.reasons[-1]}", stacklevel=4)
            return hits
        if self._reranker is None:
            self._reranker = Reranker.from_recipe(self.backbone, self.recipe)
        head, tail = hits[:count], hits[count:]
        margins = self._reranker.margins(
            [(query, hit.item) for hit in head], progress=self.progress
        )
        fused = fuse([hit.stage1_score for hit in head], margins, self.recipe.fusion)
        judged = [
            Hit(hit.id, 1 + float(expit(f)), hit.stage1_score, float(expit(m)), hit.item)
            for hit, f, m in zip(head, fused, margins, strict=True)
        ]
        return sorted(judged, key=lambda hit: (-hit.score, hit.id)) + tail

    # -- answer ------------------------------------------------------------------------------

    def answer(
        self, question: str, top_n: int = 5, *, rerank: int = 0, max_new_tokens: int = 128
    ) -> Answer:
        """Retrieve, then generate from what was found, with the same weights."""
        check_count("top_n", top_n)
        check_count("max_new_tokens", max_new_tokens)
        hits = self.search(question, top_n=max(top_n, rerank), rerank=rerank)[:top_n]
        if not hits:
            raise StoreError(f"store {self._opened().location} is empty: nothing to answer from")
        sources = itertools.chain.from_iterable(
            (f"\n[{number}] ", *hit.item.parts) for number, hit in enumerate(hits, start=1)
        )
        asked = as_item(question).parts
        prompt = Prompted(user=(f"{ANSWER}\n\nQuestion: ", *asked, "\n\nSources:", *sources))
        return Answer(self.backbone.generate(prompt, max_new_tokens), hits)

    # -- plumbing ----------------------------------------------------------------------------

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

    def _own_items(self, store: Store) -> Own:
        return kept_own(store, self.embedder, self._own, progress=self.progress)

    def _documents(
        self, geometry: Geometry, filter: Filter | None, queries: int
    ) -> Iterable[Block]:
        """What a search passes over: one block kept in memory until the store changes, or a stream
        of blocks when it does not fit."""
        store, held = self._opened(), self._held
        if COPIES * 4 * store.dimension * len(store) > self.memory * 2**30:
            rows = self._rows(queries)
            if not filter and approximate.current(store) is not None:
                return approximate.mapped(store, rows)
            return stored(store, geometry, rows, filter)
        if held is None or held[0] != store.version:
            loaded = store.vectors()
            mapped = geometry.map(loaded.vectors, loaded.signatures, "document")
            held = self._held = (store.version, replace(loaded, vectors=mapped))
        return [passing(held[1], filter)]

    def _rows(self, queries: int) -> int:
        return block_rows(self._opened().dimension, queries, self.memory * 2**30)

    def _geometry(self, store: Store) -> Geometry:
        """The recipe's geometry, fitted on everything stored and kept beside it."""
        kept = store.geometry()
        if kept is not None and Recipe.from_json(store.recipe()) == self.recipe:
            return kept
        geometry = fit_geometry(self.recipe.geometry, store, self._own_items(store))
        store.keep_geometry(geometry, self.recipe.to_json())
        return geometry


def fuse(stage1: Sequence[float], margins: np.ndarray, weight: float | None) -> np.ndarray:
    """Standardised stage-1 scores + weight · log-odds; None means the log-odds alone."""
    if weight is None:
        return np.asarray(margins)
    spread = np.std(stage1)
    standard = (np.asarray(stage1) - np.mean(stage1)) / (spread if spread > 0 else 1.0)
    return standard + weight * margins
