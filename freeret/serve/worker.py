"""The worker: one thread that owns the model, with a queue of calls.

Calls that queue up while the model is busy are batched: those with an equal function share one call
of that function, so that the texts of many callers share forwards.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from probes.errors import FreeRetError

Work = Callable[[list[Any]], Sequence[Any]]
"""Maps the payloads of several callers to a result, or an error, for each. Equal functions are
called once for all their callers."""


class QueueFull(FreeRetError):
    """The server processes or queues as many requests as its limit allows."""


class ShuttingDown(FreeRetError):
    """The server is stopping and admits no more requests."""


class Worker:
    """Start with `start`, stop with `stop`; `submit` and `admitted` are for the event loop.

    Args:
        limit: Maximum number of active and waiting requests.
    """

    def __init__(self, limit: int):
        self.limit, self.requests = limit, 0
        self._waiting: deque[tuple[Work, Any, Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._closed = self._stopped = False
        self._thread = threading.Thread(target=self._run, name="freeret-worker")

    def start(self) -> None:
        self._thread.start()

    def refuse(self) -> None:
        """Admit no more requests; admitted ones are finished. Safe in signal handlers."""
        self._closed = True

    def stop(self) -> None:
        """`refuse`, finish the queue, and wait for the thread to end."""
        self.refuse()
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count one request while it is served. Raises QueueFull, ShuttingDown."""
        if self._closed:
            raise ShuttingDown("the server is shutting down")
        if self.requests >= self.limit:
            raise QueueFull(f"{self.limit} requests are in progress or waiting; try again later")
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    async def submit(self, work: Work, payload: Any) -> Any:
        """Queue a call and wait for its result; a call that is cancelled in the queue is dropped.

        Raises:
            Exception: `work` raised it, or returned it for this payload.
        """
        future: Future[Any] = Future()
        with self._changed:
            self._waiting.append((work, payload, future))
            self._changed.notify()
        return await asyncio.wrap_future(future)

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            work, calls = batch
            _serve(work, calls)

    def _next(self) -> tuple[Work, list[tuple[Any, "Future[Any]"]]] | None:
        """The function that has waited longest, with all queued calls of equal functions."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            if not self._waiting:
                return None
            work = self._waiting[0][0]
            calls = [entry[1:] for entry in self._waiting if entry[0] == work]
            self._waiting = deque(entry for entry in self._waiting if entry[0] != work)
        return work, [call for call in calls if call[1].set_running_or_notify_cancel()]


def _serve(work: Work, calls: list[tuple[Any, "Future[Any]"]]) -> None:
    """Call `work` once for all callers; if that fails, once for each, so that no caller gets the
    error of another."""
    if not calls:
        return
    try:
        results = work([payload for payload, _ in calls])
    except Exception as error:
        if len(calls) > 1:
            for call in calls:
                _serve(work, [call])
            return
        results = [error]
    for (_, future), result in zip(calls, results, strict=True):
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
