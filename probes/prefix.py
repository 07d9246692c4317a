"""Shared prefix: tokens that begin every row of a batch are computed once.

All items under one prompt, and all candidates of one query, begin alike. The prefix runs alone
with a key-value cache; each batch continues from a copy of it. Positions and masks are those of
the whole rows, so states agree with whole rows up to float32 rounding (confirmed once for each
backbone, on its own weights, before it is relied on).
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from os.path import commonprefix
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from probes.backbone import Backbone
from probes.encoding import Batch, Row

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Largest relative error of a last-position state that counts as agreement (float32)."""


class Prefix:
    """The cached keys and values of a token prefix, ready to be continued by any batch of rows."""

    def __init__(self, backbone: Backbone, ids: Sequence[int]):
        self.backbone, self.ids = backbone, list(ids)
        cache = DynamicCache(config=backbone.model.config)
        inputs = _positions(backbone, torch.ones(1, len(self.ids), dtype=torch.long), 0)
        with backbone.lock, torch.no_grad():
            backbone.model(
                input_ids=torch.tensor([self.ids], device=backbone.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                **inputs,
            )
        self.layers = [(layer.keys, layer.values) for layer in cache.layers]

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Rows that begin with the prefix, as a left-padded batch of what follows it."""
        length = len(self.ids)
        tails = [replace(row, ids=row.ids[length:]) for row in rows]
        batch = self.backbone.collate(tails)
        mask = batch.inputs["attention_mask"]
        before = torch.ones(len(rows), length, dtype=mask.dtype, device=mask.device)
        inputs: dict[str, Any] = {
            "input_ids": batch.inputs["input_ids"],
            "attention_mask": torch.cat([before, mask], dim=1),
            "past_key_values": DynamicCache(
                [tuple(t.expand(len(rows), -1, -1, -1) for t in layer) for layer in self.layers],
                config=self.backbone.model.config,
            ),
            **_positions(self.backbone, mask, length),
        }
        return Batch(inputs, batch.lengths)


def _positions(backbone: Backbone, mask: Tensor, start: int) -> dict[str, Tensor]:
    positions = (mask.to(backbone.device).cumsum(-1) - 1).clamp_min(0) + start
    if backbone.encoder.mrope:  # text has the same position on all three axes
        positions = positions.expand(3, -1, -1)
    return {"position_ids": positions}


def common_prefix(rows: Sequence[Row]) -> list[int]:
    """The tokens that begin every row, leaving each at least one of its own."""
    if len(rows) < 2 or any(row.media for row in rows):
        return []
    shared = commonprefix([row.ids for row in rows])
    return shared[: min(len(row) for row in rows) - 1]
