"""Search over a store: exact, approximate, hybrid, and the geometry of its corpus."""

from typing import Literal

Index = Literal["hnsw", "pq"]
"""Kinds of approximate index (see `freeret.search.ann`)."""
Lexicality = Literal["auto", "on", "off"]
"""Whether a search has a lexical leg; "auto": where the recipe gives it a weight."""
MEMORY = 4.0
"""Default RAM budget in GiB for the vectors of a store."""
