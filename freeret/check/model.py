"""The model itself: where its sublayers are, its weights and attention, batches and throughput."""

import torch
from transformers.utils import is_flash_attn_2_available

from freeret.check.agreement import agreement, alone, noise, states, tolerance
from freeret.check.line import Check, tried
from freeret.scale.sizing import tokens_per_second
from probes import Backbone, Item
from probes.model.batching import shared_prefix
from probes.model.prefix import share_error, window
from probes.prompts import NAMED

TEXTS = (
    "A dog sleeps.",
    "The committee postponed its decision until the following spring.",
    "Rain",
)
IMPLEMENTATION = "_attn_implementation"
WINDOWED = ("window_size", "fullatt_block_indexes")
"""Settings of a tower whose layers attend within windows of a picture (Qwen2.5-VL, -Omni)."""


def checks(backbone: Backbone) -> list[Check]:
    """The lines about the model itself."""
    return [
        *_anatomy(backbone),
        *tried("weights", lambda: [_weights(backbone)]),
        _attention(backbone),
        *tried("padded batch against single rows", lambda: _batches(backbone)),
        *tried("stage 1 throughput", lambda: [_throughput(backbone)]),
    ]


def _anatomy(backbone: Backbone) -> list[Check]:
    """Where the sites are read. A model whose h^Attn or logits are not these was not loaded."""
    found = backbone.anatomy
    mid = f"{found.layers}.l.{found.mid}, after attention is added and before the MLP"
    return [
        Check("layers", f"{found.num_layers} at {found.layers}"),
        Check("attn[l] enters", mid),
        Check("final norm, LM head", f"{found.norm}, {found.head}"),
        _error("mid = in + attention", found.residual_error),
        _error("out = mid + MLP", found.output_error, "; ".join(found.notes)),
        _error("logits = head(norm)", found.logit_error),
    ]


def _error(what: str, error: float, note: str = "") -> Check:
    found = note or f"relative error {error:.1e}"
    return Check(what, found, "note" if note else "ok", value=error)


def _weights(backbone: Backbone) -> Check:
    """Offloaded weights must be readable outside a forward too: a store is identified by them."""
    held = list(backbone.model.parameters())
    offloaded = sum(weight.is_meta for weight in held)
    found = backbone.fingerprint()["weights"]
    return Check("weights", f"{found}, {offloaded} of {len(held)} offloaded")


def _attention(backbone: Backbone) -> Check:
    """The implementation of attention that each part of the model uses."""
    config = backbone.model.config
    text = config.get_text_config(decoder=True)
    towers = {
        name.removesuffix("_config"): part
        for name in config.sub_configs
        if (part := getattr(config, name, None)) is not None and part is not text
    }
    parts = {"language model": text, **towers}
    used = {name: getattr(part, IMPLEMENTATION, None) for name, part in parts.items()}
    found = ", ".join(f"{name} {implementation}" for name, implementation in used.items())
    slow = without_flash(towers.get("vision"), backbone.device, is_flash_attn_2_available())
    return Check("attention", f"{found}: {slow}" if slow else found, "note" if slow else "ok")


def without_flash(tower: object, device: torch.device, installed: bool) -> str:
    """What the lack of flash-attn costs a vision tower on a device; "" where it costs nothing.

    Args:
        tower: The config of the vision tower, or None.
        device: Where the model is.
        installed: Whether flash-attn can be imported.
    """
    windowed = all(hasattr(tower, setting) for setting in WINDOWED)
    used = str(getattr(tower, IMPLEMENTATION, None))
    if device.type != "cuda" or not windowed or used.startswith("flash"):
        return ""
    remedy = "load it with flash_attention_2" if installed else "install flash-attn"
    return (
        "the tower attends to each window of a picture in a call of its own, and the GPU waits for "
        f"thousands of them; {remedy}, which takes one call for all windows"
    )


def _batches(backbone: Backbone) -> list[Check]:
    """A row's state must not depend on the rows beside it, nor on where its prefix is computed."""
    rows = [backbone.row(NAMED["prompteol"].apply(Item(text))) for text in TEXTS]
    single = alone(backbone, rows)
    moved = noise(backbone, rows, single)
    limit = tolerance(moved)
    whole = states(backbone, backbone.collate(rows))
    return [
        Check("rounding", f"moves a state by {moved:.1e} in {_dtype(backbone)}", value=moved),
        agreement("padded batch against single rows", whole, single, limit),
        _prefix(backbone, limit),
    ]


def _prefix(backbone: Backbone, limit: float) -> Check:
    """Under the control prompt, which is long enough to be shared."""
    if reason := share_error(backbone):
        return Check("shared prefix", f"not used, so slower: {reason}", "note")
    rows = [backbone.row(NAMED["control"].apply(Item(text))) for text in TEXTS]
    prefix = shared_prefix(backbone, rows)
    if prefix is None:
        found = f"not used for rows of {max(map(len, rows))} tokens, so slower: the attention "
        return Check("shared prefix", f"{found}window is {window(backbone):.0f}", "note")
    shared, whole = (states(backbone, made.collate(rows)) for made in (prefix, backbone))
    return agreement("shared prefix against whole rows", shared, whole, limit)


def _throughput(backbone: Backbone) -> Check:
    speed = tokens_per_second(backbone)
    found = f"{speed:.0f} tokens/s on {backbone.device}, {_dtype(backbone)}"
    return Check("stage 1 throughput", found, value=speed)


def _dtype(backbone: Backbone) -> str:
    return str(backbone.dtype).removeprefix("torch.")
