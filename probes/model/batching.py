"""Many rows at once: batches by token budget, and the states of any number of items.

Rows are sorted by length, so that long rows run in small batches and short rows in large ones, and
cut where padding costs least. Tokens that begin all rows are computed once, a batch that does not
fit in memory is halved, and results come back in the order given.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from probes.errors import BadSetting
from probes.items import Item
from probes.model.backbone import Backbone, OutOfMemory
from probes.model.encoding import Batch, Row
from probes.model.prefix import Prefix, common_prefix, share_error, window
from probes.model.sites import Site, as_sites
from probes.model.trace import record
from probes.progress import computed_tokens
from probes.prompts import Prompt, Side, Source, as_sources

log = logging.getLogger(__name__)

TOKEN_BUDGET = 2048
"""Padded tokens per batch; on two CPU cores the throughput of a 135M model is flat around it."""
BATCH_COST = 1 / 32
"""Fixed cost of a batch, as a share of the token budget (measured: that of 64 tokens)."""
MIN_PREFIX = 8
"""Tokens below which a common prefix is not worth a forward pass of its own."""
BLOCK = 256
"""Items whose tokens and media are in memory at once."""

Result = TypeVar("Result")


def states_of(
    backbone: Backbone,
    sources: Source | Sequence[Source],
    sites: str | Site | Sequence[str | Site],
    *,
    progress: bool = False,
) -> Float[Tensor, "sources sites hidden"]:
    """Last-position states of any number of texts or other items, batch by batch.

    `record` runs a single batch and keeps the model's dtype. This function cuts batches by the
    token budget of the backbone, so that only one of them is in memory besides the result.

    Args:
        backbone: The model to read.
        sources: Texts and other items, or prompted exchanges such as `E5V.apply("a cat")`, in any
            form that `Backbone.encode` takes. A lone one is a list of one.
        sites: Where to read, such as `["attn[-1]", "norm"]`, or `"all"`.
        progress: Whether to show a progress bar.

    Returns:
        States `[sources, sites, hidden]`, float32 on the CPU, in the order of `sources` and of
        `sites`; `.numpy()` gives them as an array without a copy.

    Raises:
        BadItem: A source cannot be read; the message names it.
        BadSetting: No site is given, or the backbone does not have it.
        OutOfMemory: A single source does not fit in memory.
    """
    depth = backbone.num_layers
    resolved = [site.resolve(depth) for site in as_sites(sites, depth)]
    if not resolved:
        raise BadSetting("nothing to record: name at least one site")
    named = as_sources(sources)
    states = torch.empty(len(named), len(resolved), backbone.hidden_size)
    with tqdm(total=len(named), desc="states", unit="item", disable=not progress) as bar:
        for start in range(0, len(named), BLOCK):
            rows = [backbone.row(source, name) for source, name in named[start : start + BLOCK]]
            states[start : start + len(rows)] = last_states(backbone, rows, resolved)
            bar.update(len(rows))
    return states


def last_states(
    backbone: Backbone,
    rows: Sequence[Row],
    sites: Sequence[str | Site],
    *,
    progress: str | None = None,
) -> Float[Tensor, "rows sites hidden"]:
    """Raw float32 states on the CPU, in the order of `rows` and of `sites`.

    Every row is run once, up to the deepest site. `progress` is the label of the progress bar.
    """
    if not rows:
        return torch.empty(0, len(sites), backbone.hidden_size)

    def forward(batch: Batch) -> list[Tensor]:
        states = record(backbone, batch, sites)
        return list(torch.stack([states[site].float().cpu() for site in sites], dim=1))

    return torch.stack(run_batches(backbone, rows, forward, progress=progress))


def prompted_states(
    backbone: Backbone,
    prompt: Prompt,
    items: Sequence[Item],
    side: Side,
    sites: Sequence[str | Site],
    *,
    progress: str | None = None,
) -> Float[Tensor, "items sites hidden"]:
    """`last_states` of items under a prompt. Raises BadItem, which names the item."""
    rows = [backbone.row(prompt.apply(item, side), item.name) for item in items]
    return last_states(backbone, rows, sites, progress=progress)


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
        token_budget: Padded tokens per batch; by default that of `backbone.loading`, else
            TOKEN_BUDGET.
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
    budget = token_budget or backbone.loading.token_budget or TOKEN_BUDGET
    pending = _cut(order, [len(row) - skip for row in rows], budget)[::-1]
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


def _cut(order: list[int], lengths: list[int], budget: int) -> list[list[int]]:
    """The cheapest way to cut `order` into consecutive batches within the budget. A batch costs its
    padded tokens and a fixed amount."""
    fixed = budget * BATCH_COST
    # For the first 0, 1, 2, … rows: the least cost, and where the last batch of that cut starts.
    costs, starts = [0.0], [0]
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
