"""Run rows in batches by token budget.

Rows are sorted by length, so that long rows run in small batches and short rows in large ones, and
cut where padding costs least. Tokens that begin all rows are computed once, a batch that does not
fit in memory is halved, and results come back in the order given.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from tqdm.auto import tqdm

from probes.model.backbone import Backbone, OutOfMemory
from probes.model.batches.cost import budget, cut, fixed_cost
from probes.model.batches.prefix import Prefix, common_prefix, share_error, window
from probes.model.encoding import Batch, Row
from probes.progress import computed_tokens

log = logging.getLogger(__name__)

MIN_PREFIX = 8
"""Tokens below which a common prefix is not worth a forward pass of its own."""

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
    """Run a function over all rows, batch by batch.

    Args:
        backbone: The model that the rows are for.
        rows: Rows of any lengths.
        forward: Returns one result for each row of a batch.
        token_budget: Padded tokens per batch; by default `probes.model.batches.cost.budget`.
        share_prefix: Whether tokens that begin all rows are computed once. They are then missing
            from the batch, so switch it off where every position is read.
        progress: Label of a progress bar, which appears after two seconds.

    Returns:
        The results, in the order of `rows`.

    Raises:
        OutOfMemory: A single row does not fit in memory.
    """
    prefix = shared_prefix(backbone, rows) if share_prefix else None
    skip = len(prefix.ids) if prefix else 0
    collate = prefix.collate if prefix else backbone.collate
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    lengths = [len(row) - skip for row in rows]
    fixed = fixed_cost(backbone, sum(lengths))
    pending = cut(order, lengths, token_budget or budget(backbone), fixed)[::-1]
    results: dict[int, Result] = {}
    with tqdm(
        total=len(rows), desc=progress, unit="item", disable=progress is None, delay=2, leave=None
    ) as bar:
        while pending:
            places = pending.pop()
            try:
                values = forward(collate([rows[i] for i in places]))
            except (torch.OutOfMemoryError, MemoryError) as error:
                if len(places) == 1:
                    raise OutOfMemory(
                        f"one row of {len(rows[places[0]])} tokens does not fit in memory; "
                        "lower max_tokens, max_pixels or frames (--max-tokens, --max-pixels, "
                        "--frames), or spread the model with device_map='auto' (--device-map auto)"
                    ) from error
                half = len(places) // 2
                log.warning("out of memory: a batch of %d rows is halved", len(places))
                pending += [places[half:], places[:half]]
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            results.update(zip(places, values, strict=True))
            bar.update(len(places))
            computed_tokens(sum(len(rows[i]) - skip for i in places))
    return [results[i] for i in range(len(rows))]


def shared_prefix(backbone: Backbone, rows: Sequence[Row]) -> Prefix | None:
    """The tokens that begin all rows, computed, or None where rows are better computed whole."""
    ids = common_prefix(rows, backbone.encoder.media_ids)
    if len(ids) < MIN_PREFIX or max(len(row) for row in rows) > window(backbone):
        return None
    if any(row.media for row in rows) and not backbone.encoder.media_follow_prefix:
        log.info(
            "prefix not shared: the model computes masks or positions of media for whole rows only"
        )
        return None
    reason = share_error(backbone)
    if reason:
        log.info("prefix not shared: %s", reason)
        return None
    return Prefix(backbone, ids)
