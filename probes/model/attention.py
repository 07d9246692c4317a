"""Which attention of PyTorch a forward uses: the fastest that gives the same states."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

PACKED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""What PyTorch chooses from for packs. Under a mask it would prefer cuDNN on an H100, which is two
to three times as fast as the memory-efficient attention but plans every new shape for 50 ms, and
nearly every batch of packs has a shape of its own. That is longer than the attention of all layers
of a 7B model takes, unless rows have far more than 1,000 tokens."""
FORCE_GQA = "TRANSFORMERS_SDPA_FORCE_GQA"
"""The variable by which transformers leaves grouped heads to PyTorch's attention."""


@contextmanager
def fast_attention(device: torch.device, *, packed: bool) -> Iterator[None]:
    """Choose the attention of the forward within the context.

    Args:
        device: Where the model is.
        packed: Whether the batch holds packs, and not whole rows.
    """
    with sdpa_kernel(PACKED) if packed else nullcontext():
        if device.type == "cpu":
            with _keys_not_copied():
                yield
        else:
            yield


@contextmanager
def _keys_not_copied() -> Iterator[None]:
    """Attention reads keys and values that several heads share where they are. Wherever there is a
    mask transformers would copy them for each head, with the same result, bit for bit. On a GPU
    only cuDNN's attention can do so under a mask."""
    before = os.environ.get(FORCE_GQA)
    os.environ[FORCE_GQA] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FORCE_GQA]
        else:
            os.environ[FORCE_GQA] = before
