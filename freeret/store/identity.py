"""Identities: what made a store or a result file, and in words how two of them differ."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from freeret.embedder import Embedder
from freeret.recipe import Recipe

MODEL = ("weights", "architecture", "layers", "attn_site")
"""Where these differ it is another model, and the next ones go without saying."""
OF_MODEL = ("tokenizer", "processor", "media", "max_tokens", "model", "revision")
WORDS = {
    "attention": "attention implementation",
    "depth": "depth of reranking",
    "depths": "depths of reranking",
    "frame": "frame of reranking",
    "fusion": "fusion weight",
    "max_tokens": "longest input",
    "media": "setting of pictures and videos",
    "processor": "setting of the processor",
    "prompts": "prompt",
    "reasons": "report behind the recipe",
    "tokenizer": "tokenizer or chat template",
    "truncate_dim": "dimensions kept",
}
"""How the parts of an identity are called in messages, where the key is not the word."""
OPAQUE = ("media", "processor", "reasons", "tokenizer")
"""What is too long to be shown, or a checksum, which tells a reader nothing."""


def store_identity(embedder: Embedder, recipe: Recipe) -> dict[str, Any]:
    """The settings that a store records: those that decide its vectors, and the recipe."""
    return {
        "backbone": embedder.backbone.fingerprint(),
        "loading": embedder.backbone.loading.given(),
        "embedder": embedder.identity(),
        "recipe": recipe.to_json(),
    }


def flat(identity: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """An identity with the keys of nested mappings joined by dots, its values as JSON has them."""
    found: dict[str, Any] = {}
    for key, value in json.loads(json.dumps(identity)).items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def differences(made: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """The keys of `flat` under which two identities differ."""
    theirs, ours = flat(made), flat(asked)
    return [key for key in theirs | ours if theirs.get(key) != ours.get(key)]


def in_words(made: Mapping[str, Any], asked: Mapping[str, Any], keys: Collection[str]) -> str:
    """Say how what is asked for differs from what made something: the models first, by name.

    Args:
        made: Identity of what is there.
        asked: Identity of what would be used now.
        keys: Those of `differences` that matter.

    Returns:
        A clause such as "was made with smollm2-135m, you asked for smolsight; prompt e5v, now
        control".
    """
    theirs, ours = flat(made), flat(asked)
    parts = {key: _part(key) for key in keys}
    names = [_model(identity) for identity in (theirs, ours)]
    if names[0] == names[1] and "dtype" in parts.values():  # rounded weights are other weights
        parts = {key: part for key, part in parts.items() if part != "weights"}
    other_model = any(part in MODEL for part in parts.values())
    if other_model:
        parts = {key: part for key, part in parts.items() if part not in (*MODEL, *OF_MODEL)}
    clauses = [_clause(part, theirs.get(key), ours.get(key)) for key, part in parts.items()]
    settings = "; ".join(dict.fromkeys(clauses))
    if not other_model:
        return f"was made with other settings: {settings}"
    head = f"was made with {names[0]}, you asked for {names[1]}"
    if names[0] == names[1]:
        head = f"was made with {names[0]} when it had other weights"
    return f"{head}; {settings}" if settings else head


def _part(key: str) -> str:
    """The last word of a key; all settings of pictures and videos are one part."""
    words = key.split(".")
    return "media" if "media" in words else words[-1]


def _model(identity: Mapping[str, Any]) -> str:
    """The name of the backbone, whichever part of the identity holds it."""
    names = (value for key, value in identity.items() if key.split(".")[-1] == "model")
    return str(next(names, "no model"))


def _clause(part: str, made: Any, asked: Any) -> str:
    word = WORDS.get(part, part)
    before, now = _shown(made), _shown(asked)
    if part in OPAQUE:
        return f"another {word}"
    if before == now:
        return f"another wording of the {word} {now}"
    return f"{word} {before}, now {now}"


def _shown(value: Any) -> str:
    """A value in a message; prompts by their names."""
    if isinstance(value, list):
        return ", ".join(_shown(entry) for entry in value) or "none"
    if isinstance(value, dict):
        return str(value.get("name") or value.get("kind"))
    return "none" if value is None else str(value)
