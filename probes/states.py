"""Last-position states of many rows at several sites, in one pass over the rows."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from probes.backbone import Backbone
from probes.batching import run_batches
from probes.encoding import Batch, Row
from probes.items import Item
from probes.prompts import Prompt, Side
from probes.sites import Site
from probes.trace import record


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
