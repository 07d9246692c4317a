"""Search over a store: exact, approximate, and the geometry of its corpus."""
