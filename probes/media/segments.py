"""Attention of a vision tower over all segments of a packed sequence at once.

Towers of the Qwen family pack pictures and windows into one sequence. To an attention function that
is called flash… transformers gives the whole sequence and the boundaries of its segments; it calls
any other once per segment, hundreds of times per picture. The function of this file takes the whole
sequence too and needs no further package: on a GPU it is the variable-length flash attention of
PyTorch, elsewhere segments of one length share a call.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface

SEGMENTS = "flash_segments"
"""The name under which transformers knows `attend`; towers look for the word flash in it."""


def attend(
    module: nn.Module,
    query: Float[Tensor, "1 heads tokens dimension"],
    key: Float[Tensor, "1 heads tokens dimension"],
    value: Float[Tensor, "1 heads tokens dimension"],
    attention_mask: None = None,
    *,
    scaling: float,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    **_: Any,
) -> tuple[Float[Tensor, "1 tokens heads dimension"], None]:
    """Full attention within each segment of a packed sequence, in the form of an attention function
    of transformers, whose layer and mask it ignores. `cu_seq_lens_q` holds where segments begin,
    and where the last one ends, `[segments + 1]`; `max_length_q` is the length of the longest."""
    packed = [x[0].transpose(0, 1) for x in (query, key, value)]
    queries, keys, values = packed
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        from torch.nn.attention.varlen import varlen_attn

        # The function's scale is that of the dimension; any other goes into the queries.
        queries = queries * (scaling * query.shape[-1] ** 0.5)
        bounds = cu_seq_lens_q.to(torch.int32)
        longest = max_length_q
        output = varlen_attn(queries, keys, values, bounds, bounds, longest, longest)
        assert isinstance(output, Tensor)
        return output[None], None
    output = torch.empty_like(values)
    for rows in _by_length(cu_seq_lens_q):
        q, k, v = (x[rows.flatten()].unflatten(0, rows.shape).transpose(1, 2) for x in packed)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, scale=scaling)
        output[rows.flatten()] = attended.transpose(1, 2).flatten(0, 1)
    return output[None], None


def _by_length(bounds: Tensor) -> Iterator[Tensor]:
    """Positions of the tokens of all segments of one length, `[segments, length]`, for each
    length."""
    lengths = bounds.diff()
    for length in lengths.unique().tolist():
        starts = bounds[:-1][lengths == length]
        yield starts[:, None] + torch.arange(length, device=bounds.device)


def segmented(model: nn.Module) -> list[Any]:
    """The configs of all towers in a model whose attention is over segments and is left to
    transformers' default."""
    configs: dict[int, Any] = {}
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if config is not None and "cu_seqlens" in signature(module.forward).parameters:
            configs[id(config)] = config
    return [config for config in configs.values() if config._attn_implementation == "sdpa"]


@contextmanager
def whole_sequences(configs: Sequence[Any]) -> Iterator[None]:
    """Within the `with` statement, the towers of `segmented` attend to all segments in one call."""
    AttentionInterface.register(SEGMENTS, attend)
    try:
        for config in configs:
            config._attn_implementation = SEGMENTS
        yield
    finally:
        for config in configs:
            config._attn_implementation = "sdpa"
