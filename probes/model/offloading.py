"""Weights that accelerate has offloaded to main memory or disk, because the device is too small.

Such a weight is on the meta device, and is loaded only for a forward of its module or of a module
around it.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate.utils import align_module_device, has_offloaded_params

from probes.errors import UnsupportedBackbone


@contextmanager
def loaded(model: Any, path: str) -> Iterator[Any]:
    """The module at a path, with its weights in memory."""
    module, holder = model.get_submodule(path), _holder(model, path)
    with align_module_device(holder) if holder is not None else nullcontext():
        yield module


def device_of(module: Any) -> torch.device:
    """The device on which a module computes."""
    if module.weight.is_meta and has_offloaded_params(module):
        return torch.device(module._hf_hook.execution_device)
    return module.weight.device


def check_weights(model: Any) -> None:
    """Raise UnsupportedBackbone for a weight that is neither in memory nor offloaded."""
    for path, _ in model.named_modules():
        _holder(model, path)


def _holder(model: Any, path: str) -> Any:
    """The module whose forward loads the weights of the module at a path, or None where they are in
    memory. Raises UnsupportedBackbone where they are neither."""
    names = path.split(".")
    for length in range(len(names), -1, -1):
        holder = model.get_submodule(".".join(names[:length]))
        if has_offloaded_params(holder):
            return holder
    if any(weight.is_meta for weight in model.get_submodule(path).parameters(False)):
        raise UnsupportedBackbone(
            f"{path}: its weights are on the meta device, and accelerate has no hook that loads "
            "them; load the model with from_pretrained, with device_map where it is too large"
        )
    return None
