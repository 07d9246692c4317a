"""Shared prefix: tokens that begin every row of a batch are computed once.

All items under one prompt, and all candidates of one query, begin alike. The prefix is run alone
into a KV cache, and each batch continues from a copy of it. Positions and masks are those of whole
rows, so states agree with those of whole rows up to float32 rounding; this is confirmed once for
each backbone, with its weights, before it is relied on. A prefix ends before the first picture,
video or audio of any row.
"""

import inspect
import itertools
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import DynamicCache

from probes.model.backbone import Backbone
from probes.model.encoding import Batch, Row

TOLERANCE = 1e-3
"""Largest relative error at which states agree, in float32."""


Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, `[1, heads, tokens, dimension]`."""

_computed_last: WeakKeyDictionary[Backbone, tuple[list[int], Layers]] = WeakKeyDictionary()
"""Token ids and layers of the prefix that each backbone computed last. Not the `Prefix` itself: it
holds its backbone, which would then never be freed."""
_share_errors: WeakKeyDictionary[Backbone, str | None] = WeakKeyDictionary()
"""Results of `share_error`."""


class Prefix:
    """The KV cache of a token prefix, which any batch of rows can continue."""

    def __init__(self, backbone: Backbone, ids: Sequence[int]):
        """Compute the prefix, unless it is the one that this backbone computed last: consecutive
        blocks of a corpus begin alike."""
        self.backbone, self.ids = backbone, list(ids)
        with backbone.lock:
            last_ids, layers = _computed_last.get(backbone, ([], []))
            self.layers = layers if last_ids == self.ids else self._compute()
            _computed_last[backbone] = self.ids, self.layers

    @torch.no_grad()
    def _compute(self) -> Layers:
        cache: Any = DynamicCache(config=self.backbone.model.config)
        inputs = self.backbone.collate([Row(self.ids)]).inputs
        self.backbone.model(
            **inputs, use_cache=True, logits_to_keep=1, **{_cache_name(self.backbone): cache}
        )
        if not all(hasattr(layer, "keys") for layer in cache.layers):
            raise TypeError("some layers keep a running state and no keys to continue from")
        return [(layer.keys, layer.values) for layer in cache.layers]

    def collate(self, rows: Sequence[Row]) -> Batch:
        """A left-padded batch of what follows the prefix in rows that begin with it."""
        length, encoder = len(self.ids), self.backbone.encoder
        batch = self.backbone.collate([self._tail(row) for row in rows])
        mask = batch.inputs["attention_mask"]
        before = torch.ones(len(rows), length, dtype=mask.dtype, device=mask.device)
        positions = (mask.cumsum(-1) - 1).clamp_min(0) + length
        if encoder.counts_positions:
            positions = batch.inputs["position_ids"]
        elif encoder.mrope:  # text has the same position on all axes
            positions = positions.expand(3, -1, -1)
        inputs: dict[str, Any] = {
            **batch.inputs,
            "attention_mask": torch.cat([before, mask], dim=1),
            "position_ids": positions,
            _cache_name(self.backbone): DynamicCache(
                [tuple(t.expand(len(rows), -1, -1, -1) for t in layer) for layer in self.layers],
                config=self.backbone.model.config,
            ),
        }
        return Batch(inputs, batch.lengths)

    def _tail(self, row: Row) -> Row:
        """The row after the prefix, at the positions of the whole row."""
        length, encoder = len(self.ids), self.backbone.encoder
        return replace(
            row,
            ids=row.ids[length:],
            per_token={key: values[length:] for key, values in row.per_token.items()},
            positions=encoder.positions(row)[:, length:] if encoder.counts_positions else None,
        )


def _cache_name(backbone: Backbone) -> str:
    """The argument of the forward that takes the cache: transformers renamed it in 5.24."""
    accepted = inspect.signature(type(backbone.model).forward).parameters
    return "cache" if "cache" in accepted else "past_key_values"


def common_prefix(rows: Sequence[Row], stop: Collection[int] = ()) -> list[int]:
    """The tokens that begin every row, up to one of `stop`; at least one is left of each row."""
    if len(rows) < 2:
        return []
    # All rows share what the lexicographically first and last share.
    first, last = min(row.ids for row in rows), max(row.ids for row in rows)
    shared = first[: min(_shared(first, last), min(len(row) for row in rows) - 1)]
    return list(itertools.takewhile(lambda token: token not in stop, shared))


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix of two rows."""
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))
    return sum(1 for _ in same)


def window(backbone: Backbone) -> float:
    """The longest row that may continue a prefix: in a sliding attention window, padding between
    prefix and tail would count as distance."""
    config = backbone.model.config.get_text_config(decoder=True)
    size = getattr(config, "sliding_window", None)
    sliding = size and getattr(config, "use_sliding_window", True)
    return float(size) if size and sliding else float("inf")


def share_error(backbone: Backbone) -> str | None:
    """The reason why this backbone cannot continue a cached prefix, or None where it can. It is
    tried once for each backbone."""
    if backbone not in _share_errors:
        _share_errors[backbone] = _try_share(backbone)
    return _share_errors[backbone]


def _try_share(backbone: Backbone) -> str | None:
    """Compare two rows of unequal length, continued from a prefix, with the same rows computed
    whole."""
    ids = backbone.encoder.plain.tokenize(
        "One two three four five six seven eight nine ten eleven."
    )
    rows = [Row(ids), Row(ids[:-2])]
    try:
        whole = _final_states(backbone, backbone.collate(rows))
        shared = _final_states(backbone, Prefix(backbone, ids[: len(ids) // 2]).collate(rows))
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
        return f"{type(backbone.model).__name__} cannot continue a cache: {error}"
    error = ((whole - shared).norm(dim=-1) / whole.norm(dim=-1)).max().item()
    tolerance = TOLERANCE if backbone.dtype == torch.float32 else 0.05
    return None if error <= tolerance else f"states differ by {error:.1e} from whole rows"


def _final_states(backbone: Backbone, batch: Batch) -> Tensor:
    with backbone.lock, torch.no_grad():
        inputs = {"use_cache": False, **batch.inputs}
        return backbone.model(**inputs, logits_to_keep=1).logits[:, -1].float()
