"""Whether a backbone can compute rows in packs that continue a cached prefix.

Attention must read nothing but its mask and its positions: a layer with a running state, a mask of
the model's own making or positions that are counted from the mask rule it out. This is tried once
for each backbone, with its weights, on rows of text and on rows of each kind of media.
"""

from collections.abc import Collection
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from probes.errors import FreeRetError
from probes.items import Item, Part
from probes.media.formats import Modality
from probes.media.towers import IN_HALF
from probes.model.backbone import Backbone
from probes.model.batches.packing import Pack
from probes.model.batches.prefix import Prefix, common_prefix
from probes.model.encoding import Batch, Row
from probes.model.trace import record

TOLERANCE = 1e-3
"""Largest relative error at which states agree, in float32."""

_errors: WeakKeyDictionary[Backbone, dict[Modality, str | None]] = WeakKeyDictionary()
"""Results of `share_error` for each kind of content."""


def share_error(backbone: Backbone, kinds: Collection[Modality] = ()) -> str | None:
    """The reason why this backbone computes rows with these kinds of media whole, or None where
    they can share a prefix."""
    if backbone.interventions:
        return "a shared beginning may have been computed without the interventions in effect"
    errors = _errors.setdefault(backbone, {})
    tried: list[Modality] = ["text", *sorted(kinds)]
    for kind in tried:
        if kind not in errors:
            errors[kind] = _try(backbone, kind)
        if errors[kind]:
            return errors[kind]
    return None


def _try(backbone: Backbone, kind: Modality) -> str | None:
    """Compare rows that share a prefix, and partly more, with the same rows computed alone."""
    if kind != "text" and not backbone.encoder.media_follow_prefix:
        return "the model computes masks or positions of media for whole rows only"
    try:
        rows = sorted(_rows(backbone, kind), key=lambda row: row.contents)
    except FreeRetError as error:
        return f"rows with {kind} cannot be tried: {error}"
    length = len(common_prefix(rows))
    try:
        prefix = Prefix(backbone, rows[0], length)
        prefix.layers  # noqa: B018  computed first, for the reason why it may fail
        whole = torch.cat([_states(backbone, backbone.collate([row])) for row in rows])
        packs = [Pack.of(backbone.encoder, some, length) for some in (rows[:-1], rows[-1:])]
        shared = _states(backbone, prefix.collate(packs))
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        return f"{type(backbone.model).__name__} cannot continue a cache: {error}"
    error = ((whole - shared).norm(dim=-1) / whole.norm(dim=-1)).max().item()
    tolerance = TOLERANCE if backbone.dtype == torch.float32 else IN_HALF
    return None if error <= tolerance else f"states differ by {error:.1e} from whole rows"


def _rows(backbone: Backbone, kind: Modality) -> list[Row]:
    """Rows that begin alike, one with a medium in what they share and one in what they do not."""
    if kind == "text":
        ids = backbone.encoder.plain.tokenize(
            "One two three four five six seven eight nine ten eleven."
        )
        half = len(ids) // 2
        return [Row(ids), Row([*ids[:-2], ids[0]]), Row([*ids[:half], *ids[:3]])]
    first, second = (Part(kind, value) for value in _noise(kind))
    one, two, three = (Part("text", word) for word in ("one", "two", "three"))
    return backbone.rows([Item(parts=[first, one, second, two]), Item(parts=[first, three, one])])


def _noise(kind: Modality) -> list[Any]:
    """Two small media of different content."""
    random = np.random.default_rng(0)
    if kind == "audio":
        return [{"array": random.normal(0, 0.1, 8000), "sampling_rate": 16_000} for _ in range(2)]
    shape = (4, 96, 128, 3) if kind == "video" else (96, 128, 3)
    return [random.integers(0, 256, shape, dtype=np.uint8) for _ in range(2)]


def _states(backbone: Backbone, batch: Batch) -> Tensor:
    return record(backbone, batch, ["norm"])["norm"].float().cpu()
