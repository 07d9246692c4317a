"""Cost of a batch, and where rows are cut into batches so that they cost least.

The time of a forward is a + b·tokens, so that a batch costs its padded tokens and as much again as
a/b tokens. How much that is depends on the model and on the device: it is measured with two
forwards, once for each backbone, before the first block of rows that is large enough for it to
matter. Until then the default of the device, CPU or GPU, is assumed.

Cuts change results by float rounding only. Measured values are rounded to powers of two, so that
two runs on the same machine nearly always cut alike; they cut exactly alike where no block is
large.
"""

import math
import time
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch

from probes.model.backbone import Backbone
from probes.model.batches.memory import free_bytes
from probes.model.encoding import Row


class Batching(NamedTuple):
    """How rows are cut on a kind of device, in tokens."""

    budget: int
    """Most padded tokens of a batch."""
    fixed: float
    """Cost of a batch beside its tokens, where it has not been measured."""
    sample: int
    """Tokens of the larger of the two forwards that are measured; the smaller has WIDTH."""
    large: int
    """Blocks of more tokens than this are worth the measurement."""


CPU = Batching(2048, 64.0, 128, 8192)
"""Measured on two cores with a model of 135M; its throughput is flat around this budget."""
GPU = Batching(16_384, 2048.0, 4096, 16_384)
"""Launching the kernels of a forward takes as long as 900 tokens of a 7B model on an H100, and as
4,000 tokens of a 2B model (estimates)."""
STATES = 64
"""Vectors of the hidden size that a token occupies at once: activations, keys and values."""
WIDTH = 8
"""Tokens of a row of a forward that is measured."""
REPEATS = 2
"""Forwards of each size that are measured; the faster one counts."""

_budgets: WeakKeyDictionary[Backbone, int] = WeakKeyDictionary()
_fixed_costs: WeakKeyDictionary[Backbone, float] = WeakKeyDictionary()


def budget(backbone: Backbone) -> int:
    """Most padded tokens of a batch: `loading.token_budget`, or else that of the device.

    On a GPU it is less than that of GPU where little memory is free when it is first asked for.
    """
    if backbone.loading.token_budget is not None:
        return backbone.loading.token_budget
    if backbone.device.type != "cuda":
        return _defaults(backbone).budget
    if backbone not in _budgets:
        _budgets[backbone] = min(GPU.budget, tokens_in(backbone, free_bytes(backbone.device)))
    return _budgets[backbone]


def fixed_cost(backbone: Backbone, tokens: int = 0) -> float:
    """What a batch costs beside its tokens, in tokens. Before many tokens are computed it is
    measured, unless it has been already; before few, the default of the device holds."""
    defaults = _defaults(backbone)
    if backbone not in _fixed_costs and tokens > defaults.large:
        _fixed_costs[backbone] = _measured(backbone, defaults)
    return _fixed_costs.get(backbone, defaults.fixed)


def cut(order: Sequence[int], lengths: Sequence[int], budget: int, fixed: float) -> list[list[int]]:
    """The cheapest way to cut rows into consecutive batches.

    Args:
        order: Places of the rows, the shortest first.
        lengths: Tokens of the row at each place.
        budget: Most padded tokens of a batch; a longer row is a batch alone.
        fixed: Cost of a batch beside its padded tokens.

    Returns:
        The places of each batch.
    """
    # For the first 0, 1, 2, … rows: the least cost, and where the last batch of that cut starts.
    costs, starts = np.zeros(len(order) + 1), [0]
    for end, place in enumerate(order, start=1):
        first = max(0, end - max(1, budget // max(1, lengths[place])))
        choices = costs[first:end] + lengths[place] * np.arange(end - first, 0, -1)
        best = int(choices.argmin())
        costs[end] = choices[best] + fixed
        starts.append(first + best)
    batches, end = [], len(order)
    while end:
        batches.append(list(order[starts[end] : end]))
        end = starts[end]
    return batches[::-1]


def tokens_in(backbone: Backbone, memory: int) -> int:
    """Tokens of a batch that this many bytes suffice for, as a power of two (an estimate)."""
    tokens = memory / (STATES * backbone.hidden_size * backbone.dtype.itemsize)
    return 2 ** math.floor(math.log2(max(1.0, tokens)))


def _defaults(backbone: Backbone) -> Batching:
    return CPU if backbone.device.type == "cpu" else GPU


def _measured(backbone: Backbone, defaults: Batching) -> float:
    """a/b from the times of a small and a large forward, as a power of two."""
    small, large = (
        min(_seconds(backbone, rows) for _ in range(REPEATS))
        for rows in (1, defaults.sample // WIDTH)
    )
    slope = (large - small) / (defaults.sample - WIDTH)
    tokens = small / slope - WIDTH if slope > 0 else math.inf
    return 2.0 ** round(math.log2(min(max(1.0, tokens), defaults.budget)))


def _seconds(backbone: Backbone, rows: int) -> float:
    """Duration of a forward of rows of WIDTH tokens."""
    row = Row([backbone.encoder.plain.tokenize("one")[-1]] * WIDTH)
    with backbone.lock, torch.no_grad():
        inputs = backbone.collate([row] * rows).inputs
        start = time.perf_counter()
        logits = backbone.model(**{"use_cache": False, **inputs}, logits_to_keep=1).logits
        logits[0, -1, 0].item()  # waits for a GPU
        return time.perf_counter() - start
