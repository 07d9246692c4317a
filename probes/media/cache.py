"""What is kept of media: the processor's tensors, or what a tower made of them; a bounded cache."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Processed:
    """What is kept of a medium: the processor's tensors, or the features made of them."""

    text: str
    positions: dict[str, Tensor]
    tensors: dict[str, Tensor]
    features: dict[str, Any] = field(default_factory=dict)
    pixels: int = 0
    """Width × height of the picture, or of a frame, that the processor was given."""

    @property
    def size(self) -> int:
        held = [*self.positions.values(), *self.tensors.values()]
        for output in self.features.values():
            held += [output.pooler_output[0], *(layer[0] for layer in _deepstack(output))]
        return sum(tensor.nbytes for tensor in held)


class Cache:
    """What was used last, up to so many bytes. Threads may share it."""

    def __init__(self, limit: int):
        self.limit, self.size = limit, 0
        self._held: OrderedDict[str, Processed] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> Processed | None:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: str, value: Processed) -> None:
        with self._lock:
            if key in self._held:
                self.size -= self._held.pop(key).size
            if value.size > self.limit:
                return
            self._held[key] = value
            self.size += value.size
            while self.size > self.limit:
                self.size -= self._held.popitem(last=False)[1].size


def _deepstack(output: Any) -> Sequence[Sequence[Tensor]]:
    return getattr(output, "deepstack_features", None) or []


def detach_output(output: Any) -> Any:
    """A tower's output with nothing but its features, as `[tokens, hidden]`, on the CPU."""
    pooled = output.pooler_output
    joined = [_flat(pooled)] if isinstance(pooled, list | tuple) else _flat([pooled])[None]
    layers = _deepstack(output)
    more = {"deepstack_features": [[_flat(layer)] for layer in layers]} if layers else {}
    return type(output)(pooler_output=joined, **more)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors]).cpu()


def merge_outputs(outputs: Sequence[Any], device: Any) -> Any:
    """Features of several media as one output of the tower."""
    lists = isinstance(outputs[0].pooler_output, list)
    pooled = [output.pooler_output[0].to(device) for output in outputs]
    layers = zip(*(_deepstack(output) for output in outputs), strict=True)
    more = [[part[0].to(device) for part in layer] for layer in layers]
    return type(outputs[0])(
        pooler_output=pooled if lists else torch.cat(pooled)[None],
        **({"deepstack_features": more} if more else {}),
    )


def pad_cat(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate along axis 0, zero-padding other axes to the largest (tiles, frames, time)."""
    largest = [max(t.shape[axis] for t in tensors) for axis in range(1, tensors[0].dim())]
    padded = []
    for tensor in tensors:
        missing = [n - have for n, have in zip(largest, tensor.shape[1:], strict=True)]
        widths = [w for m in reversed(missing) for w in (0, m)]
        padded.append(nn.functional.pad(tensor, widths) if any(missing) else tensor)
    return torch.cat(padded)
