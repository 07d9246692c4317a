"""Vision towers: features of a medium, computed once and given to the language model.

The model takes them as `mm_encoder_outputs` in place of pixels.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from probes.media.cache import Processed

TOWERS = {"pixel_values": "image", "pixel_values_images": "image", "pixel_values_videos": "video"}
"""The tower (`get_…_features`) that reads each kind of pixels."""


def encode(model: Any, tokenizer: Any, processed: Processed, device: Any) -> Processed:
    """A processed medium with features in place of its pixels, on the CPU.

    It comes back unchanged where no tower reads it, or where the tower feeds deeper layers only
    (Granite 4 Vision): the model then runs the tower itself.
    """
    pixels = [key for key in TOWERS if key in processed.tensors]
    inputs = {**processed.positions, **cast(processed.tensors, model.dtype)}
    features = {
        _name(model, tokenizer, TOWERS[key], processed.text): _features(model, key, inputs, device)
        for key in pixels
    }
    if not pixels or any(output is None for output in features.values()):
        return processed
    return replace(processed, tensors={}, features=features)


def cast(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Pixels and sounds in the dtype of the model, as `BatchFeature.to` brings them: not every
    tower does it itself."""
    return {
        key: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for key, tensor in tensors.items()
    }


def _name(model: Any, tokenizer: Any, kind: str, text: str) -> str:
    """The name under which the model takes features. GLM and Molmo2 write the image token for
    videos too, and put features in order wherever that token stands."""
    id = getattr(model.config, "image_token_id", None)
    token = tokenizer.convert_ids_to_tokens(id) if id else None
    return "image" if kind == "video" and token and token in text else kind


@torch.no_grad()
def _features(model: Any, pixels: str, tensors: Mapping[str, Tensor], device: Any) -> Any:
    """The tower's output for one medium; None where it has no pooled output."""
    tower = getattr(model.base_model, f"get_{TOWERS[pixels]}_features")
    accepted = inspect.signature(tower).parameters
    inputs = {key: value.to(device) for key, value in tensors.items() if key in accepted}
    output = tower(**inputs, return_dict=True)
    return _detached(output) if output.pooler_output is not None else None


def _detached(output: Any) -> Any:
    """A tower's output with nothing but its features, on the CPU: one `[tokens, hidden]` tensor,
    in a list where the model expects lists, and one for each layer that DeepStack feeds."""
    pooled = output.pooler_output
    joined = [_flat(pooled)] if isinstance(pooled, list | tuple) else _flat([pooled])[None]
    layers = _deepstack(output)
    more = {"deepstack_features": [[_flat(layer)] for layer in layers]} if layers else {}
    return type(output)(pooler_output=joined, **more)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors]).cpu()


def _deepstack(output: Any) -> Sequence[Sequence[Tensor]]:
    return getattr(output, "deepstack_features", None) or []


def merge(outputs: Sequence[Any], device: Any) -> Any:
    """Features of several media as one output of the tower."""
    lists = isinstance(outputs[0].pooler_output, list)
    pooled = [output.pooler_output[0].to(device) for output in outputs]
    layers = zip(*(_deepstack(output) for output in outputs), strict=True)
    more = [[part[0].to(device) for part in layer] for layer in layers]
    return type(outputs[0])(
        pooler_output=pooled if lists else torch.cat(pooled)[None],
        **({"deepstack_features": more} if more else {}),
    )
