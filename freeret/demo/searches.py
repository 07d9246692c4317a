"""Searches with known answers: the demo's queries, in chunks under one bar, and their ranks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from freeret.evaluate.rankings import Run
from freeret.hits import Hit
from freeret.retriever import FreeRet
from probes import Item
from probes.stats import Interval, mean_interval

SHOWN = 5
"""Hits of a search that the page shows."""
CHUNK = 24
"""Items that are embedded between two updates of the bar."""


@dataclass(frozen=True)
class Search:
    """A query, the item that answers it, and all hits in order."""

    query: Item
    right: Item
    hits: Sequence[Hit]

    @property
    def rank(self) -> int | None:
        """Rank of the right answer, from 1; None if it is not among the hits."""
        ids = [hit.id for hit in self.hits]
        return ids.index(self.right.id) + 1 if self.right.id in ids else None


@dataclass(frozen=True)
class Searches:
    """Searches of one kind under a title."""

    title: str
    searches: Sequence[Search]

    def among(self, first: int) -> Interval:
        """Share of searches whose right answer is among the `first` hits, with its interval."""
        return mean_interval(np.array([(s.rank or first + 1) <= first for s in self.searches]))

    def worked(self) -> "list[Searches]":
        """The first search whose right answer stands first, by itself; empty if there is none."""
        return [Searches(self.title, [search]) for search in self.searches if search.rank == 1][:1]

    def as_run(self) -> Run:
        """Scores of all hits, for the metrics."""
        return {s.query.id or "": {hit.id: hit.score for hit in s.hits} for s in self.searches}


def index(retriever: FreeRet, items: Sequence[Item], store: Path | None = None) -> None:
    """Index items under one bar; items that are stored already are not embedded again."""
    for chunk in _chunks(items, "indexing"):
        retriever.index(chunk, store)


def ask(
    retriever: FreeRet,
    title: str,
    queries: Sequence[Item],
    answers: Sequence[Item],
    kinds: str | None = None,
) -> Searches:
    """Search for every query; `answers` holds their right answers in the same order."""
    depth = len(retriever.store or ())
    chunks = _chunks(queries, "searching")
    hits = [
        ranked for chunk in chunks for ranked in retriever.search_many(chunk, depth, kinds=kinds)
    ]
    triples = zip(queries, answers, hits, strict=False)
    return Searches(title, [Search(query, right, ranked) for query, right, ranked in triples])


def _chunks(items: Sequence[Item], title: str) -> Iterator[Sequence[Item]]:
    with tqdm(total=len(items), desc=title, unit="item") as bar:
        for start in range(0, len(items), CHUNK):
            yield items[start : start + CHUNK]
            bar.update(len(items[start : start + CHUNK]))
