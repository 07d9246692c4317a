"""Rows made ahead of the model: in threads, in order, and never more than fit in memory.

While the model computes one block of rows, the next are read, decoded, processed and tokenised.
Those release the interpreter's lock for most of their time, so that threads suffice.
"""

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from probes.model.backbone import Backbone
from probes.model.batches.cost import TOKEN_BUDGET
from probes.model.encoding import Row

T = TypeVar("T")
R = TypeVar("R")

WAITING = 256
"""Most results that wait for the model."""
WAITING_BYTES = 2**28
"""Most bytes of media in the results that wait, and in a block of rows."""
BATCHES = 16
"""Batches in a block of rows: enough that rows of like lengths meet."""


def ahead(
    function: Callable[[T], R],
    values: Iterable[T],
    *,
    nbytes: Callable[[R], int] = lambda result: 0,
    threads: int | None = None,
) -> Iterator[R]:
    """Map in threads, ahead of whoever reads the results, in the order of the values.

    Args:
        function: Called in several threads at once, outside of every lock.
        values: Read by the thread that asks for results.
        nbytes: Bytes that a result holds while it waits.
        threads: Their number; by default one for each core that this process may use.

    Yields:
        The result for each value.

    Raises:
        What `function` raises, at the place of the value; what waits behind it is dropped.
    """
    gate = threading.Condition()
    held, wanted = 0, 0.0  # bytes that wait; the place of the result that is asked for

    def work(place: int, value: T) -> R:
        nonlocal held
        with gate:
            gate.wait_for(lambda: held < WAITING_BYTES or place <= wanted)
        result = function(value)
        with gate:
            held += nbytes(result)
        return result

    def first() -> R:
        nonlocal held, wanted
        place, future = waiting.popleft()
        with gate:
            wanted = place
            gate.notify_all()
        result = future.result()
        with gate:
            held -= nbytes(result)
            gate.notify_all()
        return result

    waiting: deque[tuple[int, Future[R]]] = deque()
    with ThreadPoolExecutor(threads or cores()) as pool:
        try:
            for place, value in enumerate(values):
                waiting.append((place, pool.submit(work, place, value)))
                if len(waiting) == WAITING:
                    yield first()
            while waiting:
                yield first()
        finally:
            with gate:
                wanted = math.inf
                gate.notify_all()
            pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def row_blocks(
    backbone: Backbone, values: Iterable[T], rows: Callable[[T], Iterable[Row]]
) -> Iterator[list[T]]:
    """Cut a stream into blocks of about BATCHES batches, or WAITING_BYTES of media.

    Args:
        backbone: The model, whose token budget is the size of a batch.
        values: Anything that has rows.
        rows: The rows of a value.

    Yields:
        Consecutive values; a lone one that exceeds a bound is a block by itself.
    """
    tokens = BATCHES * (backbone.loading.token_budget or TOKEN_BUDGET)
    block: list[T] = []
    length = held = 0
    for value in values:
        block.append(value)
        length += sum(len(row) for row in rows(value))
        held += sum(row.nbytes for row in rows(value))
        if length >= tokens or held >= WAITING_BYTES:
            yield block
            block, length, held = [], 0, 0
    if block:
        yield block
