"""Which attention heads know relevance, and a judge made of them.

A language model that answers at chance whether two texts match may still look back, while it reads
a query, at a text that matches it. Let a_h(i, j) be the attention that position i gives to token j
in head h, and let the query of n tokens follow the candidate. Then

    margin = 1/|H| · Σ_{h∈H} 1/n · Σ_i log Σ_{j∈candidate} a_h(i, j)

Attention as a reranker: arXiv 2410.02642; only with the heads that tell relevant texts from others:
arXiv 2510.02219. The rows are those of the likelihood: every position is one that predicts a token
of the query.

Heads are chosen by how much more attention a sentence gives to its paraphrase than to an unrelated
text. Near-misses have no part in the choice: the heads that prefer a match to a near-miss, which
repeats the words of the query, are those that look away from whatever repeats them, and they fail
where the match does.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.data import matches, paraphrases
from probes.errors import UnsupportedBackbone
from probes.items import Item
from probes.measure.judges.likelihood import likelihood_prompt, predicted_row, predicted_text
from probes.model.anatomy import attention_modules
from probes.model.backbone import Backbone
from probes.model.batches.ahead import blockwise
from probes.model.batches.packing import common
from probes.model.batches.run import run_batches
from probes.model.encoding import Batch, Row
from probes.model.trace import record_attention
from probes.stats import Interval, mean_interval

log = logging.getLogger(__name__)

HEADS = 1
"""Number of heads that judge. On SmolLM2-135M the best head prefers 46% of paraphrases to their
near-misses, and the best four together 11%: more heads agree on the subject, not on the meaning."""
SENTENCES = slice(1, 100, 2)
"""The paraphrase triples that heads are chosen on; the gain of reranking is measured on others."""
LEAST = 1e-12
"""Attention below this counts as this much, so that its logarithm is finite."""


class Head(NamedTuple):
    """An attention head; both are counted from 0."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"{self.layer}.{self.head}"


@dataclass(frozen=True)
class HeadScore:
    """How well a head tells relevant texts from others."""

    layer: int
    head: int
    beats_unrelated: Interval
    """Share of sentences that attend more to their paraphrase than to an unrelated text."""
    beats_near_miss: Interval
    """Share of queries that attend more to their match than to their near-miss."""


@dataclass(frozen=True)
class RelevanceHeads:
    """Every head of a backbone, and the judge of the best ones."""

    heads: list[HeadScore]
    chosen: list[Head]
    """The heads of the judge, the best first."""
    beats_unrelated: Interval
    """As of a head, for the margin of the judge. Each half of the sentences is judged by the heads
    that are best on the other half."""
    beats_near_miss: Interval
    """The same. The labelled pairs have no part in the choice."""

    @property
    def judge(self) -> str:
        """The name of the judge, such as `heads[15.7, 17.6]`."""
        return f"heads[{', '.join(map(str, self.chosen))}]"

    @property
    def discriminates(self) -> bool:
        """Whether the judge tells related texts from others: whether its interval lies above
        chance, 0.5."""
        return self.beats_unrelated.low > 0.5


NO_HEADS = RelevanceHeads([], [], Interval(0.5, 0.5, 0.5), Interval(0.5, 0.5, 0.5))
"""Of a backbone without attention weights, and of a report that does not hold this part."""


def heads_named(judge: str) -> list[Head]:
    """The heads of a judge by its name; none for the name of any other judge."""
    if not re.fullmatch(r"heads\[\d+\.\d+(, \d+\.\d+)*\]", judge):
        return []
    return [Head(*map(int, pair)) for pair in re.findall(r"(\d+)\.(\d+)", judge)]


def attention_scores(
    backbone: Backbone,
    pairs: Sequence[tuple[Item, Item]],
    heads: Sequence[Head],
    *,
    progress: str | None = None,
) -> Float[np.ndarray, " pairs"]:
    """How much a query attends to each candidate, in some heads. The model is read up to the
    deepest of them.

    Returns:
        The margin of each (query, candidate) pair, mean log attention in nats, float64. It is at
        most 0, and 0 for a pair of media without text.

    Raises:
        BadItem: An item cannot be read.
        UnsupportedBackbone: The model does not return its attention weights.
    """
    layers = sorted({head.layer for head in heads})
    asked = {i: a for i, pair in enumerate(pairs) if (a := predicted_text(*pair)) is not None}
    margins = np.zeros(len(pairs))
    if asked:
        logs = _log_attention(backbone, list(asked.values()), layers, progress=progress)
        at = [(layers.index(layer), head) for layer, head in heads]
        margins[list(asked)] = np.mean([logs[:, layer, head] for layer, head in at], axis=0)
    return margins


def relevance_heads(backbone: Backbone, *, seed: int = 0, progress: bool = False) -> RelevanceHeads:
    """Find the heads that attend to relevant texts, on the project's sentences and labelled pairs.
    The bootstrap intervals resample sentences and queries.

    Returns:
        A score for each head, and the judge of the best ones; NO_HEADS, with a logged warning,
        where the model does not return its attention weights.
    """
    layers = sorted(attention_modules(backbone.model, backbone.anatomy))
    triples = paraphrases()[SENTENCES]
    labelled = sorted(matches(), key=lambda row: (row["query"], row["match"]))
    texts = [(row["sentence"], row["paraphrase"]) for row in triples]
    others = [*triples[1:], triples[0]]
    texts += [(t["sentence"], o["paraphrase"]) for t, o in zip(triples, others, strict=True)]
    texts += [(row["query"], row["candidate"]) for row in labelled]
    asked = [(Item(candidate), Item(query)) for query, candidate in texts]
    try:
        logs = _log_attention(backbone, asked, layers, progress="heads" if progress else None)
    except UnsupportedBackbone as error:
        log.warning("no heads are scored: %s", error)
        return NO_HEADS
    same, other, pairs = np.split(logs, [len(triples), 2 * len(triples)])
    return relevance_of(same - other, pairs[1::2] - pairs[::2], layers, seed)


def relevance_of(
    unrelated: Float[np.ndarray, "sentences layers heads"],
    near_miss: Float[np.ndarray, "queries layers heads"],
    layers: Sequence[int],
    seed: int = 0,
) -> RelevanceHeads:
    """Score heads by differences of log attention, and choose the best.

    Args:
        unrelated: The log attention of each sentence to its paraphrase less that to an unrelated
            text.
        near_miss: That of each query to its match less that to its near-miss.
        layers: The layers that these are of.
        seed: Seed of the bootstrap intervals.
    """
    places = [Head(layer, head) for layer in layers for head in range(near_miss.shape[-1])]
    unrelated, near_miss = (d.reshape(len(d), -1) for d in (unrelated, near_miss))
    wins = [mean_interval(differences > 0, seed) for differences in (unrelated, near_miss)]
    scores = [
        HeadScore(*place, *(Interval(*(float(end[i]) for end in ends)) for ends in wins))
        for i, place in enumerate(places)
    ]
    held_out = np.empty(len(unrelated))
    for half in (0, 1):
        best = best_heads(unrelated[1 - half :: 2])
        held_out[half::2] = unrelated[half::2][:, best].mean(1)
    chosen = best_heads(unrelated)
    return RelevanceHeads(
        scores,
        [places[i] for i in chosen],
        mean_interval(held_out > 0, seed),
        mean_interval(near_miss[:, chosen].mean(1) > 0, seed),
    )


def best_heads(differences: Float[np.ndarray, "sentences heads"]) -> Int[np.ndarray, " best"]:
    """The HEADS heads of the largest effect, the best first: the mean of the differences divided by
    their standard deviation, and 0 where there is no difference at all."""
    spread = differences.std(0)
    effect = differences.mean(0) / np.where(spread > 0, spread, np.inf)
    return np.argsort(-effect, kind="stable")[:HEADS]


def _log_attention(
    backbone: Backbone,
    asked: Sequence[tuple[Item | None, Item]],
    layers: Sequence[int],
    *,
    progress: str | None = None,
) -> Float[np.ndarray, "asked layers heads"]:
    """The log attention that the positions which predict a text give to what it is predicted from,
    their mean, float64."""
    opening, closing = _around(backbone)

    def of_row(weights: Tensor, start: int, stop: int) -> Tensor:
        given = weights[..., start : max(stop, start + 1)].sum(-1)
        return given.clamp_min(LEAST).log().mean(0).to(backbone.device)

    def forward(batch: Batch) -> list[Tensor]:
        width = batch.inputs["input_ids"].shape[1]
        starts = [width - length + opening for length in batch.lengths]
        stops = [places[0][1] + 1 - closing for places in batch.read]
        by_layer = [
            list(map(of_row, batch.by_row(weights), starts, stops))
            for weights in record_attention(backbone, batch, layers)
        ]
        return [torch.stack(layers) for layers in zip(*by_layer, strict=True)]

    def run(made: list[Sequence[Row]], bar: str | None) -> Tensor:
        rows = [row for (row,) in made]
        logs = run_batches(backbone, rows, forward, share_prefix=False, progress=bar)
        return torch.stack(logs).double().cpu()

    return blockwise(
        backbone, lambda pair: [predicted_row(backbone, pair)], asked, run, progress
    ).numpy()


def _around(backbone: Backbone) -> tuple[int, int]:
    """The numbers of tokens before a candidate, and after it up to the cue of the query."""
    first, second = (backbone.row(likelihood_prompt(Item(text))).ids for text in ("the", "1"))
    return common(first, second), common(first[::-1], second[::-1])
