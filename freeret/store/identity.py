"""Identities of what made a store or a result file, and how two of them differ in words."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from freeret.embedder import Embedder
from freeret.recipe import Recipe

MODEL = ("weights", "architecture", "layers", "attn_site")
"""Keys that tell another model. When one differs, the keys of OF_MODEL are not listed."""
OF_MODEL = ("tokenizer", "processor", "media", "max_tokens", "model", "revision")
WORDS = {
    "attention": "attention implementation",
    "cascade": "lead up to which queries are reranked",
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
"""Names of keys in messages, where the key itself is not the word."""
OPAQUE = ("media", "processor", "reasons", "tokenizer")
"""Keys whose values are not shown: they are too long, or checksums."""


def store_identity(embedder: Embedder, recipe: Recipe) -> dict[str, Any]:
    """The settings that a store records: those that decide its vectors, and the recipe."""
    return {
        "backbone": embedder.backbone.fingerprint(),
        "loading": embedder.backbone.loading.given(),
        "embedder": embedder.identity(),
        "recipe": recipe.to_json(),
    }


def flat(identity: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """An identity with the keys of nested mappings joined by dots, and JSON values."""
    entries: dict[str, Any] = {}
    for key, value in json.loads(json.dumps(identity)).items():
        if isinstance(value, dict):
            entries |= flat(value, f"{prefix}{key}.")
        else:
            entries[f"{prefix}{key}"] = value
    return entries


def differences(made: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """The keys of `flat` under which two identities differ."""
    theirs, ours = flat(made), flat(requested)
    return [key for key in theirs | ours if theirs.get(key) != ours.get(key)]


def in_words(made: Mapping[str, Any], requested: Mapping[str, Any], keys: Collection[str]) -> str:
    """Say how an identity differs from the requested one, beginning with the names of the models.

    Args:
        keys: The keys of `differences` that matter.

    Returns:
        A clause such as "was made with smollm2-135m, you asked for smolsight; prompt e5v, now
        control".
    """
    theirs, ours = flat(made), flat(requested)
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
    """The last word of a key; all settings of pictures and videos are `media`."""
    words = key.split(".")
    return "media" if "media" in words else words[-1]


def _model(identity: Mapping[str, Any]) -> str:
    """The name of the backbone, whichever key of the identity holds it."""
    names = (value for key, value in identity.items() if key.split(".")[-1] == "model")
    return str(next(names, "no model"))


def _clause(part: str, made: Any, requested: Any) -> str:
    word = WORDS.get(part, part)
    before, now = _in_message(made), _in_message(requested)
    if part in OPAQUE:
        return f"another {word}"
    if before == now:
        return f"another wording of the {word} {now}"
    return f"{word} {before}, now {now}"


def _in_message(value: Any) -> str:
    """A value as messages show it; prompts by their names."""
    if isinstance(value, list):
        return ", ".join(_in_message(entry) for entry in value) or "none"
    if isinstance(value, dict):
        return str(value.get("name") or value.get("kind"))
    return "none" if value is None else str(value)
