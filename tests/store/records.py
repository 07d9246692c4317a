"""Records of made-up vectors, and the identity of a store that holds them."""

import json
from typing import Any

import numpy as np

from freeret.recipe import Recipe
from freeret.store.payload import Record, content_hash, pack
from probes import Item

IDENTITY: dict[str, Any] = {
    "backbone": {"model": "m", "weights": "abc", "versions": {"torch": "2.14", "nnsight": "0.8"}},
    "embedder": {"site": "attn[3]", "prompts": [{"name": "e5v"}], "truncate_dim": None},
    "recipe": {"prompt": "e5v", "geometry": "none"},
}
SIZE = 8
PLAIN = Recipe("e5v", "attn[-1]", "centre", None)


def changed(path: str, value: Any) -> dict[str, Any]:
    """IDENTITY with one entry changed."""
    identity = json.loads(json.dumps(IDENTITY))
    *outer, last = path.split(".")
    inner = identity
    for key in outer:
        inner = inner[key]
    inner[last] = value
    return identity


def made(id: str, item: Item | None = None, seed: int = 0) -> Record:
    item = item or Item(f"text of {id}", metadata={"from": id})
    packed = pack(item)
    vector = np.random.default_rng([seed, *id.encode()]).normal(size=SIZE).astype(np.float32)
    digest = content_hash(item, packed)
    return Record(id, digest, item.signature, *packed, vector)
