"""Blocks to search: read from a store or kept in memory, in the geometry of the corpus."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from freeret.search.exact import Block
from freeret.store.filters import EVERYTHING, Selection
from freeret.store.rows import Loaded, Texts
from freeret.store.table import Store
from probes import Geometry

MAX_BLOCK_BYTES = 2**26
"""Bytes of a block where memory is no concern. Larger ones are slower: their pages are new to the
process each time."""


def block_rows(dimension: int, queries: int, memory: float = MAX_BLOCK_BYTES) -> int:
    """Rows of a block that fits in memory.

    Args:
        dimension: Of the vectors, which are held four times: as read, mapped, and in float64.
        queries: Number of queries; the scores of a block are held twice.
        memory: Bytes that a block may take; more than MAX_BLOCK_BYTES are not used.
    """
    return int(max(1, min(MAX_BLOCK_BYTES, memory) // (4 * (4 * dimension + 2 * queries))))


def scan(
    store: Store, geometry: Geometry, rows: int, selection: Selection = EVERYTHING
) -> Iterator[Block]:
    """The selected items of a store in its geometry, at most `rows` at a time."""
    metadata = selection.filter is not None
    for loaded in store.blocks(rows, metadata=metadata, where=selection.sql()):
        for part in map_rows(loaded, geometry):
            yield apply_filter(part, selection)


def map_rows(loaded: Loaded, geometry: Geometry) -> list[Loaded]:
    """Rows with their vectors mapped, in one part per modality signature."""
    return [
        replace(part, vectors=geometry.map(part.vectors, signature, "document"))
        for signature, part in loaded.by_signature().items()
    ]


def apply_filter(
    part: Loaded, selection: Selection = EVERYTHING, copy: Tensor | None = None
) -> Block:
    """The selected ones of mapped rows of one modality signature.

    Args:
        copy: Their vectors on a GPU, if they are there (`freeret.search.exact.resident`).
    """
    signature = part.signature
    if not selection.takes_signature(signature) or selection.filter is not None:
        places = _passing(part, selection)
        part = part.take(places)
        copy = None if copy is None else copy[torch.from_numpy(places).to(copy.device)]
    return Block(Texts(part.columns["id"]), part.vectors, signature, copy)


def _passing(part: Loaded, selection: Selection) -> np.ndarray:
    """The places of the rows that pass; metadata is not read where the signature decides."""
    if not selection.takes_signature(part.signature):
        return np.empty(0, int)
    return np.flatnonzero([selection.takes_metadata(metadata) for metadata in part.metadata])
