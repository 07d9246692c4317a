"""Which attention heads know relevance, and a judge made of them.

A language model that answers at chance whether two texts match may still look from a query back to
the text that matches it. In a row "Candidate: … Query: …", let a_h(j) be the attention that the
last token of the query gives to token j in head h. Then

    margin = 1/|H| · Σ_{h∈H} log Σ_{j∈candidate} a_h(j)

Attention as a reranker: arXiv 2410.02642; only with the heads that tell matches from near-misses:
arXiv 2510.02219. Heads are chosen on the project's labelled pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.data import matches
from probes.items import Item
from probes.model.anatomy import attention_modules
from probes.model.backbone import Backbone
from probes.model.batches.ahead import blockwise
from probes.model.batches.packing import common
from probes.model.batches.run import run_batches
from probes.model.encoding import Batch, Row
from probes.model.trace import record_attention
from probes.prompts import Prompted
from probes.stats import Interval, mean_interval

HEADS = 4
"""Number of heads that judge."""
LEAST = 1e-12
"""Attention below this counts as this much, so that its logarithm is finite."""
INSTRUCTION = "Find what matches the query."


class Head(NamedTuple):
    """An attention head; both are counted from 0."""

    layer: int
    head: int


@dataclass(frozen=True)
class HeadScore:
    """How well a head tells matches from near-misses."""

    layer: int
    head: int
    beats_near_miss: Interval
    """Share of queries that attend more to their match than to their near-miss."""


@dataclass(frozen=True)
class RelevanceHeads:
    """Every head of a backbone, and the judge of the best ones."""

    heads: list[HeadScore]
    chosen: list[Head]
    """The heads of the judge, the best first, chosen on all labelled pairs."""
    beats_near_miss: Interval
    """Share of queries whose match has the larger margin. Each half of the queries is judged by the
    heads that are best on the other half."""

    @property
    def discriminates(self) -> bool:
        """Whether the interval of the judge lies above chance, 0.5."""
        return self.beats_near_miss.low > 0.5


def attention_scores(
    backbone: Backbone,
    pairs: Sequence[tuple[Item, Item]],
    heads: Sequence[Head],
    *,
    progress: str | None = None,
) -> Float[np.ndarray, " pairs"]:
    """How much a query attends to each candidate, in some heads.

    Args:
        backbone: The model that reads the pairs, up to the deepest of the heads.
        pairs: (query, candidate) pairs.
        heads: The heads, such as `RelevanceHeads.chosen`.
        progress: Title of a progress bar; None shows no bar.

    Returns:
        The margin of each pair, the mean log attention in nats, float64.

    Raises:
        BadItem: An item cannot be read.
        UnsupportedBackbone: The model does not return its attention weights.
    """
    layers = sorted({head.layer for head in heads})
    logs = log_attention(backbone, pairs, layers, progress=progress)
    at = [(layers.index(layer), head) for layer, head in heads]
    return np.mean([logs[:, layer, head] for layer, head in at], axis=0)


def log_attention(
    backbone: Backbone,
    pairs: Sequence[tuple[Item, Item]],
    layers: Sequence[int],
    *,
    progress: str | None = None,
) -> Float[np.ndarray, "pairs layers heads"]:
    """The logarithm of the attention that the end of each query gives to its candidate, float64."""
    closing = _closing(backbone)

    def make(pair: tuple[Item, Item]) -> list[Row]:
        query, candidate = pair
        return [
            backbone.row(heads_prompt(query, candidate), candidate.name),
            backbone.row(heads_prompt(query), query.name),
        ]

    def forward(batch: Batch) -> list[Tensor]:
        weights = record_attention(backbone, batch, layers, position=-1 - closing)
        return list(torch.stack([layer.cpu() for layer in weights], dim=1))

    def run(made: list[Sequence[Row]], bar: str | None) -> Tensor:
        rows = [row for row, _ in made]
        weights = run_batches(backbone, rows, forward, share_prefix=False, progress=bar)
        logs = [
            attention[..., _candidate(*pair)].sum(-1).double().clamp_min(LEAST).log()
            for attention, pair in zip(weights, made, strict=True)
        ]
        return torch.stack(logs) if logs else torch.empty(0, len(layers), 0).double()

    return blockwise(backbone, make, pairs, run, progress).numpy()


def heads_prompt(query: Item, candidate: Item | None = None) -> Prompted:
    """The exchange that holds a pair, or a query without a candidate."""
    parts = () if candidate is None else candidate.parts
    user = (f"{INSTRUCTION}\n\nCandidate: ", *parts, "\n\nQuery: ", *query.parts)
    return Prompted(user=user)


def _candidate(row: Row, without: Row) -> slice:
    """The place of the candidate, counted from the end: what a row without it lacks."""
    start = common(row.contents, without.contents)
    after = common(row.contents[:start:-1], without.contents[::-1])
    return slice(start - len(row), -after)


def _closing(backbone: Backbone) -> int:
    """The number of tokens that the chat template writes after the query."""
    first, second = (backbone.row(heads_prompt(Item(text))).ids[::-1] for text in ("a", "1"))
    return common(first, second)


def relevance_heads(backbone: Backbone, *, seed: int = 0, progress: bool = False) -> RelevanceHeads:
    """Find the heads that attend more to a match than to a near-miss, on the labelled pairs.

    Args:
        backbone: The model to measure.
        seed: Seed of the bootstrap intervals, which resample queries.
        progress: Whether to show a progress bar.

    Returns:
        A score for each head, and the judge of the best ones.

    Raises:
        UnsupportedBackbone: The model does not return its attention weights.
    """
    layers = sorted(attention_modules(backbone.model, backbone.anatomy))
    rows = sorted(matches(), key=lambda row: (row["query"], row["match"]))
    pairs = [(Item(row["query"]), Item(row["candidate"])) for row in rows]
    logs = log_attention(backbone, pairs, layers, progress="heads" if progress else None)
    real = np.array([row["match"] for row in rows])
    return relevance_of(logs[real] - logs[~real], layers, seed)


def relevance_of(
    differences: Float[np.ndarray, "queries layers heads"], layers: Sequence[int], seed: int = 0
) -> RelevanceHeads:
    """Score heads by the log attention of each query to its match less that to its near-miss."""
    wins = mean_interval(differences > 0, seed)
    scores = [
        HeadScore(layer, head, Interval(*(float(values[place, head]) for values in wins)))
        for place, layer in enumerate(layers)
        for head in range(differences.shape[2])
    ]
    flat = differences.reshape(len(differences), -1)
    judged = np.empty(len(flat))
    for half in (0, 1):
        judged[half::2] = flat[half::2][:, best_heads(flat[1 - half :: 2])].mean(1)
    chosen = [Head(scores[i].layer, scores[i].head) for i in best_heads(flat)]
    return RelevanceHeads(scores, chosen, mean_interval(judged > 0, seed))


def best_heads(
    differences: Float[np.ndarray, "queries heads"],
) -> Int[np.ndarray, " best"]:
    """The HEADS heads whose mean difference is largest for its standard deviation, the best first.
    Heads whose differences do not vary, which see no candidate, come last."""
    spread = differences.std(0)
    effect = np.divide(
        differences.mean(0), spread, out=np.full(spread.shape, -np.inf), where=spread > 0
    )
    return np.argsort(-effect, kind="stable")[:HEADS]
