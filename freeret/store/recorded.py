"""Load the backbone of a store again: as the store records it, unless requested otherwise.

A store records the settings that were requested, and in the fingerprint of its backbone those that
the model and the device decided. The device is no part of the identity: vectors made on a GPU can
be searched on a CPU.
"""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from freeret.store.identity import differences
from freeret.store.table import Store
from probes import Backbone, Loading
from probes.embedded import ALIASES
from probes.errors import BadSetting
from probes.model.pretrained import usable_device

log = logging.getLogger(__name__)

DIFFERENCE = 4e-4
"""Largest gap to 1 of the cosine between the float32 and the bfloat16 vector of a text, over 50
texts under three prompts on smollm2-135m (1e-4 on average). Between the attention implementations
sdpa and eager it is the same in bfloat16, and 3e-7 in float32."""
BITS = {"float32": 32, "bfloat16": 16, "float16": 16}
NOWHERE = ("cpu", "disk", "meta")
"""Values of a device map that every machine has."""


def recorded_loading(identity: Mapping[str, Any]) -> Loading:
    """The settings that made a store, from its identity. For a store without `loading`, made by an
    earlier version, most of them follow from the fingerprint."""
    fingerprint: Mapping[str, Any] = identity["backbone"]
    decided = {
        **(fingerprint.get("media") or {}),
        **{name: fingerprint.get(name) for name in ("dtype", "revision", "max_tokens")},
    }
    return Loading.from_json({**identity.get("loading", {}), **decided})


def reopen_backbone(store: Store, model: str | Path | None, requested: Loading) -> Backbone:
    """Load the backbone that made a store.

    Args:
        model: Where the backbone is now, if not where it was.

    Raises:
        StoreMismatch: `model` is the alias of another embedded backbone; nothing is loaded then.
        BackboneNotFound, UnsupportedBackbone, BadSetting, OutOfMemory: It cannot be loaded.
    """
    identity = store.identity
    made_with = identity["backbone"]["model"]
    if model is not None and str(model) != made_with and {str(model), made_with} <= ALIASES.keys():
        other = {**identity["backbone"], "model": str(model), "weights": None}
        store.require({**identity, "backbone": other})
    recorded = recorded_loading(identity)
    if requested.device is None and requested.device_map is None:
        recorded = _on_this_machine(recorded)
    if model is not None and str(model) != made_with:
        recorded = replace(recorded, revision=None)  # it is a commit of another repository
    return Backbone.load(model or made_with, recorded.updated(requested))


def require_for_search(store: Store, identity: dict[str, Any], backbone: Backbone) -> None:
    """`Store.require` for a search: dtype and attention implementation may differ from the store's,
    with a warning, if they were requested when the backbone was loaded.

    Args:
        identity: What would be used now.

    Raises:
        StoreMismatch: The identities differ in anything else.
    """
    ours, theirs = identity["backbone"], store.identity["backbone"]
    different = differences(theirs, ours)
    requested = {"dtype": backbone.loading.dtype, "attention": backbone.loading.attn}
    allowed = {key for key, value in requested.items() if key in different and value is not None}
    if "dtype" in allowed and "weights" in different and _same_weights(theirs, ours, backbone):
        allowed.add("weights")
    store.require(identity, {f"backbone.{key}" for key in allowed})
    for key in sorted(allowed - {"weights"}):
        warnings.warn(
            f"{store.location} was made with {key} {theirs[key]} and is searched with {ours[key]}: "
            f"the two vectors of a text have a cosine of {1 - DIFFERENCE:.4f} or more (measured on "
            "smollm2-135m), so close hits may change places",
            stacklevel=3,
        )


def _same_weights(theirs: Mapping[str, Any], ours: Mapping[str, Any], backbone: Backbone) -> bool:
    """Whether the same weights were rounded to another dtype. Rounding ours to theirs shows it,
    unless theirs is the finer dtype: then the name must do."""
    if BITS.get(ours["dtype"], 0) <= BITS.get(theirs["dtype"], 0):
        return ours["model"] == theirs["model"]
    return backbone.weights_digest(theirs["dtype"]) == theirs["weights"]


def _on_this_machine(loading: Loading) -> Loading:
    """The settings without a device that this machine lacks."""
    placed = loading.device_map
    mapped = placed.values() if isinstance(placed, Mapping) else []
    try:
        for device in (loading.device, *(d for d in mapped if d not in NOWHERE)):
            usable_device(f"cuda:{device}" if isinstance(device, int) else device)
    except BadSetting as error:
        log.warning("%s; the store was made there, so the default device is used", error)
        return replace(loading, device=None, device_map=None)
    return loading
