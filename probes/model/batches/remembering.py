"""Rows that several measurements read: their states are computed once.

The curves and the paraphrase diagnostic read the same sentences under the same prompts, and
reranking starts from states of the diagnostic. Within `remembering`, a measurement leaves the
states that it computed to those after it, which need not know where they come from.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from jaxtyping import Float
from torch import Tensor

from probes.model.backbone import Backbone
from probes.model.batches.states import device_states
from probes.model.encoding import Row
from probes.model.sites import Site

Memory = dict[tuple[int, ...], dict[Site, Tensor]]
"""By the tokens of a row, its states `[hidden]` by site. Rows with media are left out."""

_memory: ContextVar[Memory | None] = ContextVar("memory", default=None)


@contextmanager
def remembering() -> Iterator[None]:
    """Within the context, states of rows are kept; it is for one backbone."""
    token = _memory.set({})
    try:
        yield
    finally:
        _memory.reset(token)


def remember(
    backbone: Backbone,
    rows: Sequence[Row],
    sites: Sequence[Site],
    states: Float[Tensor, "rows sites hidden"],
) -> None:
    """Keep states of rows, if there is a memory. Sites count layers from the start."""
    memory = _memory_of(backbone)
    if memory is None:
        return
    for row, values in zip(rows, states, strict=True):
        if not row.media:
            memory.setdefault(tuple(row.ids), {}).update(zip(sites, values, strict=True))


def remembered_states(
    backbone: Backbone,
    rows: Sequence[Row],
    sites: Sequence[str | Site],
    *,
    progress: str | None = None,
) -> Float[Tensor, "rows sites hidden"]:
    """`device_states` on the CPU; only rows whose states are not in the memory are computed."""
    resolved = [Site.parse(site).resolve(backbone.num_layers) for site in sites]
    memory = _memory_of(backbone) or {}
    known = {
        i: torch.stack([memory[key][site] for site in resolved])
        for i, row in enumerate(rows)
        if not row.media and memory.get(key := tuple(row.ids), {}).keys() >= set(resolved)
    }
    left = [i for i in range(len(rows)) if i not in known]
    missing = [rows[i] for i in left]
    computed = device_states(backbone, missing, resolved, progress=progress).cpu()
    remember(backbone, missing, resolved, computed)
    states = dict(zip(left, computed, strict=True)) | known
    return torch.stack([states[i] for i in range(len(rows))])


def _memory_of(backbone: Backbone) -> Memory | None:
    """The memory in effect, which states under an intervention neither enter nor come from."""
    return None if backbone.interventions else _memory.get()
