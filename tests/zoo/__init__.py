"""More families of the installed transformers, as tiny random models with their real processors.

`ZOO` maps a name to a builder, as `models.MULTIMODAL` does; `HYBRIDS` are text models whose layers
do not all attend, or end with more than their MLP; `UNREAD` cannot be used as they are.
"""

from collections.abc import Callable
from typing import Any

from tests.models import causal, shared
from tests.zoo.building import scaled
from tests.zoo.patches import GEMMA4_TEXT, PATCHES, PER_LAYER
from tests.zoo.tiles import TILES, UNREAD

__all__ = ["HYBRIDS", "UNREAD", "ZOO"]

ZOO: dict[str, Callable[[], tuple[Any, Any]]] = PATCHES | TILES

DELTA: dict[str, Any] = {
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
MAMBA: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16}


def gemma4_text() -> Any:
    kinds = ["sliding_attention", "full_attention"] * 2
    return scaled(causal("gemma4_text", **GEMMA4_TEXT | PER_LAYER, head_dim=16, layer_types=kinds))


HYBRIDS: dict[str, Callable[[], Any]] = {
    "qwen3-next": shared(
        causal,
        "qwen3_next",
        moe_intermediate_size=48,
        shared_expert_intermediate_size=48,
        num_experts=4,
        num_experts_per_tok=2,
        **DELTA,
    ),
    "qwen3.5-text": shared(causal, "qwen3_5_text", **DELTA),
    "lfm2": shared(
        causal,
        "lfm2",
        layer_types=["conv", "full_attention"] * 2,
        block_auto_adjust_ff_dim=False,
    ),
    "jamba": shared(
        causal, "jamba", attn_layer_period=2, attn_layer_offset=1, mamba_d_state=8, num_experts=4
    ),
    "granite-hybrid": shared(
        causal,
        "granitemoehybrid",
        layer_types=["mamba", "attention"] * 2,
        num_local_experts=0,
        shared_intermediate_size=96,
        residual_multiplier=0.3,
        logits_scaling=2.0,
        **MAMBA,
    ),
    "gemma4-text": shared(gemma4_text),
}
