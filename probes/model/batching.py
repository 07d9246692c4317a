"""Batches by token budget: long rows travel in small batches, short rows in large ones.

Rows are sorted by length and cut where padding costs least, what they share at their beginning is
computed once, a batch that does not fit in memory is halved, and results come back in the order
given.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from tqdm.auto import tqdm

from probes.model.backbone import Backbone, OutOfMemory
from probes.model.encoding import Batch, Row
from probes.model.prefix import Prefix, common_prefix, share_error, window
from probes.progress import computed_tokens

log = logging.getLogger(__name__)

TOKEN_BUDGET = 2048
"""Padded tokens a batch; on two CPU cores the throughput of a 135M model is flat around it."""
BATCH_COST = 1 / 32
"""What a batch costs besides its tokens, as a share of the budget (measured: 64 tokens' worth)."""
MIN_PREFIX = 8
"""A shorter common prefix is not worth a pass of its own."""

Result = TypeVar("Result")


def run_batches(
    backbone: Backbone,
    rows: Sequence[Row],
    forward: Callable[[Batch], Sequence[Result]],
    *,
    token_budget: int | None = None,
    share_prefix: bool = True,
    progress: str | None = None,
) -> list[Result]:
    """`forward` of every row, one result a row, in the order of `rows`.

    `token_budget` is that of `backbone.loading` by default, or else TOKEN_BUDGET.
    `share_prefix=False` is for what reads every position: a shared prefix is not in the batch.
    `progress` names the bar; it is shown when the work is long enough to be waited for, and below
    another bar it vanishes when it is done.
    Raises OutOfMemory when a single row does not fit in memory.
    """
    prefix = shared_prefix(backbone, rows) if share_prefix else None
    skip = len(prefix.ids) if prefix else 0
    collate = prefix.collate if prefix else backbone.collate
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    budget = token_budget or backbone.loading.token_budget or TOKEN_BUDGET
    pending = _cut(order, [len(row) - skip for row in rows], budget)[::-1]
    results: dict[int, Result] = {}
    with tqdm(
        total=len(rows), desc=progress, unit="item", disable=progress is None, delay=2, leave=None
    ) as bar:
        while pending:
            chosen = pending.pop()
            try:
                values = forward(collate([rows[i] for i in chosen]))
            except (torch.OutOfMemoryError, MemoryError) as error:
                if len(chosen) == 1:
                    raise OutOfMemory(
                        f"one row of {len(rows[chosen[0]])} tokens does not fit in memory; "
                        "lower max_tokens, max_pixels or frames (--max-tokens, --max-pixels, "
                        "--frames), or spread the model with device_map='auto' (--device-map auto)"
                    ) from error
                half = len(chosen) // 2
                log.warning("out of memory: a batch of %d rows is halved", len(chosen))
                pending += [chosen[half:], chosen[:half]]
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            results.update(zip(chosen, values, strict=True))
            bar.update(len(chosen))
            computed_tokens(sum(len(rows[i]) - skip for i in chosen))
    return [results[i] for i in range(len(rows))]


def shared_prefix(backbone: Backbone, rows: Sequence[Row]) -> Prefix | None:
    """What all rows begin with, computed once, or None where each is better computed whole."""
    ids = common_prefix(rows, backbone.encoder.media_ids)
    if len(ids) < MIN_PREFIX or max(len(row) for row in rows) > window(backbone):
        return None
    if any(row.media for row in rows) and not backbone.encoder.media_follow_prefix:
        log.info(
            "prefix not shared: the model makes masks or positions of media for whole rows only"
        )
        return None
    reason = share_error(backbone)
    if reason:
        log.info("prefix not shared: %s", reason)
        return None
    return Prefix(backbone, ids)


def _cut(order: list[int], lengths: list[int], budget: int) -> list[list[int]]:
    """Consecutive runs of `order` within the budget that cost least: padded tokens, and a fixed
    cost a run."""
    fixed = budget * BATCH_COST
    costs, starts = [0.0], [0]  # of the cheapest way to cut the first rows, and its last run
    for end, index in enumerate(order, start=1):
        fits = max(1, budget // max(1, lengths[index]))
        cost, start = min(
            (costs[start] + fixed + (end - start) * lengths[index], start)
            for start in range(max(0, end - fits), end)
        )
        costs.append(cost)
        starts.append(start)
    batches, end = [], len(order)
    while end:
        batches.append(order[starts[end] : end])
        end = starts[end]
    return batches[::-1]
