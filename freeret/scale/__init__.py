"""Large corpora: Ray, shards, and estimates of time and space."""

from typing import Literal

Engine = Literal["local", "ray"]
"""Where indexing and evaluation run: in this process, or on actors of Ray."""
