"""Service: the operations of the retriever for many callers, with the model behind the worker.

Long requests are processed in slices, so that other requests get their turn in between.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from freeret.embedder import not_finite
from freeret.hits import Hit, Hits, answer_prompt, fused, to_judge
from freeret.retriever import FreeRet
from freeret.search import Lexicality
from freeret.serve.worker import Worker
from freeret.store.filters import Selection
from freeret.store.hints import why_no_items
from freeret.store.table import Store
from probes import Item
from probes.model.encoding import Row
from probes.prompts import Side

SLICE = 64
"""Inputs of one request that are embedded in one turn."""
PAIRS = 16
"""Pairs of one request that are judged in one turn."""


class _Gone(Exception):
    """The caller has disconnected, which ends the generation."""


class Inputs(NamedTuple):
    """Items of one caller, with their side and task."""

    items: list[Item]
    side: Side
    task: str | None


class Encoded(NamedTuple):
    """Raw vectors `[items, hidden]`, and the number of tokens of their prompts."""

    raw: Tensor
    tokens: int


@dataclass(frozen=True)
class Service:
    """A retriever and its store for many callers at once."""

    retriever: FreeRet
    worker: Worker

    @property
    def store(self) -> Store:
        return self.retriever.corpus.store

    @property
    def model(self) -> str:
        return self.retriever.backbone.name

    @property
    def reads(self) -> list[str]:
        """The modalities that the model reads."""
        return list(self.retriever.backbone.modalities)

    # -- for the event loop --------------------------------------------------------------------

    async def encode(self, items: list[Item], side: Side, task: str | None = None) -> Encoded:
        """Raw vectors of the embedder. Raises BadItem, BadSetting."""
        slices = [
            await self.worker.submit(self._encode, Inputs(items[start : start + SLICE], side, task))
            for start in range(0, len(items), SLICE)
        ]
        return Encoded(torch.cat([s.raw for s in slices]), sum(s.tokens for s in slices))

    async def embed(self, items: list[Item], side: Side, task: str | None = None) -> Encoded:
        """Unit vectors in the store's geometry."""
        raw, tokens = await self.encode(items, side, task)
        signatures = [item.signature for item in items]
        return Encoded(await self.worker.submit(self._map, (raw, signatures, side)), tokens)

    async def search(
        self, query: Item, ranking: "Ranking", rerank: int, task: str | None
    ) -> list[Hit]:
        """As `FreeRet.search`; `rerank` has no effect if the recipe has no second stage."""
        raw, _ = await self.encode([query], "query", task)
        hits = await self.worker.submit(ranking, (query, raw))
        if not rerank or self.retriever.recipe.frame is None:
            return hits
        recipe = self.retriever.recipe
        judged = to_judge(hits, rerank, recipe.cascade)
        margins = await self.margins([(query, hit.item) for hit in judged])
        return fused(hits, margins, recipe.fusion)

    async def why_no_items(self, filter: dict[str, Any] | None, kinds: list[str]) -> str | None:
        """As `freeret.store.hints.why_no_items`."""
        selection = Selection.of(filter, kinds)
        return await self.worker.submit(lambda _: [why_no_items(self.store, selection)], None)

    async def similar(
        self, id: str, top_n: int, filter: dict | None, kinds: list[str]
    ) -> list[Hit]:
        """As `FreeRet.similar`."""

        def work(_: list[None]) -> list[list[Hit]]:
            self.store.refresh()
            return [self.retriever.similar(id, top_n, filter, kinds=kinds)]

        return await self.worker.submit(work, None)

    async def margins(self, pairs: Sequence[tuple[Item, Item]]) -> np.ndarray:
        """As `Reranker.margins`."""

        def work(slices: list[Sequence[tuple[Item, Item]]]) -> list[np.ndarray]:
            return [self.retriever.reranker.margins(s) for s in slices]

        slices = [
            await self.worker.submit(work, pairs[start : start + PAIRS])
            for start in range(0, len(pairs), PAIRS)
        ]
        return np.concatenate(slices) if slices else np.empty(0)

    async def generate(self, question: str, hits: list[Hit], max_tokens: int) -> AsyncIterator[str]:
        """The answer, piece by piece. The generation ends when the caller stops reading."""
        prompt = answer_prompt(question, hits)
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[str | None]()
        gone = threading.Event()

        def on_text(text: str) -> None:
            if gone.is_set():
                raise _Gone
            loop.call_soon_threadsafe(pieces.put_nowait, text)

        def work(_: list[None]) -> list[str]:
            return [self.retriever.backbone.generate(prompt, max_tokens, on_text=on_text)]

        done = asyncio.ensure_future(self.worker.submit(work, None))
        done.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (text := await pieces.get()) is not None:
                yield text
            await done
        finally:
            gone.set()
            done.cancel()

    # -- for the worker ------------------------------------------------------------------------

    def _encode(self, calls: list[Inputs]) -> list[Encoded | Exception]:
        """Encode the items of all callers in one pass; a bad item fails its caller only."""
        outcomes = [_outcome(lambda call=call: self._rows(call)) for call in calls]
        batches = [rows for rows in outcomes if not isinstance(rows, Exception)]
        vectors = self.retriever.embedder.encode_rows([row for rows in batches for row in rows])
        raw = iter(vectors.split([len(rows) for rows in batches]))
        return [
            rows if isinstance(rows, Exception) else _checked(call.items, next(raw), rows)
            for call, rows in zip(calls, outcomes, strict=True)
        ]

    def _rows(self, call: Inputs) -> list[list[Row]]:
        embedder = self.retriever.embedder.for_task(call.task)
        return [embedder.rows(item, call.side) for item in call.items]

    def _map(self, calls: list[tuple[Tensor, list[str], Side]]) -> list[Tensor]:
        self.store.refresh()
        return [
            self.retriever.corpus.geometry_for(signatures).map(raw, signatures, side)
            for raw, signatures, side in calls
        ]


@dataclass(frozen=True)
class Ranking:
    """Exact or approximate search; queries with equal settings share one pass over the store."""

    retriever: FreeRet
    top_n: int
    filter: dict[str, Any] | None
    kinds: tuple[str, ...]
    ann: bool
    lexical: Lexicality = "auto"

    def __call__(self, calls: list[tuple[Item, Tensor]]) -> list[Hits]:
        self.retriever.corpus.store.refresh()
        return self.retriever.search_many(
            [query for query, _ in calls],
            self.top_n,
            filter=self.filter,
            kinds=self.kinds,
            ann=self.ann,
            lexical=self.lexical,
            raw=torch.cat([raw for _, raw in calls]),
        )


def _outcome(function: Callable[[], Any]) -> Any:
    """The return value of a function, or the error that it raises."""
    try:
        return function()
    except Exception as error:
        return error


def _checked(items: list[Item], raw: Tensor, rows: list[list[Row]]) -> Encoded | Exception:
    for error in not_finite(items, raw).values():
        return error
    return Encoded(raw, sum(len(row) for pieces in rows for row in pieces))
