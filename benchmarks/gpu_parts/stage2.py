"""Stage 2: pairs per second against whole prompts, with text and with picture queries."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from freeret.reranker import Reranker
from gpu_parts.others import plain_margins, rendered
from gpu_parts.run import (
    OURS,
    Results,
    Run,
    pictures,
    rounds,
    summary,
    texts,
    tower_flops,
    useful_tokens,
)
from probes import FRAMES, as_item
from probes.measure.framing import Labels

FRAME = FRAMES["mcq"]
SIZES = (8, 32)
Pairs = list[list[tuple[Any, Any]]]
"""Pairs of query and candidate, by query."""


def reranking(run: Run) -> Iterator[Results]:
    """Every round has its own queries and candidates: no picture is cached, and batches have shapes
    of their own."""
    made, labels = run.made, Labels.of(run.backbone, FRAME)
    reranker, labelled = Reranker(run.backbone, FRAME), (labels.positive, labels.negative)
    size = next(iter(run.scale.pictures[run.family]))

    def freeret(pairs: Pairs) -> Tensor:
        return torch.from_numpy(reranker.margins([pair for some in pairs for pair in some]))

    def whole(pairs: Pairs, batch: int) -> Tensor:
        prepared = [rendered(made, e) for some in pairs for e in exchanges(some)]
        return plain_margins(made, prepared, batch, *labelled)

    for kind, (queries, candidates), seconds in run.each(run.scale.pairs):

        def pairs(
            repeat: int, kind: str = kind, queries: int = queries, candidates: int = candidates
        ) -> Pairs:
            drawn = texts(made, queries * (candidates + 1), 20, 40, repeat)
            asked: list[Any] = drawn[:queries]
            if kind.startswith("picture"):
                asked = [as_item(file) for file in pictures(size, queries, 500 + repeat)]
            return [
                [(query, text) for text in drawn[queries + place :: queries]]
                for place, query in enumerate(asked)
            ]

        sizes = SIZES[:1] if kind.startswith("picture") else SIZES
        ways: dict[str, Any] = {OURS: freeret} | {
            f"whole prompts, {n} a batch": lambda given, n=n: whole(given, n) for n in sizes
        }
        warm_up = pairs(99)[:1] if kind.startswith("picture") else pairs(99)
        times = rounds(ways, warm_up, pairs, run.scale.repeats, seconds)

        few = [some[:10] for some in pairs(98)]
        ours, theirs = freeret(few), whole(few, sizes[0])
        rows = [[row.ids for row in run.backbone.rows(exchanges(some))] for some in pairs(98)]
        useful, count = useful_tokens(rows), queries * candidates
        work = 2.0 * made.text_weights * useful + tower_flops(made, rows[0][0]) * queries
        yield {
            kind: {
                "queries": queries,
                "candidates": candidates,
                "tokens": sum(len(row) for some in rows for row in some),
                "useful_tokens": useful,
                "margins": {
                    "spread": theirs.std().item(),
                    "largest_difference": (ours - theirs).abs().max().item(),
                    "median_difference": (ours - theirs).abs().median().item(),
                },
                "ways": summary(times, count, {"of_gemm_peak": work}, run.peak),
            }
        }


def exchanges(pairs: list[tuple[Any, Any]]) -> list[Any]:
    """The prompts of pairs."""
    return [FRAME.apply(as_item(query), as_item(candidate)) for query, candidate in pairs]
