"""Search over a store: exact, approximate, and the geometry of its corpus."""

from typing import Literal

Index = Literal["hnsw", "pq"]
"""Kinds of approximate index (see `freeret.search.ann`)."""
MEMORY = 4.0
"""Default RAM budget in GiB for the vectors of a store."""
