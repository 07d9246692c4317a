"""How long a corpus takes, and what it occupies: a formula over what one device measures.

    hours  = items · tokens / (tokens/s · devices · 3600)
    disk   = items · (4 · dimension + payload)
    memory = 4 · dimension · items to search without reading, or one block to search from the disk

Tokens are those that pass through the model: what all rows share at their beginning is computed
once a batch and not counted. Reranking is the same formula with query · candidate pairs as items.
"""

import time
from dataclasses import dataclass

from freeret.embedder import Embedder
from probes import Backbone, Item
from probes.data import paraphrases
from probes.encoding import Row
from probes.prefix import common_prefix

ENOUGH = 1.0
"""Seconds that a measurement takes at least, where there are texts enough."""


@dataclass(frozen=True)
class Sizing:
    """Needs of one corpus. Bytes are plain bytes, not multiples of 1024."""

    items: int
    tokens: float
    """A item, its prompt's own included."""
    tokens_per_second: float
    """Of one device, as `freeret check` says."""
    dimension: int
    payload: int = 250
    """Bytes an item on disk beside its vector: id, hash, text or path, metadata."""
    devices: int = 1

    @property
    def hours(self) -> float:
        return self.items * self.tokens / (self.tokens_per_second * self.devices) / 3600

    @property
    def disk(self) -> int:
        return self.items * (4 * self.dimension + self.payload)

    @property
    def memory(self) -> int:
        return self.items * 4 * self.dimension


def tokens_per_second(backbone: Backbone) -> float:
    """Tokens a second that stage 1 embeds here: the project's own sentences, twice as many each
    time until they take long enough."""
    embedder = Embedder(backbone, "attn[-1]", "prompteol")
    rows = [embedder.rows(Item(row["sentence"])) for row in paraphrases()]
    embedder.encode_rows(rows[:2])  # the first forward traces, and proves the shared prefix
    count = 8
    while True:
        chosen = rows[:count]
        start = time.perf_counter()
        embedder.encode_rows(chosen)
        seconds = time.perf_counter() - start
        if seconds > ENOUGH or count >= len(rows):
            return computed([row for (row,) in chosen]) / seconds
        count *= 2


def computed(rows: list[Row]) -> int:
    """Tokens that pass through the model for these rows; what they share does so once."""
    shared = len(common_prefix(rows))
    return sum(len(row) - shared for row in rows)
