"""Which attention heads know relevance, and a judge made of them.

A language model that answers at chance whether two texts match may still look back, while it reads
a query, at a text that matches it. Let a_h(i, j) be the attention that position i gives to token j
in head h, and let the query of n tokens follow the candidate. Then

    margin = 1/|H| · Σ_{h∈H} 1/n · Σ_i log Σ_{j∈candidate} a_h(i, j)

Attention as a reranker: arXiv 2410.02642; only with the heads that tell relevant texts from others:
arXiv 2510.02219. The rows are those of the likelihood: every position is one that predicts a token
of the query.

Heads are chosen on the project's own texts. A match must get more attention than a near-miss, and
both a paraphrase and a near-miss more than a text on another subject: heads that only pass the
first test may look away from whatever repeats the words of the query.
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

HEADS = 4
"""Number of heads that judge."""
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
    beats_near_miss: Interval
    """Share of queries that attend more to their match than to their near-miss."""
    beats_unrelated: Interval
    """Share of paraphrases and near-misses that their sentence attends to more than to a text on
    another subject."""


@dataclass(frozen=True)
class RelevanceHeads:
    """Every head of a backbone, and the judge of the best ones."""

    heads: list[HeadScore]
    chosen: list[Head]
    """The heads of the judge, the best first."""
    beats_near_miss: Interval
    """As of a head, for the margin of the judge. Each half of the texts is judged by the heads that
    are best on the other half."""
    beats_unrelated: Interval
    """The same."""

    @property
    def judge(self) -> str:
        """The name of the judge, such as `heads[15.7, 17.6]`."""
        return f"heads[{', '.join(map(str, self.chosen))}]"

    @property
    def discriminates(self) -> bool:
        """Whether both intervals of the judge lie above chance, 0.5."""
        return min(self.beats_near_miss.low, self.beats_unrelated.low) > 0.5


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
    """How much a query attends to each candidate, in some heads.

    Args:
        backbone: The model that reads the pairs, up to the deepest of the heads.
        pairs: (query, candidate) pairs.
        heads: The heads, such as `RelevanceHeads.chosen`.
        progress: Title of a progress bar; None shows no bar.

    Returns:
        The margin of each pair, mean log attention in nats, float64. It is at most 0, and 0 for a
        pair of media without text.

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
    """Find the heads that attend to relevant texts, on the project's labelled pairs and sentences.

    Args:
        backbone: The model to measure.
        seed: Seed of the bootstrap intervals, which resample queries and sentences.
        progress: Whether to show a progress bar.

    Returns:
        A score for each head, and the judge of the best ones; NO_HEADS, with a logged warning,
        where the model does not return its attention weights.
    """
    layers = sorted(attention_modules(backbone.model, backbone.anatomy))
    labelled = sorted(matches(), key=lambda row: (row["query"], row["match"]))
    triples = paraphrases()[SENTENCES]
    others = [*triples[1:], triples[0]]
    texts = [(row["query"], row["candidate"]) for row in labelled]
    for column, rows in (("paraphrase", triples), ("near_miss", triples), ("paraphrase", others)):
        texts += [(t["sentence"], row[column]) for t, row in zip(triples, rows, strict=True)]
    asked = [(Item(candidate), Item(query)) for query, candidate in texts]
    try:
        logs = _log_attention(backbone, asked, layers, progress="heads" if progress else None)
    except UnsupportedBackbone as error:
        log.warning("no heads are scored: %s", error)
        return NO_HEADS
    miss, match = logs[: len(labelled) : 2], logs[1 : len(labelled) : 2]
    same, near, other = np.split(logs[len(labelled) :], 3)
    return relevance_of(match - miss, np.stack([same - other, near - other], 1), layers, seed)


def relevance_of(
    near: Float[np.ndarray, "queries layers heads"],
    far: Float[np.ndarray, "sentences both layers heads"],
    layers: Sequence[int],
    seed: int = 0,
) -> RelevanceHeads:
    """Score heads by differences of log attention, and choose the best.

    Args:
        near: That of each query to its match less that to its near-miss.
        far: That of each sentence to its paraphrase, and to its near-miss, less that to a text on
            another subject.
        layers: The layers that these are of.
        seed: Seed of the bootstrap intervals.
    """
    places = [Head(layer, head) for layer in layers for head in range(near.shape[-1])]
    near, far = near.reshape(len(near), -1), far.reshape(*far.shape[:2], -1)
    intervals = (mean_interval(near > 0, seed), mean_interval((far > 0).mean(1), seed))
    scores = [
        HeadScore(*place, *(Interval(*(float(end[i]) for end in ends)) for ends in intervals))
        for i, place in enumerate(places)
    ]
    near_margins, far_margins = np.empty(near.shape[0]), np.empty(far.shape[:2])
    for half in (0, 1):
        best = best_heads(near[1 - half :: 2], far[1 - half :: 2])
        near_margins[half::2] = near[half::2][:, best].mean(-1)
        far_margins[half::2] = far[half::2][..., best].mean(-1)
    return RelevanceHeads(
        scores,
        [places[i] for i in best_heads(near, far)],
        mean_interval(near_margins > 0, seed),
        mean_interval((far_margins > 0).mean(1), seed),
    )


def best_heads(
    near: Float[np.ndarray, "queries heads"], far: Float[np.ndarray, "sentences both heads"]
) -> Int[np.ndarray, " best"]:
    """The HEADS heads whose weaker effect is largest, the best first. An effect is the mean of the
    differences divided by their standard deviation; without any difference it is 0."""
    effects = []
    for differences in (near, far[:, 0], far[:, 1]):
        spread = differences.std(0)
        effects.append(differences.mean(0) / np.where(spread > 0, spread, np.inf))
    return np.argsort(-np.min(effects, axis=0), kind="stable")[:HEADS]


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
