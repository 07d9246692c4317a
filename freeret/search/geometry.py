"""Geometry of a store, fitted with the help of reference items and of example queries."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from freeret.embedder import Embedder
from freeret.store.table import Store
from probes import Geometry, Item, as_items
from probes.data import pictures
from probes.embedded import default_cache
from probes.errors import BadSetting
from probes.files import write_atomic
from probes.geometry import CorpusGeometry, GeometryKind
from probes.measure.reference import Reference, cross_modal, reference_items, reference_vectors
from probes.prompts import Side

log = logging.getLogger(__name__)


def fit_geometry(kind: GeometryKind, store: Store, reference: Reference) -> Geometry:
    """Fit the geometry on everything stored, in one pass that holds one block at a time."""
    corpus = CorpusGeometry(kind)
    for block in store.blocks() if kind != "none" else ():
        for signature, part in block.by_signature().items():
            corpus.add(part.ids, signature, part.vectors)
    return corpus.fit(reference)


def example_vectors(
    embedder: Embedder, examples: Sequence[Any]
) -> dict[str, Float[Tensor, "_ hidden"]]:
    """Raw vectors of example queries by modality signature.

    Raises:
        BadSetting: There is a single example of a signature: it would be its own mean, and vanish.
    """
    items = as_items(examples)
    signatures = [item.signature for item in items]
    counts = Counter(signatures)
    for signature, count in counts.items():
        if count == 1:
            raise BadSetting(f"one example of {signature} alone has no mean; give two or more")
    raw = embedder.encode_query(items)
    return {name: raw[torch.tensor([s == name for s in signatures])] for name in counts}


def reference_of(embedder: Embedder, *, progress: bool = False) -> Reference:
    """Vectors of the reference items (`probes.measure.reference`).

    They are encoded once per backbone and extraction, and cached on disk for all stores and later
    processes.

    Returns:
        A function of side and modality signature, which encodes on first use.
    """

    def encode(items: Sequence[Item], side: Side) -> Tensor:
        name = "queries" if side == "query" else "documents"
        title = f"reference {name} ({items[0].signature}), once per model, kept in the cache"
        rows = [embedder.rows(item, side) for item in items]
        return embedder.encode_rows(rows, progress=title if progress else None)

    path = reference_path(embedder)
    kept: dict[str, Tensor] = {}

    def keep(name: str, make: Callable[[], Tensor]) -> Tensor:
        if name not in kept:
            kept.update(_read(path))
        if name not in kept:
            kept[name] = make()
            _write(path, {**_read(path), **kept})
        return kept[name]

    return reference_vectors(encode, symmetric=embedder.symmetric, keep=keep)


def reference_path(embedder: Embedder) -> Path:
    """The cache file of this backbone and extraction."""
    identity = {
        "backbone": embedder.backbone.fingerprint(),
        "embedder": embedder.identity(),
        "texts": [item.text for item in reference_items("query", cross_modal("text"))],
        "pictures": [row["file"] for row in pictures()],
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return default_cache() / "reference" / f"{key}.safetensors"


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path) if path.is_file() else {}
    except (OSError, SafetensorError) as error:
        log.warning("%s is damaged and will be made again (%s)", path, error)
        return {}


def _write(path: Path, vectors: dict[str, Tensor]) -> None:
    """Write the cache atomically, if it can be written: a search must not need that right."""
    try:
        write_atomic(path, save({name: rows.contiguous() for name, rows in vectors.items()}))
    except OSError as error:
        log.info("the vectors of the reference items are not kept in %s: %s", path, error)
