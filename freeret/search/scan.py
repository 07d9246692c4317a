"""Blocks to search: read from a store or kept in memory, in the geometry of the corpus."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from freeret.search.exact import Block
from freeret.store.filters import EVERYTHING, Selection
from freeret.store.rows import Loaded
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
        replace(part, vectors=geometry.map(part.vectors, part.signatures, "document"))
        for part in loaded.by_signature().values()
    ]


def apply_filter(part: Loaded, selection: Selection = EVERYTHING) -> Block:
    """The selected ones of mapped rows of one modality signature."""
    signature = part.signatures[0]
    if not selection.takes_signature(signature):
        return Block([], part.vectors[:0], signature)
    if selection.filter is None:
        return Block(part.ids, part.vectors, signature)
    rows = [i for i, metadata in enumerate(part.metadata) if selection.takes_metadata(metadata)]
    vectors = part.vectors[torch.tensor(rows, dtype=torch.long)]
    return Block([part.ids[i] for i in rows], vectors, signature)
