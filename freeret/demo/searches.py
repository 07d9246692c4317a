"""The demo's pictures: scenes and clips in one store beside the passages, and what finds them."""

from collections.abc import Sequence

import numpy as np

from freeret.demo.page import Gallery, Search
from freeret.evaluate.datasets import Dataset
from freeret.evaluate.scenes import make_ground
from freeret.retriever import FreeRet
from probes import Item
from probes.stats import Interval, mean_interval

SEARCHES: dict[str, tuple[str, str]] = {
    "A caption, looking for its picture": ("captions", "pictures"),
    "A picture, looking for another rendering of its scene": ("renderings", "pictures"),
    "A picture and a change, looking for the changed picture": ("changes", "changed"),
    "A caption, looking for its clip": ("clip captions", "clips"),
}
"""The set that asks and the set that answers."""
QUESTIONS = "A question, looking for its passage"
SIZE, SHOWN, HITS = 24, 5, 5


def search_everything(
    retriever: FreeRet, corpus: Dataset
) -> list[tuple[Gallery, Interval, Interval]]:
    """Index passages, pictures and clips together, and search them without examples.

    Returns:
        For each kind of search its gallery, the share of right answers found first, and the share
        among the first HITS. A backbone that reads text only has the questions alone.
    """
    passages = list(corpus.documents)
    asked = {QUESTIONS: corpus.queries}
    right = {QUESTIONS: [next(iter(corpus.judgements[q.id or ""])) for q in corpus.queries]}
    if retriever.backbone.sees:
        items = make_ground(seed=0, size=SIZE).items
        for title, (asking, searched) in SEARCHES.items():
            asked[title] = items[asking]
            right[title] = [item.id or "" for item in items[searched]][: len(items[asking])]
        passages += [i for s in dict.fromkeys(s for _, s in SEARCHES.values()) for i in items[s]]
    retriever.index(passages)
    return [_search(retriever, title, asked[title], right[title]) for title in asked]


def _search(
    retriever: FreeRet, title: str, queries: Sequence[Item], right: Sequence[str]
) -> tuple[Gallery, Interval, Interval]:
    found = retriever.search_many(queries, top_n=HITS)
    hits_of = list(zip(found, right, strict=True))
    first = np.array([hits[0].id == id for hits, id in hits_of])
    among = np.array([any(hit.id == id for hit in hits) for hits, id in hits_of])
    shown = zip(queries[:SHOWN], found, right, strict=False)
    searches = [Search(query, hits, frozenset([id])) for query, hits, id in shown]
    return Gallery(title, searches), mean_interval(first), mean_interval(among)
