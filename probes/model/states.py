"""Last-position states of many texts at several sites, in one pass over them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from probes.errors import BadSetting
from probes.items import Item
from probes.model.backbone import Backbone, Source, as_sources
from probes.model.batching import run_batches
from probes.model.encoding import Batch, Row
from probes.model.sites import Site, as_sites
from probes.model.trace import record
from probes.prompts import Prompt, Side

BLOCK = 256
"""Items that are tokenised, with their media, at a time."""


def states_of(
    backbone: Backbone,
    sources: Source | Sequence[Source],
    sites: str | Site | Sequence[str | Site],
    *,
    progress: bool = False,
) -> Float[Tensor, "sources sites hidden"]:
    """Last-position states of any number of texts or other items, batch by batch.

    `record` runs a single batch and keeps the model's dtype. This function makes batches that fit
    the token budget of the backbone, so that beside the result only one of them is in memory.

    Args:
        backbone: The model to read.
        sources: What `Backbone.encode` takes: texts, items, or prompts such as
            `E5V.apply(Item("a cat"))`. A lone one is a list of one.
        sites: Where to read, such as `["attn[-1]", "norm"]`, or `"all"`.
        progress: Whether to show a progress bar.

    Returns:
        States `[sources, sites, hidden]`, float32 on the CPU, in the order of `sources` and of
        `sites`; `.numpy()` makes an array of them without a copy.

    Raises:
        BadItem: A source cannot be read.
        BadSetting: There is no site, or the backbone does not have it.
        OutOfMemory: A single source does not fit in memory.
    """
    depth = backbone.num_layers
    chosen = [site.resolve(depth) for site in as_sites(sites, depth)]
    if not chosen:
        raise BadSetting("nothing to record: name at least one site")
    given = as_sources(sources)
    states = torch.empty(len(given), len(chosen), backbone.hidden_size)
    with tqdm(total=len(given), desc="states", unit="item", disable=not progress) as bar:
        for start in range(0, len(given), BLOCK):
            block = given[start : start + BLOCK]
            rows = [backbone.row(source, name) for source, name in block]
            states[start : start + len(rows)] = last_states(backbone, rows, chosen)
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

    Every row is run once, up to the deepest site. `progress` names the bar.
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
    """`last_states` of items under a prompt. Raises BadItem, naming the item."""
    rows = [backbone.row(prompt.apply(item, side), item.name) for item in items]
    return last_states(backbone, rows, sites, progress=progress)
