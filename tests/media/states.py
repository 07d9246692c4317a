"""States of rows with media, and how far apart two states are."""

from typing import Any

import torch
from torch import Tensor

from probes.media.sources import MediaOptions
from probes.model.backbone import Backbone
from probes.model.trace import record
from tests.models import MULTIMODAL

SITES = ["attn[0]", "attn[-1]", "norm"]


def states(backbone: Backbone, *sources: Any) -> Tensor:
    recorded = record(backbone, backbone.encode(sources), SITES)
    return torch.cat([recorded[site] for site in SITES], dim=-1)


def apart(left: Tensor, right: Tensor) -> float:
    return ((left - right).norm(dim=-1) / right.norm(dim=-1)).max().item()


def loaded(name: str, **options: Any) -> Backbone:
    model, processor = MULTIMODAL[name]()
    return Backbone.load(model, processor=processor, media=MediaOptions(**options))
