"""How long a corpus takes, and what it occupies: a formula over what one device measures.

    hours  = items / (items/s · devices · 3600)
    disk   = items · (4 · dimension + payload)
    memory = 4 · dimension · items to search without reading, or one block to search from the disk

Of texts, items/s = tokens/s / tokens of a text. Tokens are those that pass through the model: what
all rows share at their beginning is computed once a batch and not counted. Pictures, clips and
sounds go through a processor and a tower besides, so their items/s are measured. Reranking is the
same formula with query · candidate pairs as items.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from freeret.embedder import Embedder
from probes import Backbone, Item
from probes.data import paraphrases
from probes.model.encoding import Row
from probes.model.prefix import common_prefix

T = TypeVar("T")
MIN_SECONDS = 1.0
"""Seconds that a measurement takes at least, where there are texts enough."""


@dataclass(frozen=True)
class Sizing:
    """Needs of one corpus. Bytes are plain bytes, not multiples of 1024."""

    items: int
    items_per_second: float
    """Of one device: `freeret check` says the tokens/s of texts, and the items/s of each medium."""
    dimension: int
    payload: int = 250
    """Bytes an item on disk beside its vector: id, hash, text or path, metadata."""
    devices: int = 1

    @property
    def hours(self) -> float:
        return self.items / (self.items_per_second * self.devices) / 3600

    @property
    def disk(self) -> int:
        return self.items * (4 * self.dimension + self.payload)

    @property
    def memory(self) -> int:
        return self.items * 4 * self.dimension


def tokens_per_second(backbone: Backbone) -> float:
    """Tokens a second that stage 1 embeds here: the project's own sentences."""
    embedder = Embedder(backbone, "attn[-1]", "prompteol")
    rows = [embedder.rows(Item(row["sentence"])) for row in paraphrases()]
    embedder.encode_rows(rows[:2])  # the first forward traces, and proves the shared prefix

    def embed(chosen: Sequence[list[Row]]) -> int:
        embedder.encode_rows(chosen)
        return computed([row for (row,) in chosen])

    return rate(lambda count: rows[:count], embed, 8, len(rows))


def items_per_second(backbone: Backbone, make: Callable[[int], Item]) -> float:
    """Items a second that stage 1 embeds here, processor and towers included.

    Args:
        backbone: The backbone.
        make: Gives another item for every number, so that none is found in a cache.
    """
    embedder = Embedder(backbone, "attn[-1]", "prompteol")
    numbers = itertools.count()

    def embed(chosen: Sequence[Item]) -> int:
        embedder.encode(chosen)
        return len(chosen)

    embed([make(next(numbers))])
    return rate(lambda count: [make(next(numbers)) for _ in range(count)], embed, 1, 256)


def rate(
    some: Callable[[int], Sequence[T]], work: Callable[[Sequence[T]], int], count: int, most: int
) -> float:
    """Work a second: `work` is done on `some(count)` and says how much it was; the count doubles
    until that takes long enough."""
    while True:
        chosen = some(count)
        start = time.perf_counter()
        done = work(chosen)
        seconds = time.perf_counter() - start
        if seconds > MIN_SECONDS or count >= most:
            return done / seconds
        count *= 2


def computed(rows: list[Row]) -> int:
    """Tokens that pass through the model for these rows; what they share does so once."""
    shared = len(common_prefix(rows))
    return sum(len(row) - shared for row in rows)
