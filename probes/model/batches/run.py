"""Run rows in batches by token budget.

What rows begin with alike is computed once: tokens that begin all rows in a cached prefix, those
that begin some of them in their pack. Packs are sorted by length and cut into batches where padding
costs least, a batch that does not fit in memory is halved, and results come back in the order
given.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from tqdm.auto import tqdm

from probes.media.formats import Modality
from probes.model.backbone import Backbone, OutOfMemory
from probes.model.batches.cost import budget, cut, fixed_cost
from probes.model.batches.packing import MIN_SHARED, Pack, grouped, packed
from probes.model.batches.prefix import Prefix, common_prefix
from probes.model.batches.sharing import share_error
from probes.model.encoding import Batch, Row
from probes.progress import computed_tokens

log = logging.getLogger(__name__)

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
    most = token_budget or budget(backbone)
    pending = planned(backbone, rows, most, share_prefix)[::-1]
    results: dict[int, Result] = {}
    with tqdm(
        total=len(rows), desc=progress, unit="item", disable=progress is None, delay=2, leave=None
    ) as bar:
        while pending:
            prefix, packs = pending.pop()
            flat = [i for places in packs for i in places]
            try:
                batch = collate(backbone, [[rows[i] for i in places] for places in packs], prefix)
                values = forward(batch)
            except (torch.OutOfMemoryError, MemoryError) as error:
                if len(flat) == 1:
                    raise OutOfMemory(
                        f"one row of {len(rows[flat[0]])} tokens does not fit in memory; "
                        "lower max_tokens, max_pixels or frames (--max-tokens, --max-pixels, "
                        "--frames), or spread the model with device_map='auto' (--device-map auto)"
                    ) from error
                log.warning("out of memory: a batch of %d rows is halved", len(flat))
                pending += [(prefix, half) for half in _halves(packs)]
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            results.update(zip(flat, values, strict=True))
            bar.update(len(flat))
            computed_tokens(sum(batch.lengths))
    return [results[i] for i in range(len(rows))]


def planned(
    backbone: Backbone, rows: Sequence[Row], budget: int, share_prefix: bool = True
) -> list[tuple[Prefix | None, list[list[int]]]]:
    """Cut rows into batches.

    Rows with a long beginning of their own, which would be computed in several packs, get a prefix
    and batches of their own where this saves more than it costs.

    Returns:
        The prefix of each batch, or None where rows are computed whole, and the places of the rows
        of its packs.
    """
    prefix = shared_prefix(backbone, rows) if share_prefix else None
    if prefix is None:
        fixed = fixed_cost(backbone, sum(map(len, rows)))
        return _cut(None, [([i], len(row)) for i, row in enumerate(rows)], budget, fixed)
    groups, width = grouped(rows, prefix.length), backbone.hidden_size
    fixed = fixed_cost(backbone, sum(sum(group.tails) for group in groups))
    joined, plan = [], []
    for group in groups:
        if (group.parts(budget, width) - 1) * group.shared > 2 * fixed:
            own = [rows[place] for place in group.places]
            start = Prefix(backbone, own[0], len(common_prefix(own)))
            packs = packed(grouped(own, start.length), budget, width)
            packs = [([group.places[i] for i in places], size) for places, size in packs]
            plan += _cut(start, packs, budget, fixed)
        else:
            joined.append(group)
    return _cut(prefix, packed(joined, budget, width), budget, fixed) + plan


def _cut(
    prefix: Prefix | None, packs: list[tuple[list[int], int]], budget: int, fixed: float
) -> list[tuple[Prefix | None, list[list[int]]]]:
    """Batches of packs of similar length, the shortest first."""
    packs = sorted(packs, key=lambda pack: pack[1])
    batches = cut(range(len(packs)), [size for _, size in packs], budget, fixed)
    return [(prefix, [packs[i][0] for i in batch]) for batch in batches]


def collate(backbone: Backbone, packs: Sequence[Sequence[Row]], prefix: Prefix | None) -> Batch:
    """The rows of some packs as a batch, which continues the prefix; without one, whole rows."""
    if prefix is None:
        return backbone.collate([row for rows in packs for row in rows])
    return prefix.collate([Pack.of(backbone.encoder, rows, prefix.length) for rows in packs])


def _halves(packs: list[list[int]]) -> list[list[list[int]]]:
    """The second and the first half of a batch, or of its only pack."""
    if len(packs) == 1:
        half = len(packs[0]) // 2
        return [[packs[0][half:]], [packs[0][:half]]]
    return [packs[len(packs) // 2 :], packs[: len(packs) // 2]]


def shared_prefix(backbone: Backbone, rows: Sequence[Row]) -> Prefix | None:
    """The tokens that begin all rows, perhaps none, or None where rows are computed whole."""
    if len(rows) < 2:
        return None
    kinds: set[Modality] = {piece.part.kind for row in rows for piece in row.media}
    if reason := share_error(backbone, kinds):
        log.info("prefix not shared: %s", reason)
        return None
    length = len(common_prefix(rows))
    return Prefix(backbone, rows[0], length if length >= MIN_SHARED else 0)
