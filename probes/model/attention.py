"""Which attention of PyTorch a forward uses: the fastest that gives the same states."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch

FORCE_GQA = "TRANSFORMERS_SDPA_FORCE_GQA"
"""The variable by which transformers leaves grouped heads to PyTorch's attention."""


class Setting:
    """A setting of the process that forwards change, in any number of threads: it is as before when
    the last of them has ended."""

    def __init__(self, change: Callable[[], Callable[[], object]]):
        """`change` changes it, and returns what sets it back."""
        self.change, self.restore = change, lambda: None
        self.forwards, self.lock = 0, threading.Lock()

    @contextmanager
    def changed(self) -> Iterator[None]:
        with self.lock:
            if self.forwards == 0:
                self.restore = self.change()
            self.forwards += 1
        try:
            yield
        finally:
            with self.lock:
                self.forwards -= 1
                if self.forwards == 0:
                    self.restore()


def _leave_out_cudnn() -> Callable[[], object]:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    return lambda: torch.backends.cuda.enable_cudnn_sdp(before)


def _copy_no_keys() -> Callable[[], object]:
    before = os.environ.get(FORCE_GQA)
    os.environ[FORCE_GQA] = "1"
    if before is None:
        return lambda: os.environ.pop(FORCE_GQA)
    return lambda: os.environ.update({FORCE_GQA: before})


WITHOUT_CUDNN = Setting(_leave_out_cudnn)
"""For packs. Under a mask PyTorch prefers cuDNN's attention on an H100, which is two to three times
as fast as the memory-efficient one but plans every new shape for 50 ms, and nearly every batch of
packs has a shape of its own. That is longer than the attention of all layers of a 7B model takes,
unless rows have far more than 1,000 tokens."""
KEYS_NOT_COPIED = Setting(_copy_no_keys)
"""On a CPU. Attention reads keys and values that several heads share where they are; wherever there
is a mask transformers would copy them for each head, with the same result, bit for bit. On a GPU
only cuDNN's attention can do so under a mask."""


@contextmanager
def fast_attention(device: torch.device, *, packed: bool) -> Iterator[None]:
    """Choose the attention of the forward within the context.

    Args:
        device: Where the model is.
        packed: Whether the batch holds packs, and not whole rows.
    """
    on_cpu = device.type == "cpu"
    with (
        WITHOUT_CUDNN.changed() if packed else nullcontext(),
        KEYS_NOT_COPIED.changed() if on_cpu else nullcontext(),
    ):
        yield
