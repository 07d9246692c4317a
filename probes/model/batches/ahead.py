"""Rows made ahead of the model: in threads, in order, and never more than fit in memory.

While the model computes one block of rows, the next are read, decoded, processed and tokenised.
Those release the interpreter's lock for most of their time, so that threads suffice.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from probes.media.towers import to_host
from probes.model.backbone import Backbone
from probes.model.batches.cost import budget
from probes.model.encoding import Row

T = TypeVar("T")
R = TypeVar("R")

WAITING = 1024
"""Most results that wait for the model."""
WAITING_BYTES = 2**28
"""Most bytes of media in the results that wait, and in a block of rows."""
BATCHES = 16
"""Batches in a block of rows: enough that rows of like lengths meet."""
BLOCK_TOKENS = 2**16
"""Most tokens of a block: while the first is computed, the rows of the next are made."""


def ahead(
    function: Callable[[T], R],
    values: Iterable[T],
    *,
    nbytes: Callable[[R], int] = lambda result: 0,
    threads: int | None = None,
) -> Generator[R, None, None]:
    """Map in threads, ahead of whoever reads the results, in the order of the values.

    Args:
        function: Called in several threads at once, outside of every lock.
        values: Read by the thread that asks for results.
        nbytes: Bytes that a result holds while it waits.
        threads: Their number; by default that of torch, which an actor sets to its share of cores.

    Yields:
        The result for each value.

    Raises:
        What `function` raises, at the place of the value; what waits behind it is dropped. What
        `values` raise comes after the results of all values before it.
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

    broken: list[Exception] = []

    def given() -> Iterator[T]:
        try:
            yield from values
        except Exception as error:  # after the results of the values that came before
            broken.append(error)

    waiting: deque[tuple[int, Future[R]]] = deque()
    own = torch.get_num_threads()
    with ThreadPoolExecutor(threads or own, initializer=_single, initargs=(own,)) as pool:
        try:
            for place, value in enumerate(given()):
                waiting.append((place, pool.submit(work, place, value)))
                if len(waiting) == WAITING:
                    yield first()
            while waiting:
                yield first()
            if broken:
                raise broken[0]
        finally:
            with gate:
                wanted = math.inf
                gate.notify_all()
            pool.shutdown(cancel_futures=True)


def _single(own: int) -> None:
    """Start no threads of torch beneath this one. The number that is set holds for this thread and
    for threads that have not started yet, for which another thread sets it back."""
    torch.get_num_threads()  # the first call in a thread sets it to that of the process
    torch.set_num_threads(1)
    restoring = threading.Thread(target=torch.set_num_threads, args=(own,))
    restoring.start()
    restoring.join()


def row_blocks(
    backbone: Backbone, values: Iterable[T], rows: Callable[[T], Sequence[Row]]
) -> Iterator[list[T]]:
    """Cut a stream of values, which have rows, into blocks of about BATCHES batches, or of
    WAITING_BYTES of media. A block holds at least one value."""
    most = min(BATCHES * budget(backbone), BLOCK_TOKENS)
    block: list[T] = []
    tokens, held, media = 0, 0, set[str]()  # a medium that several rows hold is in memory once
    for value in values:
        block.append(value)
        for row in rows(value):
            tokens += len(row)
            for piece in row.media:
                held += 0 if piece.key in media else piece.processed.size
                media.add(piece.key)
        if tokens >= most or held >= WAITING_BYTES:
            yield block
            block, tokens, held, media = [], 0, 0, set()
    if block:
        yield block


def media_bytes(rows: Sequence[Row]) -> int:
    """Bytes of the media of rows."""
    return sum(row.nbytes for row in rows)


def blockwise(
    backbone: Backbone,
    make: Callable[[T], Sequence[Row]],
    values: Sequence[T],
    run: Callable[[list[Sequence[Row]], str | None], Tensor],
    progress: str | None = None,
) -> Tensor:
    """Make rows ahead of the model, and run it over them block by block.

    Args:
        backbone: The model.
        make: Makes the rows of a value, in several threads at once.
        values: The values.
        run: Results for the rows of several values, one for each value along axis 0, on any device;
            it is given the label of a progress bar over them. Those of a block are waited for when
            the next one has been started.
        progress: Label of the bar over all values, which appears after two seconds.

    Returns:
        The results of all values, in their order, on the CPU.
    """
    results, started = list[Tensor](), deque[Callable[[], Tensor]]()
    with tqdm(
        total=len(values), desc=progress, unit="item", disable=progress is None, delay=2, leave=None
    ) as bar:
        made = ahead(make, values, nbytes=media_bytes)
        for block in row_blocks(backbone, made, lambda rows: rows):
            started.append(to_host(run(block, progress and "this block")))
            if len(started) > 1:
                results.append(started.popleft()())
            bar.update(len(block))
    results += [copied() for copied in started]
    return torch.cat(results) if results else run([], None)
