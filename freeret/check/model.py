"""Checks of the model itself: anatomy, weights, attention, batch invariance, throughput."""

import torch

from freeret.check.agreement import SITE, agreement, alone, noise, states, tolerance
from freeret.check.line import Check, tried
from freeret.scale.sizing import tokens_per_second
from probes import Backbone, Item
from probes.model.batches.sharing import share_error
from probes.model.batches.states import device_states
from probes.prompts import NAMED

TEXTS = (
    "A dog sleeps.",
    "The committee postponed its decision until the following spring.",
    "Rain",
)
IMPLEMENTATION = "_attn_implementation"
WINDOWED = ("window_size", "fullatt_block_indexes")
"""Settings of a vision tower with window attention (Qwen2.5-VL, -Omni)."""


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
    """Where the sites are read. Loading fails unless the equations hold, up to notes."""
    anatomy = backbone.anatomy
    mid = f"{anatomy.layers}.l.{anatomy.mid}, after attention is added and before the MLP"
    return [
        Check("layers", f"{anatomy.num_layers} at {anatomy.layers}"),
        Check("attn[l] enters", mid),
        Check("final norm, LM head", f"{anatomy.norm}, {anatomy.head}"),
        _error("mid = in + attention", anatomy.residual_error),
        _error("out = mid + MLP", anatomy.output_error, "; ".join(anatomy.notes)),
        _error("logits = head(norm)", anatomy.logit_error),
    ]


def _error(what: str, error: float, note: str = "") -> Check:
    words = note or f"relative error {error:.1e}"
    return Check(what, words, "note" if note else "ok", value=error)


def _weights(backbone: Backbone) -> Check:
    """The digest that identifies a store: offloaded weights must be readable outside a forward."""
    parameters = list(backbone.model.parameters())
    offloaded = sum(parameter.is_meta for parameter in parameters)
    digest = backbone.fingerprint()["weights"]
    return Check("weights", f"{digest}, {offloaded} of {len(parameters)} offloaded")


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
    listed = ", ".join(f"{name} {implementation}" for name, implementation in used.items())
    slow = per_window(towers.get("vision"), backbone.device)
    return Check("attention", f"{listed}: {slow}" if slow else listed, "note" if slow else "ok")


def per_window(tower: object, device: torch.device) -> str:
    """Say what it costs where a vision tower attends to one window of a picture at a time.

    Args:
        tower: The config of the vision tower, or None.
        device: Device of the model.

    Returns:
        The cost and the remedy in words; empty if there is no cost.
    """
    windowed = all(hasattr(tower, setting) for setting in WINDOWED)
    used = str(getattr(tower, IMPLEMENTATION, None))
    if device.type != "cuda" or not windowed or used == "sdpa" or used.startswith("flash"):
        return ""
    return (
        "the vision tower launches one attention kernel per window of a picture, thousands in all, "
        "and the GPU idles between them; load it with sdpa, which takes one call for all windows"
    )


def _batches(backbone: Backbone) -> list[Check]:
    """Whether a row's state depends on its batch, or on where its prefix is computed."""
    rows = [backbone.row(NAMED["prompteol"].apply(Item(text))) for text in TEXTS]
    single = alone(backbone, rows)
    rounding = noise(backbone, rows, single)
    limit = tolerance(rounding)
    whole = states(backbone, backbone.collate(rows))
    return [
        Check("rounding", f"moves a state by {rounding:.1e} in {_dtype(backbone)}", value=rounding),
        agreement("padded batch against single rows", whole, single, limit),
        _prefix(backbone, limit),
    ]


def _prefix(backbone: Backbone, limit: float) -> Check:
    """Rows that share the control prompt's instructions, whose KV cache is computed once."""
    if reason := share_error(backbone):
        return Check("shared prefix", f"not used, so slower: {reason}", "note")
    rows = [backbone.row(NAMED["control"].apply(Item(text))) for text in TEXTS]
    shared = device_states(backbone, rows, [SITE])[:, 0].cpu()
    whole = states(backbone, backbone.collate(rows))
    return agreement("shared prefix against whole rows", shared, whole, limit)


def _throughput(backbone: Backbone) -> Check:
    speed = tokens_per_second(backbone)
    words = f"{speed:.0f} tokens/s on {backbone.device}, {_dtype(backbone)}"
    return Check("stage 1 throughput", words, value=speed)


def _dtype(backbone: Backbone) -> str:
    return str(backbone.dtype).removeprefix("torch.")
