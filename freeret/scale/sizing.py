"""Time, disk and memory of a corpus, from the throughput that one device measures.

For texts, items/s = tokens/s / tokens per text. Only tokens that pass through the model count: the
shared prefix is computed once per batch. Pictures, clips and sounds go through a processor and a
tower too, so their items/s are measured. A store takes one commit at a time, which bounds the items
that any number of devices can write. For reranking, the items are pairs of query and candidate.
"""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from freeret.embedder import Embedder
from probes import Backbone, Item
from probes.data import paraphrases
from probes.model.batches.prefix import common_prefix
from probes.model.encoding import Row

T = TypeVar("T")
MIN_SECONDS = 1.0
"""Least duration of a measurement in seconds, where there are enough items."""


@dataclass(frozen=True)
class Sizing:
    """Needs of one corpus: the formula. Bytes are plain bytes, not multiples of 1024."""

    items: int
    items_per_second: float
    """Throughput of one device: `freeret check` prints the tokens/s of texts, and the items/s of
    each medium."""
    dimension: int
    payload: int = 250
    """Bytes per item on disk beside its vector: id, hash, text or path, metadata, words."""
    devices: int = 1
    written_per_second: float = math.inf
    """Items that one store takes, from all devices together: `freeret estimate` prints it."""

    @property
    def hours(self) -> float:
        """Of devices that embed while others write."""
        rate = min(self.items_per_second * self.devices, self.written_per_second)
        return self.items / rate / 3600

    @property
    def disk(self) -> int:
        return self.items * (4 * self.dimension + self.payload)

    @property
    def memory(self) -> int:
        """Bytes to search without reading from the disk; one block suffices otherwise."""
        return self.items * 4 * self.dimension


def tokens_per_second(backbone: Backbone) -> float:
    """Throughput of stage 1 on this device, in tokens per second, over the paraphrase set."""
    embedder = Embedder(backbone, "attn[-1]", "prompteol")
    rows = [embedder.rows(Item(row["sentence"])) for row in paraphrases()]
    embedder.encode_rows(rows[:2])  # the first forward traces, and proves the shared prefix

    def embed(chosen: Sequence[list[Row]]) -> int:
        embedder.encode_rows(chosen)
        return computed([row for (row,) in chosen])

    return rate(lambda count: rows[:count], embed, 8, len(rows))


def items_per_second(backbone: Backbone, make: Callable[[int], Item]) -> float:
    """Throughput of stage 1 on this device, in items per second, processor and towers included.

    Args:
        make: Returns a different item for every number, so that none is cached.
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
    """Measure a throughput per second. The count doubles until a measurement is long enough.

    Args:
        some: Returns a number of inputs.
        work: Processes inputs, and returns the amount of work.
        count: The number of inputs to begin with.
        most: The number of inputs at which to end in any case.
    """
    while True:
        chosen = some(count)
        start = time.perf_counter()
        done = work(chosen)
        seconds = time.perf_counter() - start
        if seconds > MIN_SECONDS or count >= most:
            return done / seconds
        count *= 2


def computed(rows: list[Row]) -> int:
    """The number of tokens that pass through the model for these rows, less their shared prefix."""
    shared = len(common_prefix(rows))
    return sum(len(row) - shared for row in rows)
