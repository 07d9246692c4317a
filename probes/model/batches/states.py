"""States of any number of items, read batch by batch."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from probes.errors import BadSetting
from probes.items import Item
from probes.model.backbone import Backbone
from probes.model.batches.ahead import blockwise
from probes.model.batches.run import run_batches
from probes.model.encoding import Batch, Row
from probes.model.sites import Site, as_sites
from probes.model.trace import record
from probes.prompts import Prompt, Side, Source, as_sources


def states_of(
    backbone: Backbone,
    sources: Source | Sequence[Source],
    sites: str | Site | Sequence[str | Site],
    *,
    progress: bool = False,
) -> Float[Tensor, "sources sites hidden"]:
    """Last-position states of any number of texts or other items, batch by batch.

    `record` runs a single batch and keeps the model's dtype. This function cuts batches by the
    token budget of the backbone, and makes rows while the model computes those before them.

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
    return blockwise(
        backbone,
        lambda named: [backbone.row(*named)],
        as_sources(sources),
        lambda rows, bar: device_states(backbone, [r for (r,) in rows], resolved, progress=bar),
        "states" if progress else None,
    )


def device_states(
    backbone: Backbone,
    rows: Sequence[Row],
    sites: Sequence[str | Site],
    *,
    progress: str | None = None,
) -> Float[Tensor, "rows sites hidden"]:
    """Raw float32 states in the order of `rows` and of `sites`, on the device of the backbone: a
    GPU is not waited for.

    Every row is run once, up to the deepest site. `progress` is the label of the progress bar.
    """
    if not rows:
        return torch.empty(0, len(sites), backbone.hidden_size)
    if any(Site.parse(site).mean for site in sites):
        rows = [replace(row, mean=True) for row in rows]

    def forward(batch: Batch) -> list[Tensor]:
        # On the device, so that a GPU is not waited for after each batch, and on one of several.
        states = record(backbone, batch, sites)
        at_sites = [states[site].to(backbone.device, torch.float32) for site in sites]
        return list(torch.stack(at_sites, dim=1))

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
    """Raw float32 states of items under a prompt, on the CPU. Raises BadItem, which names the
    item."""
    return blockwise(
        backbone,
        lambda item: [backbone.row(prompt.apply(item, side), item.name)],
        items,
        lambda rows, bar: device_states(backbone, [r for (r,) in rows], sites, progress=bar),
        progress,
    )
