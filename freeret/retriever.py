"""FreeRet: the whole method on one page. Index, search, rerank, answer, with one model.

r = FreeRet(Backbone.load("smollm2-135m"))
r.index(["a text", "another"], store="my-store")
hits = r.search("a question", top_n=50, rerank=10)
print(r.answer("a question").text)
"""

import itertools
import tempfile
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit

from freeret.ann import Recall, build_index, measure_recall, propose
from freeret.embedder import Embedder
from freeret.indexing import Indexed, fit_geometry, index_items
from freeret.recipe import Recipe
from freeret.reports import cached_report
from freeret.reranker import Reranker
from freeret.store import Loaded, Store
from probes import Backbone, Geometry, Item, as_item
from probes.errors import StoreError
from probes.prompts import Prompted

Filter = Mapping[str, Any] | Callable[[Mapping[str, Any]], bool]
"""Metadata that hits must have (a list means any of its values), or a function of the metadata."""

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
    """A retriever over one store. Without a recipe, the backbone's own report decides."""

    def __init__(self, backbone: Backbone, recipe: Recipe | None = None, *, progress: bool = False):
        self.backbone, self.progress = backbone, progress
        self.recipe = recipe or Recipe.from_report(cached_report(backbone, progress=progress))
        self.embedder = Embedder.from_recipe(backbone, self.recipe)
        self.store: Store | None = None
        self._reranker: Reranker | None = None
        self._mapped: tuple[int, Loaded, Geometry, torch.Tensor] | None = None

    @classmethod
    def load(
        cls, store: str | Path, backbone: Backbone | None = None, *, progress: bool = False
    ) -> "FreeRet":
        """Open a store with the recipe it was made with; the backbone is loaded by its name
        unless given. Raises StoreError, StoreMismatch."""
        opened = Store.open(store)
        recipe = Recipe.from_json(opened.recipe(), str(store))
        backbone = backbone or Backbone.load(opened.identity["backbone"]["model"])
        retriever = cls(backbone, recipe, progress=progress)
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
        self, items: Iterable[Any], store: str | Path | None = None, *, on_error: str = "raise"
    ) -> Indexed:
        """Embed and store items; those already stored unchanged are not embedded again.

        Without `store` the store opened before is used, or a temporary one. Killed at any moment,
        the same call goes on where it stopped. `on_error="skip"` reports bad items instead of
        raising BadItem.
        """
        if store is None and self.store is None:
            store = tempfile.mkdtemp(prefix="freeret-")
        if store is not None:
            self.store = Store.create(store, self.identity(), self.embedder.dimension)
        opened = self._opened()
        done = index_items(opened, self.embedder, items, on_error=on_error, progress=self.progress)
        self._geometry(opened)
        return done

    def delete(self, ids: str | Sequence[str]) -> int:
        """Remove one item or several by id; returns how many were there."""
        return self._opened().delete([ids] if isinstance(ids, str) else ids)

    def save(self, location: str | Path) -> None:
        """Copy the store to another place, such as a temporary one to a lasting one."""
        copy = Store.create(location, self.identity(), self.embedder.dimension)
        copy.take(self._opened())
        self.store, self._mapped = copy, None

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
        asked = as_item(query)
        loaded, geometry, documents = self._load()
        raw = self.embedder.encode_query([asked])
        mapped = geometry.map(raw, [asked.signature], "query")[0]
        allowed = None
        if filter:
            allowed = [i for i, facts in enumerate(loaded.metadata) if _passes(facts, filter)]
        elif ann:
            proposed = propose(self._opened(), mapped, top_n)
            allowed = sorted(bisect_left(loaded.ids, id) for id in proposed)
        best = _top(documents, mapped, top_n, allowed)
        items = self._opened().items([loaded.ids[i] for i in best])
        hits = [
            Hit(item.id or "", score, score, None, item)
            for score, item in zip(best.values(), items, strict=True)
        ]
        return self._rerank(asked, hits, rerank) if rerank and hits else hits

    def build_ann(self) -> Recall:
        """Build LanceDB's approximate index and measure its recall against exact search."""
        loaded, _, documents = self._load()
        build_index(self._opened(), loaded.ids, documents)
        return measure_recall(self._opened(), loaded.ids, documents)

    def _rerank(self, query: Item, hits: list[Hit], count: int) -> list[Hit]:
        if self.recipe.frame is None:
            warnings.warn(f"not reranked. {self.recipe.reasons[-1]}", stacklevel=3)
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

    def _load(self) -> tuple[Loaded, Geometry, torch.Tensor]:
        """Vectors in their geometry, kept until the store changes."""
        store = self._opened()
        if self._mapped is None or self._mapped[0] != store.version:
            loaded = store.vectors()
            geometry = self._geometry(store)
            documents = geometry.map(loaded.vectors, loaded.signatures, "document")
            self._mapped = (store.version, loaded, geometry, documents)
        return self._mapped[1:]

    def _geometry(self, store: Store) -> Geometry:
        """The recipe's geometry, fitted on everything stored and kept beside it."""
        kept = store.geometry()
        if kept is not None and Recipe.from_json(store.recipe()) == self.recipe:
            return kept
        geometry = fit_geometry(self.recipe.geometry, store, self.embedder)
        store.save_geometry(geometry, self.recipe.to_json())
        return geometry


def fuse(stage1: Sequence[float], margins: np.ndarray, weight: float | None) -> np.ndarray:
    """Standardised stage-1 scores + weight · log-odds; None means the log-odds alone."""
    if weight is None:
        return np.asarray(margins)
    spread = np.std(stage1)
    standard = (np.asarray(stage1) - np.mean(stage1)) / (spread if spread > 0 else 1.0)
    return standard + weight * margins


def _passes(metadata: Mapping[str, Any], wanted: Filter) -> bool:
    if callable(wanted):
        return bool(wanted(metadata))
    return all(
        key in metadata and metadata[key] in (value if isinstance(value, list) else [value])
        for key, value in wanted.items()
    )


def _top(
    documents: torch.Tensor, query: torch.Tensor, count: int, allowed: list[int] | None
) -> dict[int, float]:
    """The best rows with their scores. Rows are sorted by id, so a lower index wins a tie; equal
    vectors must tie exactly, so what is close to the cut is summed again row by row in float64."""
    pool = torch.arange(len(documents)) if allowed is None else torch.tensor(allowed).long()
    if len(pool) == 0 or count < 1:
        return {}
    scores = (documents if allowed is None else documents[pool]) @ query
    threshold = scores.topk(min(count, len(pool))).values[-1] - 1e-5
    kept = pool[scores >= threshold]
    exact = (documents[kept].double() * query.double()).sum(1)
    best = exact.sort(descending=True, stable=True).indices[:count]
    return {int(kept[i]): float(exact[i]) for i in best}
