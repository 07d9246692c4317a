"""Digests by which a backbone is recognised: of its weights, its processor and the packages."""

import functools
import hashlib
import json
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from probes.model.offloading import loaded


def weights_digest(model: Any, dtype: str | None = None) -> str:
    """A checksum over a sample of all weights, as they are or rounded to a dtype."""
    digest = hashlib.sha256()
    rounded = None if dtype is None else getattr(torch, dtype)
    for name, weight in model.state_dict().items():
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        if weight.is_meta:
            path, _, leaf = name.rpartition(".")
            with loaded(model, path) as module:
                digest.update(_sample(getattr(module, leaf), rounded))
        else:
            digest.update(_sample(weight, rounded))
    return digest.hexdigest()[:16]


def _sample(weight: Tensor, dtype: torch.dtype | None) -> bytes:
    """64 values of a weight, evenly spaced, as bytes of float32."""
    flat = weight.detach().flatten()
    values = flat[:: max(1, flat.numel() // 64)][:64]
    rounded = values.to(dtype) if dtype is not None and weight.is_floating_point() else values
    return rounded.to("cpu", torch.float32).numpy().tobytes()


def processor_digest(processor: Any) -> str | None:
    """A checksum over the settings of a processor; None where there is none."""
    if processor is None:
        return None
    try:
        settings = processor.to_dict()
    except ValueError:  # Ernie's video processor, without the font that it writes times with
        settings = processor.image_processor.to_dict()
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the packages that decide states."""
    return {name: version(name) for name in ("torch", "transformers", "nnsight", "tokenizers")}
