"""Two devices on a machine without any: tensors that know where they are, and refuse to mix."""

import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)


class Placed(torch.Tensor):
    """A tensor of the CPU that says it is on another device. As on a real one, an operation takes
    tensors of one device only, apart from scalars; weights and inputs that are plain tensors go
    with every device."""

    place: torch.device

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func == torch.Tensor.device.__get__:  # type: ignore[attr-defined]
                return args[0].place
            kwargs = dict(kwargs or {})
            name = getattr(func, "__name__", "")
            places = {tensor.place for tensor in _placed((args, kwargs)) if tensor.dim()}
            if len(places) > 1:
                raise RuntimeError(f"{name}: tensors are on several devices: {places}")
            place = places.pop() if places else None
            if name in ("to", "cpu", "numpy", "tolist", "item"):
                place, args, kwargs = _moved(place, name, args, kwargs)
            return _put(func(*_plain(args), **_plain(kwargs)), place)


class Anywhere(TorchFunctionMode):
    """New tensors are plain ones, whatever device they are asked for on."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if not any(True for _ in _placed((args, kwargs))):
            kwargs.pop("device", None)
            if getattr(func, "__name__", "") == "to":
                args = (args[0], *(a for a in args[1:] if not isinstance(a, str | torch.device)))
                return func(*args, **kwargs) if len(args) > 1 or kwargs else args[0]
        return func(*args, **kwargs)


def put(tensor: torch.Tensor, place: torch.device) -> torch.Tensor:
    """The same values on a device."""
    with torch._C.DisableTorchFunctionSubclass():
        placed = _plain(tensor).as_subclass(Placed)
        placed.place = place
        return placed


@contextmanager
def on_two_devices(model: nn.Module) -> Iterator[Any]:
    """A copy of a decoder whose second half of layers, final norm and head are on the second
    device, as accelerate runs it: what enters a module is brought to it, and the logits go back to
    where the input was."""
    model = copy.deepcopy(model)
    decoder: Any = model.get_decoder()  # type: ignore[operator]
    layers = list(decoder.layers)
    places = {layer: FIRST if i < len(layers) // 2 else SECOND for i, layer in enumerate(layers)}
    places |= {decoder.norm: SECOND, model.get_output_embeddings(): SECOND}  # type: ignore[operator]
    handles = [
        module.register_forward_pre_hook(
            lambda _, args, kwargs, place=place: (_put(args, place), _put(kwargs, place)),
            with_kwargs=True,
        )
        for module, place in places.items()
    ]

    forward = model.forward

    @functools.wraps(forward)
    def bring_back(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = put(output.logits, FIRST)
        return output

    model.forward = bring_back
    with Anywhere():
        yield model
    for handle in handles:
        handle.remove()


def _placed(value: Any) -> Iterator[Placed]:
    if isinstance(value, Placed):
        yield value
    elif isinstance(value, dict):
        yield from _placed(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _placed(part)


def _each(value: Any, change: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return type(value)({key: _each(part, change) for key, part in value.items()})
    if type(value) in (list, tuple):
        return type(value)(_each(part, change) for part in value)
    return value


def _plain(value: Any) -> Any:
    return _each(value, lambda t: t.as_subclass(torch.Tensor))


def _put(value: Any, place: torch.device | None) -> Any:
    return _each(value, _plain if place is None else lambda t: put(t, place))


def _moved(place: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
    """Where a tensor goes, and the call without the device, which is none of this machine."""
    if name != "to":
        return None, args, kwargs
    devices = [
        torch.device(a) for a in (*args[1:], kwargs.pop("device", None))
        if isinstance(a, str | torch.device)
    ]  # fmt: skip
    tensors = [a for a in args[1:] if isinstance(a, torch.Tensor)]
    kept = (args[0], *(a for a in args[1:] if not isinstance(a, str | torch.device)))
    if tensors:
        devices, kept = [tensors[0].device], (args[0], tensors[0].dtype)
    if not devices:
        return place, kept, kwargs
    return (None if devices[0].type == "cpu" else devices[0]), kept, kwargs
