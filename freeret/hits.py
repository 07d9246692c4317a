"""Hits in order, their fusion with stage 2, and answers with their sources.

A list of hits is a list; in a notebook it shows thumbnails, in a terminal a line per hit.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, SupportsIndex, overload

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from probes.display import data_frame, shortened
from probes.errors import StoreError
from probes.items import Item, as_item
from probes.measure.fusion import fuse, undecided
from probes.prompts import Prompted

if TYPE_CHECKING:
    from pandas import DataFrame

ANSWER = "Answer the question from the sources alone. Name the source you used, such as [1]."
SHOWN = 20
"""Hits of a list that a terminal or a notebook shows."""


@dataclass(frozen=True)
class Legs:
    """The scores and ranks of a hit in both legs of a hybrid search."""

    cosine: float
    """In the store's geometry, on one scale for all modalities."""
    cosine_rank: int | None
    """From 1; None for a hit that is not among the nearest items, and was found by its words."""
    bm25: float
    """0 where no word of the query is among those of the item."""
    bm25_rank: int | None
    """From 1; None for a hit that was found by its vector."""

    def __str__(self) -> str:
        """Both legs in words, such as `cosine 0.412 (rank 3), BM25 7.1 (rank 1)`."""
        ranks = [f" (rank {r})" if r else "" for r in (self.cosine_rank, self.bm25_rank)]
        return f"cosine {self.cosine:.3f}{ranks[0]}, BM25 {self.bm25:.1f}{ranks[1]}"


@dataclass(frozen=True)
class Hit:
    """One result. `score` orders the list: reranked hits score above 1 and above all others, which
    score as in stage 1."""

    id: str
    score: float
    stage1_score: float
    """Cosine in the store's geometry, on one scale for all modalities; in a hybrid search the
    standardised cosine plus the weighted BM25 score (`freeret.search.hybrid`)."""
    stage2_score: float | None
    """p(match), or None when the hit was not reranked."""
    item: Item
    words: tuple[str, ...] = ()
    """The content words that the model reads in the media of the item, the most likely first:
    lexical search finds it by them. None for texts, and in a store of an earlier version."""
    legs: Legs | None = None
    """How each leg scores the hit; None when the search had no lexical leg."""

    def _repr_html_(self) -> str:
        return Hits([self])._repr_html_()


class Hits(list[Hit]):
    """Hits, best first: a list that shows itself."""

    @overload
    def __getitem__(self, index: SupportsIndex) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> "Hits": ...
    def __getitem__(self, index: SupportsIndex | slice) -> "Hit | Hits":
        found = super().__getitem__(index)
        return Hits(found) if isinstance(index, slice) else found  # pyright: ignore

    def __repr__(self) -> str:
        lines = [
            f"{rank:>3}  {hit.score:.3f}  {shortened(hit.id, 30)}  {shortened(str(hit.item))}"
            for rank, hit in enumerate(self[:SHOWN], start=1)
        ]
        more = [f"… and {len(self) - SHOWN} more"] if len(self) > SHOWN else []
        return "\n".join([f"{len(self)} hit{'s' * (len(self) != 1)}", *lines, *more])

    def _repr_html_(self) -> str:
        from freeret.pages.items import hit_cards
        from freeret.pages.render import part
        from freeret.pages.thumbnails import NOTEBOOK_SIDE

        cards = hit_cards(self[:SHOWN], NOTEBOOK_SIDE)
        return part("pages/items.html", "hits", cards, len(self) - len(cards))

    def to_dataframe(self) -> "DataFrame":
        """One row per hit: rank, id, scores, text, signature, and each key of the metadata as a
        column `metadata.KEY`.

        Raises:
            BadSetting: pandas is not installed.
        """
        return data_frame(
            {
                "rank": rank,
                "id": hit.id,
                "score": hit.score,
                "stage1_score": hit.stage1_score,
                "stage2_score": hit.stage2_score,
                "bm25": hit.legs and hit.legs.bm25,
                "text": hit.item.text,
                "words": " ".join(hit.words),
                "signature": hit.item.signature,
                **{f"metadata.{key}": value for key, value in hit.item.metadata.items()},
            }
            for rank, hit in enumerate(self, start=1)
        )


@dataclass(frozen=True)
class Answer:
    """Generated text and the hits it was given, in the order of their numbers [1], [2], …"""

    text: str
    sources: list[Hit] = field(repr=False)

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        from freeret.pages.items import hit_cards
        from freeret.pages.render import part
        from freeret.pages.thumbnails import NOTEBOOK_SIDE

        return part("pages/items.html", "answer", self.text, hit_cards(self.sources, NOTEBOOK_SIDE))


def to_judge(hits: Sequence[Hit], count: int, cascade: float | None) -> Sequence[Hit]:
    """The hits of one query that stage 2 judges: the first `count`, or none of them where the first
    hit is so far ahead that the recipe's cascade leaves the query to stage 1."""
    return hits[:count] if undecided([hit.stage1_score for hit in hits], cascade) else []


def fused(hits: Sequence[Hit], margins: Float[np.ndarray, " judged"], weight: float | None) -> Hits:
    """Both stages together: the first hits ordered by `fuse`, then those that were not judged.

    Args:
        hits: Hits of one query, as stage 1 orders them.
        margins: Log-odds of a match for the first of them, from a `Reranker`.
        weight: The weight of stage 2, or None for its judgement alone.
    """
    head, tail = hits[: len(margins)], hits[len(margins) :]
    if not head:
        return Hits(tail)
    scores = fuse([hit.stage1_score for hit in head], margins, weight)
    floor = max([1.0, *(hit.score for hit in tail)])
    judged = [
        (f, replace(hit, score=floor + float(expit(f)), stage2_score=float(expit(m))))
        for hit, f, m in zip(head, scores, margins, strict=True)
    ]
    # By the fused scores themselves: their sigmoids may be equal.
    judged.sort(key=lambda pair: (-pair[0], -pair[1].stage1_score, pair[1].id))
    ranked = [hit for _, hit in judged]
    return Hits([*ranked, *tail])


def words_of_media(item: Item, words: str) -> tuple[str, ...]:
    """The words of the media of an item, each once.

    Args:
        words: What lexical search reads of it: its text, and the repeated words of its media.
    """
    return tuple(dict.fromkeys(words.removeprefix(item.text).split())) if item.media else ()


def answer_prompt(question: str, hits: Sequence[Hit]) -> Prompted:
    """Ask the model to answer from the hits, as numbered sources.

    Raises:
        StoreError: There are no hits.
    """
    if not hits:
        raise StoreError(
            "nothing to answer from: the store is empty, or nothing in it passes filter and kinds"
        )
    sources = itertools.chain.from_iterable(
        (f"\n[{number}] ", *hit.item.parts) for number, hit in enumerate(hits, start=1)
    )
    parts = as_item(question).parts
    return Prompted(user=(f"{ANSWER}\n\nQuestion: ", *parts, "\n\nSources:", *sources))
