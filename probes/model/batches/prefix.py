"""Shared prefix: tokens that begin every row of a batch are computed once.

All items under one prompt, and all candidates of one query, begin alike, often with the same
picture. The prefix is run alone into a KV cache, and what follows it in the rows is run in packs
that continue the cache. Positions and masks are those of whole rows, so states agree with those of
whole rows up to float32 rounding; this is confirmed once for each backbone, with its weights,
before it is relied on.
"""

import functools
import inspect
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import DynamicCache

from probes.media.towers import to_device
from probes.model.backbone import Backbone
from probes.model.batches.packing import Pack, common, visible
from probes.model.encoding import Batch, Row

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, `[1, heads, tokens, dimension]`."""

_computed_last: WeakKeyDictionary[Backbone, tuple[list[int], Layers]] = WeakKeyDictionary()
"""Contents and layers of the prefix that each backbone computed last. Not the `Prefix` itself: it
holds its backbone, which would then never be freed."""


class Prefix:
    """The KV cache of the first tokens of a row, which packs of rows that share them continue."""

    def __init__(self, backbone: Backbone, row: Row, length: int):
        self.backbone, self.row, self.length = backbone, row, length

    @functools.cached_property
    def layers(self) -> Layers:
        """Computed when first used, unless these tokens are those that the backbone computed last:
        consecutive blocks of a corpus begin alike."""
        contents = self.row.contents[: self.length]
        with self.backbone.lock:
            last, layers = _computed_last.get(self.backbone, ([], []))
            if last != contents:
                layers = self._compute(self.row)
                _computed_last[self.backbone] = contents, layers
        return layers

    @torch.no_grad()
    def _compute(self, row: Row) -> Layers:
        encoder, length = self.backbone.encoder, self.length
        start = Row(
            row.ids[:length],
            {name: values[:length] for name, values in row.per_token.items()},
            row.media[: sum(stop <= length for _, stop in row.spans)],
            positions=encoder.positions(row)[:, :length] if encoder.counts_positions else None,
        )
        if any(DynamicCache(config=self.backbone.model.config).is_linear):
            raise TypeError("some layers keep a running state and no keys to continue from")
        cache: Any = DynamicCache()  # in which layers with a sliding window keep all tokens, too
        inputs = self.backbone.collate([start]).inputs
        self.backbone.model(
            **inputs, use_cache=True, logits_to_keep=1, **{_cache_name(self.backbone): cache}
        )
        return [(layer.keys, layer.values) for layer in cache.layers]

    def collate(self, packs: Sequence[Pack]) -> Batch:
        """A left-padded batch of packs whose rows begin with this prefix."""
        backbone, encoder = self.backbone, self.backbone.encoder
        inputs = backbone.collate([pack.row for pack in packs]).inputs
        count, width = inputs["input_ids"].shape
        starts = [width - len(pack.row) for pack in packs]
        exits = [
            [*range(1, start + 1), *(start + place for place in pack.exits)]  # padding sees itself
            for pack, start in zip(packs, starts, strict=True)
        ]
        depths = [[0] * start + pack.depths for pack, start in zip(packs, starts, strict=True)]
        exits, depths = (to_device(torch.tensor(v), backbone.device) for v in (exits, depths))
        if encoder.mrope and not encoder.counts_positions:
            inputs["position_ids"] = depths.expand(3, -1, -1)
        elif encoder.wants_positions:
            inputs["position_ids"] = depths
        inputs["attention_mask"] = self._masks(exits, depths)
        if self.length:
            inputs[_cache_name(backbone)] = DynamicCache(
                [tuple(t.expand(count, -1, -1, -1) for t in layer) for layer in self.layers]
            )

        def placed(by_pack: Sequence[list[list[int]]]) -> list[list[tuple[int, int]]]:
            return [
                [(number, start + place) for place in places]
                for number, (rows, start) in enumerate(zip(by_pack, starts, strict=True))
                for places in rows
            ]

        read = placed([pack.read for pack in packs])
        averaged = placed([pack.averaged for pack in packs])
        return Batch(inputs, [n for pack in packs for n in pack.lengths], read, averaged)

    def _masks(self, exits: Tensor, depths: Tensor) -> Tensor | dict[str, Tensor]:
        """The additive attention mask `[packs, 1, tokens, prefix + tokens]`, or that of each kind
        of layer where there are several."""
        before = torch.ones(*exits.shape, self.length, dtype=torch.bool, device=exits.device)
        seen = torch.cat([before, visible(exits)], dim=-1)
        config = self.backbone.model.config.get_text_config(decoder=True)
        masks = {}
        for kind in _kinds(config):
            if kind == "sliding_attention":
                first = torch.arange(self.length, device=depths.device).expand(len(depths), -1)
                distance = depths[:, :, None] - torch.cat([first, depths], dim=1)[:, None, :]
                allowed = seen & (distance < config.sliding_window)
            elif kind == "full_attention":
                allowed = seen
            else:
                raise TypeError(f"layers of {kind} have masks of their own")
            mask = torch.zeros(allowed.shape, dtype=self.backbone.dtype, device=allowed.device)
            masks[kind] = mask.masked_fill_(~allowed, torch.finfo(mask.dtype).min)[:, None]
        return masks if len(masks) > 1 else next(iter(masks.values()))


def _kinds(config: Any) -> set[str]:
    """The kinds of attention of a model's layers."""
    if kinds := getattr(config, "layer_types", None):
        return set(kinds)
    sliding = getattr(config, "sliding_window", None) and getattr(
        config, "use_sliding_window", True
    )
    return {"sliding_attention" if sliding else "full_attention"}


def _cache_name(backbone: Backbone) -> str:
    """The argument of the forward that takes the cache: transformers renamed it in 5.24."""
    accepted = inspect.signature(type(backbone.model).forward).parameters
    return "cache" if "cache" in accepted else "past_key_values"


def common_prefix(rows: Sequence[Row]) -> list[int]:
    """The tokens that begin every row; those that are read are left out, and no medium is cut."""
    if len(rows) < 2:
        return []
    # All rows share what the lexicographically first and last share.
    first, last = (choose(rows, key=lambda row: row.contents) for choose in (min, max))
    length = min(common(first.contents, last.contents), min(row.first_read for row in rows))
    return first.ids[: min([length, *(a for a, b in first.spans if a < length < b)])]
